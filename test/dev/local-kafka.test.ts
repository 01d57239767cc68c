import { Partitioners } from 'kafkajs';
import { describe, expect, test } from 'vitest';
import { folders } from '#dev/folders.ts';
import { startKafka } from '#dev/local-kafka.ts';
import { findProcesses, markerOf } from '#dev/processes.ts';
import { createKafkaClient } from '#src/outbox/kafka-client.ts';
import { skipReason } from '#test/support/infra.ts';
import { readTopic } from '#test/support/kafka.ts';
import { createTestFolder } from '#test/support/test-folder.ts';

describe.skipIf(skipReason('kafka'))('the local Kafka', () => {
  test('is found again by the next start, and has its messages after a kill -9', async (context) => {
    await using folder = await createTestFolder('kafka-');
    const options = { folder: folder.path, cacheFolder: folders.cache, log: () => {} };
    const kafka = await startKafka(options);
    if ('reason' in kafka) return context.skip(kafka.reason);
    const broker = await brokerOf(folder.path);
    expect(await startKafka(options)).toMatchObject({ broker: kafka.broker });
    expect(await brokerOf(folder.path)).toBe(broker);
    await send(kafka.broker, 'kept');
    await kafka.kill();
    expect(await brokerOf(folder.path)).toBeUndefined();
    await kafka.start();
    const read = await readTopic('t', { brokers: [kafka.broker], until: (all) => all.length > 0 });
    expect(read).toMatchObject([{ partition: 0, offset: 0, value: 'kept' }]);
  });
});

async function brokerOf(folder: string): Promise<number | undefined> {
  const [broker] = await findProcesses(markerOf(folder));
  return broker?.pid;
}

async function send(broker: string, value: string): Promise<void> {
  const { kafka } = createKafkaClient([broker], { debug: () => {} });
  const admin = kafka.admin();
  await admin.connect();
  await admin.createTopics({ topics: [{ topic: 't', numPartitions: 1 }], waitForLeaders: true });
  await admin.disconnect();
  const producer = kafka.producer({ createPartitioner: Partitioners.DefaultPartitioner });
  await producer.connect();
  await producer.send({ topic: 't', acks: -1, messages: [{ value }] });
  await producer.disconnect();
}
