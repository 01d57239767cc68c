import { describe, expect, test } from 'vitest';
import { runOutboxCommand } from '#src/outbox/outbox-commands.ts';
import { partitionFor } from '#src/outbox/outbox.ts';
import type { Publisher } from '#src/outbox/outbox.ts';
import { relayDefaults, runRound } from '#src/outbox/relay.ts';
import { createTestDatabase } from '#test/support/database.ts';
import { skipReason } from '#test/support/infra.ts';
import { createTestTopic, readTopic, testBrokers } from '#test/support/kafka.ts';
import { eventually } from '#test/support/poll.ts';
import { faultsOf, isComplete, duplicatesIn, versionOf } from './delivery.ts';
import type { NewEvent } from './outbox-fixture.ts';
import {
  createChangingTopic,
  createTestRelay,
  eventsOf,
  insertEvents,
  isEmpty,
  newKeys,
  newLeader,
  roundParts,
  row,
  servicePool,
  testPublishers,
} from './outbox-fixture.ts';

const publishers = await testPublishers();

describe.skipIf(skipReason('kafka') ?? skipReason('postgres')).each(publishers)(
  'the relay, with $client',
  ({ testPublisher }) => {
    test('publishes what is in the outbox, each key in order, once, and empties it', async () => {
      await using db = await createTestDatabase();
      await using topic = await createTestTopic(6);
      const keys = newKeys(40);
      const expected = new Map(keys.map((key) => [key, 25]));
      await insertEvents(db, topic.name, eventsOf(keys, 25));
      await using relay = createTestRelay({
        url: db.url,
        topic: topic.name,
        publisher: testPublisher(topic.brokers),
      });
      relay.start();
      const messages = await readTopic(topic.name, { until: (all) => isComplete(all, expected) });
      expect(faultsOf(messages, expected)).toEqual([]);
      expect(duplicatesIn(messages)).toBe(0);
      await eventually(() => isEmpty(db));
      expect(relay.counts).toEqual({ published: 1_000, refused: 0, unknown: 0, leaseChanges: 1 });
      await eventually(async () => (await relay.countedNow()).pendingRows === 0);
      expect(relay.relay.status()).toMatchObject({ mode: 'leading', epoch: 1, parkedKeys: 0 });
    });

    test('sends every column as its header, and the payload unchanged', async () => {
      await using db = await createTestDatabase();
      await using topic = await createTestTopic();
      const payload = '{ "text": "é 💶 \\u0000", "n": 1.10 }';
      await insertEvents(db, topic.name, [{ key: 'the-key', version: 3, payload }]);
      await db.query(`update outbox_events set traceparent = '00-aa-bb-01'`);
      await using relay = createTestRelay({
        url: db.url,
        topic: topic.name,
        publisher: testPublisher(topic.brokers),
      });
      relay.start();
      const [message] = await readTopic(topic.name, { until: (all) => all.length > 0 });
      expect(message).toMatchObject({
        key: 'the-key',
        value: payload,
        headers: {
          ce_specversion: '1.0',
          ce_id: 'the-key:3',
          ce_type: 'order.placed',
          ce_source: '/orders',
          ce_time: '2026-01-02T03:04:05.678Z',
          ce_subject: 'the-key',
          ce_sequence: '0000000003',
          'content-type': 'application/json',
          traceparent: '00-aa-bb-01',
        },
      });
    });

    test('starts without Kafka and without its tables, and works once both are there', async () => {
      await using db = await createTestDatabase();
      await using topic = await createTestTopic();
      await db.query('alter table leases rename to leases_away');
      await insertEvents(db, topic.name, eventsOf(['key'], 1));
      const publisher = testPublisher(topic.brokers);
      let isAway = true;
      await using relay = createTestRelay({
        url: db.url,
        topic: topic.name,
        publisher: {
          ...publisher,
          openTopic: (name) =>
            isAway ? Promise.reject(new Error('Kafka is away')) : publisher.openTopic(name),
        },
      });
      relay.start();
      expect(relay.relay.status()).toMatchObject({ mode: 'standby' });
      await db.query('alter table leases_away rename to leases');
      await eventually(() => relay.relay.status().lastError === 'Error: Kafka is away');
      expect(relay.relay.status()).toMatchObject({ mode: 'leading' });
      isAway = false;
      await eventually(() => isEmpty(db));
      await eventually(() => relay.relay.status().lastError === undefined);
    });

    test('finds events without a wake, and others sooner with one', async () => {
      await using db = await createTestDatabase();
      await using topic = await createTestTopic();
      await using relay = createTestRelay({
        url: db.url,
        topic: topic.name,
        publisher: testPublisher(topic.brokers),
      });
      relay.start();
      await eventually(() => relay.relay.status().mode === 'leading');
      await insertEvents(db, topic.name, eventsOf(['polled'], 1));
      await eventually(() => isEmpty(db));
      await insertEvents(db, topic.name, eventsOf(['woken'], 1));
      relay.relay.wake();
      await eventually(() => isEmpty(db));
      expect(relay.counts.published).toBe(2);
    });

    test('hands the lease over when it stops, with nothing left in flight', async () => {
      await using db = await createTestDatabase();
      await using topic = await createTestTopic(3);
      const keys = newKeys(30);
      const expected = new Map(keys.map((key) => [key, 40]));
      await insertEvents(db, topic.name, eventsOf(keys, 40));
      const create = () =>
        createTestRelay({
          url: db.url,
          topic: topic.name,
          publisher: testPublisher(topic.brokers),
          settings: { batchRowsMax: 20 },
        });
      await using first = create();
      await using second = create();
      first.start();
      await eventually(() => first.counts.published > 0);
      second.start();
      await first.relay.stop();
      await eventually(() => second.relay.status().epoch === 2);
      const messages = await readTopic(topic.name, { until: (all) => isComplete(all, expected) });
      expect(faultsOf(messages, expected)).toEqual([]);
      expect(duplicatesIn(messages)).toBe(0);
    });

    test('stops in bounded time although Kafka never responds', async () => {
      await using db = await createTestDatabase();
      await using topic = await createTestTopic();
      await insertEvents(db, topic.name, eventsOf(['key'], 1));
      const publisher = testPublisher(topic.brokers);
      const sending = Promise.withResolvers<void>();
      await using relay = createTestRelay({
        url: db.url,
        topic: topic.name,
        publisher: {
          ...publisher,
          publish: () => {
            sending.resolve();
            return new Promise(() => {});
          },
        },
        settings: { stopMs: 3_000 },
      });
      relay.start();
      await sending.promise;
      await relay.relay.stop();
      const [lease] = await db.query('select from leases where expires_at > clock_timestamp()');
      expect(lease).toBeUndefined();
    });

    test('stops although the lease cannot be given back', async () => {
      await using db = await createTestDatabase();
      await using topic = await createTestTopic();
      await using relay = createTestRelay({
        url: db.url,
        topic: topic.name,
        publisher: testPublisher(topic.brokers),
      });
      relay.start();
      await eventually(() => relay.relay.status().mode === 'leading');
      await db.query('alter table leases rename to leases_away');
      await expect(relay.relay.stop()).resolves.toBeUndefined();
    });

    test('limits the rows of one request', async () => {
      await using db = await createTestDatabase();
      await using topic = await createTestTopic(2);
      await insertEvents(db, topic.name, eventsOf(newKeys(20), 5));
      const publisher = testPublisher(topic.brokers);
      const sizes: number[] = [];
      await using relay = createTestRelay({
        url: db.url,
        topic: topic.name,
        publisher: {
          ...publisher,
          publish: (request) => {
            sizes.push(request.messages.length);
            return publisher.publish(request);
          },
        },
        settings: { batchRowsMax: 7 },
      });
      relay.start();
      await eventually(() => isEmpty(db));
      expect(Math.max(...sizes)).toBe(7);
      expect(sizes.reduce((sum, size) => sum + size)).toBe(100);
    });

    test('goes on with the other partitions while one is slow, and with all when one fails', async () => {
      await using db = await createTestDatabase();
      await using topic = await createTestTopic(3);
      const keys = newKeys(30);
      const slow = Promise.withResolvers<void>();
      const publisher = testPublisher(topic.brokers);
      let isFailing = true;
      await using relay = createTestRelay({
        url: db.url,
        topic: topic.name,
        publisher: {
          ...publisher,
          publish: async (request) => {
            if (request.partition === 0) await slow.promise;
            if (request.partition === 1 && isFailing) return { kind: 'unknown', reason: 'away' };
            return publisher.publish(request);
          },
        },
      });
      relay.start();
      const left = async () => {
        const rows = await db.query<{ key_hash: number }>('select key_hash from outbox_events');
        return new Set(rows.map((row) => partitionFor(row.key_hash, 3)));
      };
      for (const version of [1, 2, 3]) {
        await insertEvents(db, topic.name, eventsOf(keys, version).slice(-keys.length));
        await eventually(async () => !(await left()).has(2));
        expect(await left()).toEqual(new Set([0, 1]));
      }
      expect(relay.relay.status().lastError).toBe('away');
      isFailing = false;
      await eventually(async () => !(await left()).has(1));
      slow.resolve();
      await eventually(() => isEmpty(db));
      expect(relay.relay.status().lastError).toBeUndefined();
      const expected = new Map(keys.map((key) => [key, 3]));
      const messages = await readTopic(topic.name, { until: (all) => isComplete(all, expected) });
      expect(faultsOf(messages, expected)).toEqual([]);
    });

    test('leaves everything to others when it is off', async () => {
      await using db = await createTestDatabase();
      await insertEvents(db, 'any', eventsOf(['key'], 2));
      await using relay = createTestRelay({ url: db.url, topic: 'any', publisher: undefined });
      relay.start();
      relay.relay.wake();
      await eventually(async () => (await relay.countedNow()).pendingRows === 2);
      expect(relay.relay.status().mode).toBe('off');
      await expect(db.query('select from leases')).resolves.toEqual([]);
    });

    test('leaves events for other topics alone', async () => {
      await using db = await createTestDatabase();
      await using topic = await createTestTopic();
      await insertEvents(db, 'other', eventsOf(['key'], 1));
      await insertEvents(db, topic.name, eventsOf(['key'], 1));
      await using relay = createTestRelay({
        url: db.url,
        topic: topic.name,
        publisher: testPublisher(topic.brokers),
      });
      relay.start();
      await eventually(() => relay.counts.published > 0);
      await eventually(async () => (await db.query('select from outbox_events')).length === 1);
      const left = await db.query('select topic from outbox_events');
      expect(left).toEqual([{ topic: 'other' }]);
    });
  },
);

/** Hides the limit of the topic: if the relay knew it, a message that is too large would be alone in its batch. */
function unawareOfLimit(publisher: Publisher): Publisher {
  return { ...publisher, openTopic: async () => ({ partitions: 1, batchBytesMax: 1_048_588 }) };
}

/** The events, some with a payload above 10,000 bytes. */
function enlarged(events: readonly NewEvent[], isTooLarge: (event: NewEvent) => boolean) {
  const payload = 'x'.repeat(20_000);
  return events.map((event) =>
    isTooLarge(event) ? { key: event.key, version: event.version, payload } : event,
  );
}

describe.skipIf(skipReason('kafka') ?? skipReason('postgres')).each(publishers)(
  'a message that Kafka refuses, with $client',
  ({ testPublisher }) => {
    test('parks its key, and nothing else, until an operator has it retried', async () => {
      await using db = await createTestDatabase();
      await using service = servicePool(db.url);
      const brokers = await testBrokers();
      await using topic = await createChangingTopic(brokers, 10_000);
      const others = newKeys(30);
      const keys = ['parked', ...others];
      const events = eventsOf(keys, 5);
      const withTooLarge = enlarged(
        events,
        ({ key, version }) => key === 'parked' && version === 3,
      );
      await insertEvents(db, topic.name, withTooLarge);
      await using relay = createTestRelay({
        url: db.url,
        topic: topic.name,
        publisher: testPublisher(brokers),
      });
      relay.start();
      await eventually(async () => {
        const left = await db.query(
          'select message_key, stream_version from outbox_events order by id',
        );
        expect(left).toEqual([3, 4, 5].map((v) => ({ message_key: 'parked', stream_version: v })));
      });
      await eventually(async () => (await relay.countedNow()).parkedKeys === 1);
      const parked = await db.query('select message_key, ce_id, reason, epoch from outbox_parked');
      expect(parked).toEqual([
        { message_key: 'parked', ce_id: 'parked:3', reason: 'MESSAGE_TOO_LARGE', epoch: 1 },
      ]);

      await topic.setLimit(1_000_000);
      await expect(runOutboxCommand(['retry', 'parked'], service.pool, () => {})).resolves.toBe(0);
      const expected = new Map(keys.map((key) => [key, 5]));
      const messages = await readTopic(topic.name, { until: (all) => isComplete(all, expected) });
      expect(faultsOf(messages, expected)).toEqual([]);
      await eventually(() => isEmpty(db));
    });

    test('is parked again when nothing changed, and skipped when an operator says so', async () => {
      await using db = await createTestDatabase();
      await using service = servicePool(db.url);
      const brokers = await testBrokers();
      await using topic = await createChangingTopic(brokers, 10_000);
      await insertEvents(
        db,
        topic.name,
        enlarged(eventsOf(['key'], 3), ({ version }) => version === 2),
      );
      await using relay = createTestRelay({
        url: db.url,
        topic: topic.name,
        publisher: testPublisher(brokers),
      });
      relay.start();
      const parkedAt = async () => {
        const [row] = await db.query<{ parked_at: Date }>('select parked_at from outbox_parked');
        return row?.parked_at.getTime() ?? 0;
      };
      let first = 0;
      await eventually(async () => {
        first = await parkedAt();
        return first > 0;
      });
      await runOutboxCommand(['retry', 'key'], service.pool, () => {});
      await eventually(async () => (await parkedAt()) > first);
      await runOutboxCommand(['skip', '2', '--reason', 'too large'], service.pool, () => {});
      await eventually(() => isEmpty(db));
      const messages = await readTopic(topic.name, {
        until: (all) => all.some((message) => versionOf(message) === 3),
      });
      expect(messages.map(versionOf)).toEqual([1, 3]);
    });

    test('is found among good ones in a batch, and only its key is parked', async () => {
      await using db = await createTestDatabase();
      const brokers = await testBrokers();
      await using topic = await createChangingTopic(brokers, 10_000);
      const bad = newKeys(4);
      const good = newKeys(20);
      const events = eventsOf([...good.slice(0, 10), ...bad, ...good.slice(10)], 3);
      const isTooLarge = ({ key, version }: NewEvent) => bad.includes(key) && version === 2;
      await insertEvents(db, topic.name, enlarged(events, isTooLarge));
      await using relay = createTestRelay({
        url: db.url,
        topic: topic.name,
        publisher: unawareOfLimit(testPublisher(brokers)),
      });
      relay.start();
      const expected = new Map([
        ...good.map((key) => [key, 3] as const),
        ...bad.map((key) => [key, 1] as const),
      ]);
      const messages = await readTopic(topic.name, { until: (all) => isComplete(all, expected) });
      expect(faultsOf(messages, expected)).toEqual([]);
      await eventually(async () => (await db.query('select from outbox_events')).length === 8);
      await expect(db.query('select from outbox_parked')).resolves.toHaveLength(4);
      expect(relay.counts.published).toBe(64);
    });
  },
);

describe.skipIf(skipReason('kafka') ?? skipReason('postgres')).each(publishers)(
  'a topic whose partitions change, with $client',
  ({ testPublisher }) => {
    test('stops the relay until an operator accepts', async () => {
      await using db = await createTestDatabase();
      await using service = servicePool(db.url);
      const brokers = await testBrokers();
      await using topic = await createChangingTopic(brokers, 1_000_000);
      const publisher = testPublisher(brokers);
      let topicChecks = 0;
      await using relay = createTestRelay({
        url: db.url,
        topic: topic.name,
        publisher: {
          ...publisher,
          openTopic: (name) => {
            topicChecks += 1;
            return publisher.openTopic(name);
          },
        },
      });
      await insertEvents(db, topic.name, eventsOf(newKeys(5), 1));
      relay.start();
      await eventually(() => isEmpty(db));

      await topic.growTo(4);
      await eventually(() => relay.relay.status().mode === 'stopped');
      expect(relay.relay.status().stoppedReason).toBe('partitions_changed');
      let checksBefore = topicChecks;
      await eventually(() => topicChecks >= checksBefore + 3); // the round that was running has ended
      const keys = newKeys(20);
      const { published } = relay.counts;
      await insertEvents(db, topic.name, eventsOf(keys, 1));
      checksBefore = topicChecks;
      await eventually(() => topicChecks >= checksBefore + 3); // a relay that leads has run rounds
      await eventually(async () => (await relay.countedNow()).pendingRows === 20);
      expect(relay.counts.published).toBe(published);

      const said: string[] = [];
      const code = await runOutboxCommand(['accept-partitions', topic.name], service.pool, (text) =>
        said.push(text),
      );
      expect({ code, said }).toEqual({
        code: 0,
        said: [`topic ${topic.name}: 1 partitions before, 4 from now on`],
      });
      await eventually(() => isEmpty(db));
      expect(relay.relay.status().mode).toBe('leading');
      const messages = await readTopic(topic.name, {
        until: (all) => keys.every((key) => all.some((message) => message.key === key)),
      });
      expect(new Set(messages.map(({ partition }) => partition)).size).toBeGreaterThan(1);
    });
  },
);

describe.skipIf(skipReason('kafka') ?? skipReason('postgres')).each(publishers)(
  'a topic that is deleted, with $client',
  ({ testPublisher }) => {
    test('is created again, and gets what is published from then on', async () => {
      await using db = await createTestDatabase();
      const brokers = await testBrokers();
      await using topic = await createChangingTopic(brokers, 1_000_000);
      const { name } = topic;
      await using relay = createTestRelay({
        url: db.url,
        topic: name,
        publisher: testPublisher(brokers),
      });
      await insertEvents(db, name, eventsOf(['key'], 2));
      relay.start();
      await eventually(() => isEmpty(db));
      await topic.untilCreatedAgain();
      await insertEvents(db, name, [{ key: 'key', version: 3 }]);
      const messages = await readTopic(name, { until: (all) => all.length > 0 });
      expect(messages.map(versionOf)).toEqual([3]);
      await eventually(() => isEmpty(db));
    });
  },
);

const PARTITIONS = 3;
/** A rest that lasts longer than the test, whatever chance makes of it. */
const LONG_REST = { baseMs: 1e12, maxMs: 1e12 };

test('a leader reads nothing while no partition is available', async () => {
  const excluded: (readonly number[])[] = [];
  const relay = roundParts({
    settings: { ...relayDefaults, backoff: LONG_REST, roundIntervalMs: 0 },
    store: {
      waiting: async (window) => {
        excluded.push(window.excluded);
        const id = excluded.length - 1;
        return [row(id, id, 2)]; // of one partition after the other
      },
    },
    publisher: { publish: async () => ({ kind: 'unknown', reason: 'Kafka is away' }) },
  });
  const leader = newLeader({ partitions: PARTITIONS, batchBytesMax: 1_000_000 });
  for (let round = 0; round < 6; round += 1) {
    await runRound(relay, leader, new AbortController().signal);
  }
  // With a filter that no row passes, the whole backlog would be scanned again and again.
  expect(excluded).toEqual([[], [0], [0, 1]]);
  const reasons = [...leader.failing.values()].map(({ reason }) => reason);
  expect(new Set(reasons)).toEqual(new Set(['Kafka is away']));
});
