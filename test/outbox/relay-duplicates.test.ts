import { describe, expect, test } from 'vitest';
import type { Lease } from '#src/outbox/lease.ts';
import { createOutboxStore, relayLease } from '#src/outbox/outbox-store.ts';
import { messageFrom } from '#src/outbox/outbox.ts';
import type { OutboxRow, Publisher } from '#src/outbox/outbox.ts';
import { relayDefaults, runRound } from '#src/outbox/relay.ts';
import { createTestDatabase } from '#test/support/database.ts';
import { startFaultyKafka } from '#test/support/faulty-servers.ts';
import { skipReason } from '#test/support/infra.ts';
import { createTestTopic, readTopic, testBrokers } from '#test/support/kafka.ts';
import { eventually } from '#test/support/poll.ts';
import { faultsOf, isComplete, duplicatesIn } from './delivery.ts';
import {
  createChangingTopic,
  createTestRelay,
  eventsOf,
  insertEvents,
  isEmpty,
  leaseOf,
  newKeys,
  newLeader,
  roundParts,
  servicePool,
  testPublishers,
} from './outbox-fixture.ts';

/*
 * Order does not depend on the rules that are tested here. Without them events would be sent many times
 * when leaders change, but never out of order. These tests limit how often an event is in the topic.
 */
/** Counts how often the leader checked the topic, how many sends it started and how many ended. */
function counting(publisher: Publisher) {
  const counts = { looks: 0, sends: 0, outcomes: 0 };
  return {
    counts,
    publisher: {
      ...publisher,
      openTopic: async (topic: string) => {
        const limits = await publisher.openTopic(topic);
        counts.looks += 1;
        return limits;
      },
      publish: async (request) => {
        counts.sends += 1;
        const outcome = await publisher.publish(request);
        counts.outcomes += 1;
        return outcome;
      },
    } satisfies Publisher,
  };
}

const publishers = await testPublishers();

describe.skipIf(skipReason('kafka') ?? skipReason('postgres')).each(publishers)(
  'an event is sent once, with $client',
  ({ testPublisher }) => {
    test('when the lease of a leader is shorter than a send may take: the next leader sends', async () => {
      await using db = await createTestDatabase();
      await using topic = await createTestTopic();
      const { counts, publisher } = counting(testPublisher(topic.brokers));
      const of = { url: db.url, topic: topic.name };
      await using ending = createTestRelay({
        ...of,
        publisher,
        settings: { leaseTtlMs: 600_000, sendTimeoutMs: 600_001 },
      });
      ending.start();
      await insertEvents(db, topic.name, eventsOf(['key'], 3));
      await eventually(() => counts.looks >= 4); // it leads, and has run rounds
      expect(counts.sends).toBe(0);
      await using next = createTestRelay({ ...of, publisher: testPublisher(topic.brokers) });
      next.start();
      await ending.relay.stop();
      await eventually(() => isEmpty(db));
      const expected = new Map([['key', 3]]);
      const messages = await readTopic(topic.name, { until: (all) => isComplete(all, expected) });
      expect(duplicatesIn(messages)).toBe(0);
    });

    test('when the lease is about to end while a refused batch is halved', async () => {
      await using db = await createTestDatabase();
      await using service = servicePool(db.url);
      const brokers = await testBrokers();
      await using topic = await createChangingTopic(brokers, 10_000);
      const keys = newKeys(8);
      const events = eventsOf(keys, 1).map((event) =>
        event.key === keys[5] ? { key: event.key, version: 1, payload: 'x'.repeat(20_000) } : event,
      );
      await insertEvents(db, topic.name, events);
      await db.query(
        `insert into leases values ($1, gen_random_uuid(), 1, clock_timestamp() + interval '1 h')`,
        [relayLease(topic.name)],
      );
      const publisher = testPublisher(brokers);
      const run = (current: Lease['current']) =>
        runRound(
          roundParts({
            topic: topic.name,
            lease: leaseOf(current),
            settings: { ...relayDefaults, sendTimeoutMs: 60_000, roundTimeoutMs: 60_000 },
            store: createOutboxStore(service.pool, topic.name),
            publisher,
          }),
          newLeader({ partitions: 1, batchBytesMax: 1_000_000 }),
          new AbortController().signal,
        );
      let asked = 0;
      const ending = run(() => {
        asked += 1;
        return { epoch: 1, remainingMs: asked === 1 ? 60_001 : 60_000 };
      });
      await expect(ending).resolves.toBe(0);
      expect(asked).toBe(2);
      await expect(run(() => ({ epoch: 1, remainingMs: Infinity }))).resolves.toBe(7);
      const good = new Map(keys.filter((key) => key !== keys[5]).map((key) => [key, 1]));
      const messages = await readTopic(topic.name, { until: (all) => isComplete(all, good) });
      expect(faultsOf(messages, good)).toEqual([]);
      expect(duplicatesIn(messages)).toBe(0);
      await publisher.close();
    });

    test('when a leader loses its lease during a send and takes it again', async () => {
      await using db = await createTestDatabase();
      await using topic = await createTestTopic();
      const { counts, publisher } = counting(testPublisher(topic.brokers));
      const sending = Promise.withResolvers<void>();
      const released = Promise.withResolvers<void>();
      let isFirst = true;
      await using relay = createTestRelay({
        url: db.url,
        topic: topic.name,
        publisher: {
          ...publisher,
          publish: async (request) => {
            if (isFirst) {
              isFirst = false;
              sending.resolve();
              await released.promise;
            }
            return publisher.publish(request);
          },
        },
      });
      relay.start();
      await insertEvents(db, topic.name, eventsOf(['key'], 3));
      await sending.promise;
      await db.query('update leases set expires_at = clock_timestamp()');
      await eventually(() => relay.relay.status().epoch === 2);
      const { looks } = counts;
      await eventually(() => counts.looks >= looks + 3); // the new epoch has run rounds
      released.resolve();
      await eventually(() => isEmpty(db));
      await insertEvents(db, topic.name, [{ key: 'key', version: 4 }]);
      const expected = new Map([['key', 4]]);
      const messages = await readTopic(topic.name, { until: (all) => isComplete(all, expected) });
      expect(faultsOf(messages, expected)).toEqual([]);
      expect(duplicatesIn(messages)).toBe(0);
    });

    test('when a leader loses its lease while the broker does not respond', async () => {
      await using kafka = await startFaultyKafka();
      await using db = await createTestDatabase();
      const topic = 'events';
      const { counts, publisher } = counting(testPublisher(kafka.brokers));
      await using relay = createTestRelay({ url: db.url, topic, publisher });
      relay.start();
      await eventually(() => counts.looks >= 1);
      // The producer connects with its first batch, so the broker freezes before anything is sent.
      await kafka.pause();
      await insertEvents(db, topic, eventsOf(['key'], 3));
      await eventually(() => counts.sends === 1);
      const waiting = await db.query<OutboxRow>('select * from outbox_events order by id');
      await db.query('update leases set owner = gen_random_uuid(), epoch = epoch + 1');
      await eventually(() => relay.relay.status().mode === 'standby');
      await kafka.resume();
      // This is what the new leader does.
      const next = testPublisher(kafka.brokers);
      const sent = await next.publish({
        topic,
        partition: 0,
        messages: waiting.map(messageFrom),
        timeoutMs: 60_000,
      });
      expect(sent).toEqual({ kind: 'acked' });
      await eventually(() => counts.outcomes === 1); // the send of the old leader has ended
      const expected = new Map([['key', 3]]);
      await next.publish({ topic, partition: 0, messages: [lastMessage], timeoutMs: 60_000 });
      const messages = await readTopic(topic, {
        brokers: kafka.brokers,
        until: (all) => all.some(({ key }) => key === lastMessage.key),
      });
      await next.close();
      const events = messages.filter(({ key }) => key !== lastMessage.key);
      expect(faultsOf(events, expected)).toEqual([]);
      expect(duplicatesIn(events)).toBe(0);
    });
  },
);

const lastMessage = { key: 'last', value: '', headers: { ce_sequence: '1' } };
