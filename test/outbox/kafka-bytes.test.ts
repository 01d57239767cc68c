import { Connection, fetchV11, parseBroker } from '@platformatic/kafka';
import { expect, test, vi } from 'vitest';
import type { OutboxMessage } from '#src/outbox/outbox.ts';
import { skipReason } from '#test/support/infra.ts';
import { createTestTopic } from '#test/support/kafka.ts';
import { testPublishers } from './outbox-fixture.ts';

const BYTES_MAX = 1_000_000;

const batches: readonly (readonly OutboxMessage[])[] = [
  [{ key: 'é 💶', value: '{"text":"é 💶 \\u0000"}', headers: { ce_id: 'é', empty: '' } }],
  Array.from({ length: 200 }, (_, index) => ({
    key: `key-${index}`,
    value: 'x'.repeat(index * 10),
    headers: { ce_id: String(index), ce_type: 'order.placed', 'content-type': 'application/json' },
  })),
];

/** The batches of partition 0, without what differs from one producer to the next. */
async function storedBatches(topic: string, broker: string) {
  const { host, port } = parseBroker(broker);
  const connection = new Connection('test');
  await connection.connect(host, port);
  const from = { partition: 0, fetchOffset: 0n, currentLeaderEpoch: -1, lastFetchedEpoch: -1 };
  const partitions = [{ ...from, partitionMaxBytes: BYTES_MAX }];
  const topics = [{ topicId: topic, partitions }];
  const { responses } = await fetchV11.api.async(
    connection,
    100,
    1,
    BYTES_MAX,
    0,
    0,
    -1,
    topics,
    [],
    '',
  );
  await connection.close();
  const stored = responses
    .flatMap((each) => each.partitions)
    .flatMap(({ records }) => records ?? []);
  return stored.map((batch) => Object.assign(batch, { producerId: 0, producerEpoch: 0, crc: 0 }));
}

test.skipIf(skipReason('kafka'))('both libraries write the same bytes to the topic', async () => {
  const stored = [];
  const now = Date.now();
  const clock = vi.spyOn(Date, 'now').mockReturnValue(now);
  for (const { testPublisher } of await testPublishers()) {
    await using topic = await createTestTopic();
    const publisher = testPublisher(topic.brokers);
    for (const messages of batches) {
      const request = { topic: topic.name, partition: 0, messages, timeoutMs: 20_000 };
      expect(await publisher.publish(request)).toEqual({ kind: 'acked' });
    }
    stored.push(await storedBatches(topic.name, topic.brokers[0] ?? ''));
    await publisher.close();
  }
  clock.mockRestore();
  const [one, other] = stored;
  expect(one?.map(({ records }) => records.length)).toEqual([1, 200]);
  expect(one?.[0]).toMatchObject({
    attributes: 0,
    firstTimestamp: BigInt(now),
    firstSequence: 0,
  });
  expect(other).toEqual(one);
});
