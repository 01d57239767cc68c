import { Kafka, logLevel } from 'kafkajs';
import { describe, expect, test } from 'vitest';
import { consume, effectsInMemory } from '../../examples/consumer.ts';
import type { Effects, OrderEvent } from '../../examples/consumer.ts';
import { createTestDatabase } from '#test/support/database.ts';
import { skipReason } from '#test/support/infra.ts';
import { startKafkaProxy } from '#test/support/kafka-proxy.ts';
import { createTestTopic, readTopic } from '#test/support/kafka.ts';
import type { ReadMessage } from '#test/support/kafka.ts';
import { eventually } from '#test/support/poll.ts';
import { startService } from '#test/support/service.ts';

describe.skipIf(skipReason('kafka'))('the example consumer', () => {
  test('applies each event of an order once, in order, however often it is delivered', async () => {
    await using database = await createTestDatabase();
    await using topic = await createTestTopic(3);
    const kafka = new Kafka({ brokers: topic.brokers, logLevel: logLevel.NOTHING });
    await using service = await startService({
      databaseUrl: database.url,
      brokers: topic.brokers,
      env: { KAFKA_TOPIC: topic.name },
    });
    const { api } = service;
    const orders = [await api.placeOrder(), await api.placeOrder(), await api.placeOrder()];
    for (const order of orders) await api.pay(order);
    const sent = await readTopic(topic.name, { until: ({ length }) => length === 6 });
    await sendAgain(kafka, topic.name, [...sent, ...sent.slice(0, 3)]);
    for (const order of orders) await api.ship(order);
    const first = await applyAll(kafka, topic.name, { messages: 18 });
    expect(first.seen).toEqual({ applied: 9, duplicate: 9 });
    expectEachOnce(first.applied, orders);

    // Another group gets every message again, as after a crash before the offsets were committed.
    await sendAgain(kafka, topic.name, sent.slice(0, 2));
    const second = await applyAll(kafka, topic.name, { messages: 20, effects: first.effects });
    expect(second.seen).toEqual({ applied: 0, duplicate: 20 });
    expectEachOnce(first.applied, orders);
  });

  test('says when kafkajs has given up', async () => {
    await using topic = await createTestTopic();
    await using proxy = await startKafkaProxy(topic.brokers[0] ?? '', topic.name);
    proxy.hideCoordinator();
    const retry = { retries: 1 };
    const kafka = new Kafka({ brokers: proxy.brokers, logLevel: logLevel.NOTHING, retry });
    const stopped = Promise.withResolvers<Error>();
    const stop = await consume({
      kafka,
      topic: topic.name,
      groupId: `test-${crypto.randomUUID()}`,
      effects: effectsInMemory(() => {}),
      onStopped: stopped.resolve,
    });
    expect((await stopped.promise).message).toContain('coordinator');
    await stop();
  });
});

/** Delivers the messages a second time, as a relay does that crashed before it deleted them. */
async function sendAgain(kafka: Kafka, topic: string, messages: readonly ReadMessage[]) {
  const producer = kafka.producer();
  await producer.connect();
  for (const { partition, key, headers, value } of messages) {
    await producer.send({ topic, messages: [{ partition, key, headers, value }] });
  }
  await producer.disconnect();
}

/** Runs a consumer of its own group until it has handled so many messages. */
async function applyAll(
  kafka: Kafka,
  topic: string,
  { messages, effects }: Readonly<{ messages: number; effects?: Effects }>,
) {
  const applied: OrderEvent[] = [];
  const seen = { applied: 0, duplicate: 0 };
  const own = effects ?? effectsInMemory((event) => void applied.push(event));
  const stop = await consume({
    kafka,
    topic,
    groupId: `test-${crypto.randomUUID()}`,
    effects: own,
    onHandled: (_, handled) => {
      seen[handled] += 1;
    },
    onStopped: ({ message }) => expect.unreachable(message),
  });
  await eventually(() => seen.applied + seen.duplicate >= messages, { withinMs: 120_000 });
  await stop();
  return { applied, seen, effects: own };
}

function expectEachOnce(applied: readonly OrderEvent[], orders: readonly { orderId: string }[]) {
  for (const { orderId } of orders) {
    const own = applied.filter((event) => event.orderId === orderId);
    expect(own.map(({ version, type }) => `${version} ${type}`)).toEqual([
      '1 order.placed.v1',
      '2 order.payment_captured.v1',
      '3 order.shipped.v1',
    ]);
  }
}
