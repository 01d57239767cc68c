import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { runOutboxCommand } from '#src/outbox/outbox-commands.ts';
import { createTestDatabase } from '#test/support/database.ts';
import type { TestDatabase } from '#test/support/database.ts';
import { startFaultyKafka } from '#test/support/faulty-servers.ts';
import { skipReason } from '#test/support/infra.ts';
import { createTestTopic, readTopic, testBrokers } from '#test/support/kafka.ts';
import { eventually } from '#test/support/poll.ts';
import { faultsOf, isComplete, duplicatesIn } from '../outbox/delivery.ts';
import {
  createChangingTopic,
  createTestRelay,
  eventsOf,
  hurried,
  insertEvents,
  newKeys,
  servicePool,
  testPublisher,
} from '../outbox/outbox-fixture.ts';
import type { NewEvent } from '../outbox/outbox-fixture.ts';
import {
  goingOnPastFailure,
  lockingOutsideTransaction,
  markingWhateverHappened,
  orderingByTimestamp,
  textbookProducer,
} from './textbook-relays.ts';

const isEmpty = async (db: TestDatabase) =>
  (await db.query('select from outbox_events limit 1')).length === 0;

/** Servers are stopped and started, processes killed, on machines that may be busy. */
const slow = { timeout: 600_000 };

describe.skipIf(skipReason('kafka') ?? skipReason('postgres'))('the textbook relay', slow, () => {
  describe('locks rows outside a transaction, so that two relays publish each', () => {
    const keys = newKeys(10);
    const expected = new Map(keys.map((key) => [key, 5]));

    test('and the check sees it', async () => {
      await using db = await createTestDatabase();
      await using topic = await createTestTopic();
      await using textbook = await textbookProducer(topic.brokers);
      await insertEvents(db, topic.name, eventsOf(keys, 5));
      const parts = { db, topic: topic.name, producer: textbook.producer };
      const [first, second] = [lockingOutsideTransaction(parts), lockingOutsideTransaction(parts)];
      const firstWindow = await first.read();
      const secondWindow = await second.read(); // the locks of the first went with its SELECT
      await first.publish(firstWindow);
      await second.publish(secondWindow);
      const messages = await readTopic(topic.name, { until: (all) => all.length >= 100 });
      expect(duplicatesIn(messages)).toBe(50);
    });

    test('ours does not', async () => {
      await using db = await createTestDatabase();
      await using topic = await createTestTopic();
      await using stack = new AsyncDisposableStack();
      const publisher = () => testPublisher(topic.brokers);
      const relays = [1, 2].map(() =>
        stack.use(
          createTestRelay({
            url: db.url,
            topic: topic.name,
            publisher: publisher(),
          }),
        ),
      );
      for (const relay of relays) relay.start();
      await insertEvents(db, topic.name, eventsOf(keys, 5));
      const messages = await readTopic(topic.name, { until: (all) => isComplete(all, expected) });
      await eventually(() => isEmpty(db));
      expect(duplicatesIn(messages)).toBe(0);
      expect(relays.map(({ counts }) => counts.published).toSorted((a, b) => a - b)).toEqual([
        0, 50,
      ]);
    });
  });

  describe('orders by timestamp, of which every replica has its own', () => {
    const expected = new Map([['key', 3]]);
    const events: NewEvent[] = [1, 2, 3].map((version) => ({
      key: 'key',
      version,
      createdAt: new Date(Date.UTC(2026, 0, 1, 0, 0, 10 - version)),
    }));

    test('and the check sees it', async () => {
      await using db = await createTestDatabase();
      await using topic = await createTestTopic();
      await using textbook = await textbookProducer(topic.brokers);
      await insertEvents(db, topic.name, events);
      const { producer } = textbook;
      const relay = orderingByTimestamp({ db, topic: topic.name, producer });
      await relay.publish(await relay.read());
      const messages = await readTopic(topic.name, { until: (all) => isComplete(all, expected) });
      expect(faultsOf(messages, expected)).toEqual(['key has 3 2 1 of 3']);
    });

    test('ours does not', async () => {
      await using db = await createTestDatabase();
      await using topic = await createTestTopic();
      await insertEvents(db, topic.name, events);
      await using relay = createTestRelay({
        url: db.url,
        topic: topic.name,
        publisher: testPublisher(topic.brokers),
      });
      relay.start();
      const messages = await readTopic(topic.name, { until: (all) => isComplete(all, expected) });
      expect(faultsOf(messages, expected)).toEqual([]);
    });
  });

  describe('goes on past a failed event of the same order', () => {
    const expected = new Map([['key', 3]]);
    const events: NewEvent[] = [
      { key: 'key', version: 1 },
      { key: 'key', version: 2, payload: 'x'.repeat(20_000) },
      { key: 'key', version: 3 },
    ];

    test('and the check sees it', async () => {
      await using db = await createTestDatabase();
      const brokers = await testBrokers();
      await using topic = await createChangingTopic(brokers, 10_000);
      await using textbook = await textbookProducer(brokers);
      await insertEvents(db, topic.name, events);
      const { producer } = textbook;
      const relay = goingOnPastFailure({ db, topic: topic.name, producer });
      await relay.publish(await relay.read());
      await topic.setLimit(1_000_000);
      await eventually(async () => {
        await relay.publish(await relay.read());
        return isEmpty(db);
      });
      const messages = await readTopic(topic.name, { until: (all) => isComplete(all, expected) });
      expect(faultsOf(messages, expected)).toEqual(['key has 1 3 2 of 3']);
    });

    test('ours does not', async () => {
      await using db = await createTestDatabase();
      await using service = servicePool(db.url);
      const brokers = await testBrokers();
      await using topic = await createChangingTopic(brokers, 10_000);
      await insertEvents(db, topic.name, events);
      await using relay = createTestRelay({
        url: db.url,
        topic: topic.name,
        publisher: testPublisher(brokers),
      });
      relay.start();
      await eventually(() => relay.relay.status().parkedKeys === 1);
      await topic.setLimit(1_000_000);
      await eventually(async () => {
        await runOutboxCommand(['retry', '--all'], service.pool, () => {});
        return isEmpty(db);
      });
      const messages = await readTopic(topic.name, { until: (all) => isComplete(all, expected) });
      expect(faultsOf(messages, expected)).toEqual([]);
    });
  });

  describe('marks as published what Kafka did not take', () => {
    const keys = newKeys(5);
    const expected = new Map(keys.map((key) => [key, 3]));

    let kafka: Awaited<ReturnType<typeof startFaultyKafka>>;

    beforeAll(async () => {
      kafka = await startFaultyKafka();
    });
    afterAll(() => kafka[Symbol.asyncDispose]());

    test('and the check sees it', async () => {
      await using db = await createTestDatabase();
      await using textbook = await textbookProducer(kafka.brokers);
      const topic = await openTopic();
      const relay = markingWhateverHappened({ db, topic, producer: textbook.producer });
      await kafka.stop();
      await insertEvents(db, topic, eventsOf(keys, 3));
      await relay.publish(await relay.read());
      await expect(isEmpty(db)).resolves.toBe(true);
      await kafka.start();
      expect(await faultsAtEndOf(topic)).toHaveLength(keys.length);
    });

    test('ours does not', async () => {
      await using db = await createTestDatabase();
      const topic = await openTopic();
      const publisher = testPublisher(kafka.brokers);
      await using relay = createTestRelay({ url: db.url, topic, publisher, settings: hurried });
      relay.start();
      await insertEvents(db, topic, eventsOf(['warm-up'], 1));
      await eventually(() => isEmpty(db));
      await kafka.stop();
      await insertEvents(db, topic, eventsOf(keys, 3));
      await eventually(() => relay.counts.unknown > 0);
      await expect(db.query('select from outbox_events')).resolves.toHaveLength(15);
      await kafka.start();
      await eventually(() => isEmpty(db));
      expect(await faultsAtEndOf(topic)).toEqual(['warm-up was never inserted']);
    });

    async function openTopic(): Promise<string> {
      const topic = `test-${randomUUID()}`;
      const publisher = testPublisher(kafka.brokers);
      await publisher.openTopic(topic);
      await publisher.close();
      return topic;
    }

    /** Publishes one message more, so that the end of the topic is known, and checks what is before. */
    async function faultsAtEndOf(topic: string): Promise<string[]> {
      const publisher = testPublisher(kafka.brokers);
      const messages = [{ key: 'end', value: '', headers: {} }];
      await eventually(async () => {
        const outcome = await publisher.publish({
          topic,
          partition: 0,
          messages,
          timeoutMs: 30_000,
        });
        return outcome.kind === 'acked';
      });
      await publisher.close();
      const all = await readTopic(topic, {
        brokers: kafka.brokers,
        until: (read) => read.some(({ key }) => key === 'end'),
      });
      return faultsOf(
        all.filter(({ key }) => key !== 'end'),
        expected,
      );
    }
  });
});
