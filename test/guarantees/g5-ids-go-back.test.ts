import { describe, expect, test } from 'vitest';
import { createTestDatabase } from '#test/support/database.ts';
import type { TestDatabase } from '#test/support/database.ts';
import { skipReason } from '#test/support/infra.ts';
import { createTestTopic, readTopic } from '#test/support/kafka.ts';
import { eventually } from '#test/support/poll.ts';
import { faultsOf, isComplete, duplicatesIn } from '../outbox/delivery.ts';
import {
  createTestRelay,
  eventsOf,
  insertEvents,
  newKeys,
  testPublisher,
} from '../outbox/outbox-fixture.ts';

/*
 * Logical replication does not copy sequences, `setval` can set them to any value, and a standby may lag. So
 * the ids of the outbox may go back at any time.
 */
const beginAnew = (db: TestDatabase) => db.query(`select setval('outbox_events_id_seq', 1, false)`);
const isEmpty = async (db: TestDatabase) =>
  (await db.query('select from outbox_events limit 1')).length === 0;

describe.skipIf(skipReason('kafka') ?? skipReason('postgres'))('G5 when ids go back', () => {
  test('events with ids below the published ones are published, in order', async () => {
    await using db = await createTestDatabase();
    await using topic = await createTestTopic(3);
    const keys = newKeys(50);
    await using relay = createTestRelay({
      url: db.url,
      topic: topic.name,
      publisher: testPublisher(topic.brokers),
    });
    relay.start();
    const versions = eventsOf(keys, 30);
    await insertEvents(db, topic.name, versions.slice(0, keys.length * 20));
    await eventually(() => relay.monitor.lowestId() >= keys.length * 20);
    await beginAnew(db);
    for (let version = 20; version < 30; version += 1) {
      await insertEvents(
        db,
        topic.name,
        versions.slice(keys.length * version).slice(0, keys.length),
      );
      relay.relay.wake();
    }
    await eventually(() => isEmpty(db));
    const expected = new Map(keys.map((key) => [key, 30]));
    const messages = await readTopic(topic.name, { until: (all) => isComplete(all, expected) });
    expect(faultsOf(messages, expected)).toEqual([]);
    expect(duplicatesIn(messages)).toBe(0);
  });

  test('later versions with lower ids wait for the earlier ones', async () => {
    await using db = await createTestDatabase();
    await using topic = await createTestTopic(3);
    const keys = newKeys(40);
    const publisher = testPublisher(topic.brokers);
    let isAway = false;
    await using relay = createTestRelay({
      url: db.url,
      topic: topic.name,
      publisher: {
        ...publisher,
        publish: async (request) =>
          isAway ? { kind: 'unknown', reason: 'Kafka is away' } : publisher.publish(request),
      },
      settings: { roundRowsMax: 50 }, // fewer than wait
    });
    relay.start();
    const versions = eventsOf(keys, 6);
    const before = newKeys(500);
    await insertEvents(db, topic.name, eventsOf(before, 1));
    await eventually(() => relay.monitor.lowestId() >= 500);
    isAway = true;
    await insertEvents(db, topic.name, versions.slice(0, keys.length * 3));
    await eventually(() => relay.relay.status().lastError === 'Kafka is away');
    await beginAnew(db);
    await insertEvents(db, topic.name, versions.slice(keys.length * 3));
    isAway = false;
    await eventually(() => isEmpty(db));
    const expected = new Map([
      ...before.map((key) => [key, 1] as const),
      ...keys.map((key) => [key, 6] as const),
    ]);
    const messages = await readTopic(topic.name, { until: (all) => isComplete(all, expected) });
    expect(faultsOf(messages, expected)).toEqual([]);
  });
});
