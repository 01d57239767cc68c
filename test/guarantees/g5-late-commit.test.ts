import { Client } from 'pg';
import { describe, expect, test } from 'vitest';
import { createTestDatabase } from '#test/support/database.ts';
import { skipReason } from '#test/support/infra.ts';
import { createTestTopic, readTopic } from '#test/support/kafka.ts';
import { eventually } from '#test/support/poll.ts';
import { faultsOf, isComplete } from '../outbox/delivery.ts';
import {
  createTestRelay,
  eventsOf,
  insertEvents,
  testPublisher,
} from '../outbox/outbox-fixture.ts';
import { writeInRace } from '../outbox/racing-writers.ts';

describe.skipIf(skipReason('kafka') ?? skipReason('postgres'))('G5 with late commits', () => {
  test('an event that commits after many later ones were published is not lost', async () => {
    await using db = await createTestDatabase();
    await using topic = await createTestTopic();
    await using relay = createTestRelay({
      url: db.url,
      topic: topic.name,
      publisher: testPublisher(topic.brokers),
    });
    const late = new Client({ connectionString: db.url });
    await late.connect();
    await late.query('begin');
    await insertEvents(late, topic.name, eventsOf(['late'], 2));
    relay.start();
    for (let version = 1; version <= 20; version += 1) {
      await insertEvents(db, topic.name, [{ key: 'early', version }]);
      await eventually(() => relay.counts.published === version);
      await relay.monitor.refresh();
    }
    await late.query('commit');
    await insertEvents(db, topic.name, [{ key: 'late', version: 3 }]);
    await late.end();
    const expected = new Map([
      ['early', 20],
      ['late', 3],
    ]);
    const messages = await readTopic(topic.name, { until: (all) => isComplete(all, expected) });
    expect(faultsOf(messages, expected)).toEqual([]);
  });

  test('events of many transactions at once all arrive, in order', async () => {
    await using db = await createTestDatabase();
    await using topic = await createTestTopic(3);
    await using relay = createTestRelay({
      url: db.url,
      topic: topic.name,
      publisher: testPublisher(topic.brokers),
    });
    relay.start();
    const race = { writers: 8, keysEach: 6, versions: 30, onCommit: relay.relay.wake };
    const expected = await writeInRace({ url: db.url, topic: topic.name, ...race });
    const messages = await readTopic(topic.name, { until: (all) => isComplete(all, expected) });
    expect(faultsOf(messages, expected)).toEqual([]);
  });
});
