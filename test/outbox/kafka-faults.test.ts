import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { createServer } from 'node:net';
import { describe, expect, test } from 'vitest';
import type { PublishRequest } from '#src/outbox/outbox.ts';
import { LEADERLESS, startKafkaProxy } from '#test/support/kafka-proxy.ts';
import { skipReason } from '#test/support/infra.ts';
import { createTestTopic, readTopic } from '#test/support/kafka.ts';
import { eventually } from '#test/support/poll.ts';
import { quiet, testPublishers } from './outbox-fixture.ts';

const publishers = await testPublishers();

function request(topic: string, value: string, partition = 0): PublishRequest {
  const messages = [{ key: 'key', value, headers: { ce_id: value } }];
  return { topic, partition, messages, timeoutMs: 20_000 };
}

/** The values in a topic, once the last one is there. */
async function valuesIn(topic: string, last: string): Promise<(string | null)[]> {
  const messages = await readTopic(topic, {
    until: (all) => all.some(({ value }) => value === last),
  });
  return messages.map(({ value }) => value);
}

describe.skipIf(skipReason('kafka')).each(publishers)(
  '$client behind a broker with faults',
  ({ create, testPublisher }) => {
    test('stores a batch once whose response is lost', async () => {
      await using topic = await createTestTopic();
      await using proxy = await startKafkaProxy(topic.brokers[0] ?? '', topic.name);
      const publisher = testPublisher(proxy.brokers);
      await publisher.publish(request(topic.name, 'first'));
      const value = randomUUID();
      const trap = proxy.trap(value, 'cutResponse');
      await expect(publisher.publish(request(topic.name, value))).resolves.toEqual({
        kind: 'acked',
      });
      await trap.sprung;
      await publisher.publish(request(topic.name, 'last'));
      expect(await valuesIn(topic.name, 'last')).toEqual(['first', value, 'last']);
      await publisher.close();
    });

    test('stores a batch once when the broker says that another one leads', async () => {
      await using topic = await createTestTopic();
      await using proxy = await startKafkaProxy(topic.brokers[0] ?? '', topic.name);
      const publisher = testPublisher(proxy.brokers);
      await publisher.publish(request(topic.name, 'first'));
      const denied = proxy.denyNextBatch();
      await expect(publisher.publish(request(topic.name, 'denied'))).resolves.toEqual({
        kind: 'acked',
      });
      await denied;
      await publisher.publish(request(topic.name, 'last'));
      expect(await valuesIn(topic.name, 'last')).toEqual(['first', 'denied', 'last']);
      await publisher.close();
    });

    test('publishes to the partitions that have a leader', async () => {
      await using topic = await createTestTopic(LEADERLESS + 1);
      await using proxy = await startKafkaProxy(topic.brokers[0] ?? '', topic.name);
      proxy.hideLeader(true);
      const publisher = testPublisher(proxy.brokers);
      await expect(publisher.openTopic(topic.name)).resolves.toMatchObject({
        partitions: LEADERLESS + 1,
      });
      const [led, leaderless] = await Promise.all([
        publisher.publish(request(topic.name, 'led', 0)),
        publisher.publish(request(topic.name, 'leaderless', LEADERLESS)),
      ]);
      expect([led.kind, leaderless.kind]).toEqual(['acked', 'unknown']);
      const again = await publisher.publish(request(topic.name, 'led again', 0));
      expect(again.kind).toBe('acked');
      proxy.hideLeader(false);
      const back = await publisher.publish(request(topic.name, 'back', LEADERLESS));
      expect(back.kind).toBe('acked');
      await publisher.close();
    });

    test('asks another broker when the first one does not respond', async () => {
      await using topic = await createTestTopic();
      await using silent = createServer((socket) => socket.on('error', () => {}).resume());
      await once(silent.listen(0, '127.0.0.1'), 'listening');
      const address = silent.address();
      const port = typeof address === 'object' ? address?.port : undefined;
      const publisher = create({
        connection: { brokers: [`127.0.0.1:${port}`, ...topic.brokers] },
        newTopic: { partitions: 1, replication: 1 },
        requestTimeoutMs: 2_000,
        log: quiet,
      });
      // kafkajs gives up when it begins with that one. The relay repeats both as well.
      await eventually(() => publisher.openTopic(topic.name));
      await eventually(async () => {
        const { kind } = await publisher.publish(request(topic.name, 'sent'));
        return kind === 'acked';
      });
      await publisher.close();
    });
  },
);
