import { randomUUID } from 'node:crypto';
import type { IHeaders, Kafka } from 'kafkajs';
import { createKafkaClient } from '#src/outbox/kafkajs-client.ts';
import { sharedServer } from './infra.ts';
import { eventually } from './poll.ts';

/** A message as a consumer gets it. */
export type ReadMessage = Readonly<{
  partition: number;
  offset: number;
  key: string | null;
  headers: Readonly<Record<string, string>>;
  value: string | null;
}>;

/** The brokers of the shared Kafka. */
export async function testBrokers(): Promise<string[]> {
  return [await sharedServer('kafka')];
}

/** Creates a topic for one test. `await using` deletes it. */
export async function createTestTopic(
  partitions = 1,
): Promise<AsyncDisposable & Readonly<{ name: string; brokers: string[] }>> {
  const brokers = await testBrokers();
  const name = `test-${randomUUID()}`;
  await withAdmin(brokers, async (admin) => {
    await admin.createTopics({
      topics: [{ topic: name, numPartitions: partitions, replicationFactor: 1 }],
      waitForLeaders: false, // on a busy machine this fails where the broker is late
    });
  });
  await untilLed(name, brokers);
  return {
    name,
    brokers,
    [Symbol.asyncDispose]: () =>
      withAdmin(brokers, (admin) => admin.deleteTopics({ topics: [name] })),
  };
}

/**
 * Reads a topic from the beginning until the condition holds. Returns all messages that were read, each
 * partition in its order.
 * @throws an Error with the messages read so far if the deadline passes
 */
export async function readTopic(
  topic: string,
  {
    until,
    withinMs = 120_000,
    brokers,
  }: Readonly<{
    until: (messages: readonly ReadMessage[]) => boolean;
    withinMs?: number;
    /** The shared Kafka's if unset. */
    brokers?: string[];
  }>,
): Promise<ReadMessage[]> {
  const consumer = client(brokers ?? (await testBrokers())).consumer({
    groupId: `test-${randomUUID()}`,
    maxWaitTimeInMs: 100,
  });
  const messages: ReadMessage[] = [];
  const enough = Promise.withResolvers<void>();
  enough.promise.catch(() => {}); // it may fail before it is awaited
  const deadline = setTimeout(() => {
    const seen = messages.map((message) => JSON.stringify(message)).join('\n');
    enough.reject(
      new Error(`${topic}: not within ${withinMs} ms, read ${messages.length}:\n${seen}`),
    );
  }, withinMs);
  try {
    await consumer.connect();
    await consumer.subscribe({ topic, fromBeginning: true });
    await consumer.run({
      autoCommit: false,
      eachMessage: async ({ partition, message }) => {
        messages.push({
          partition,
          offset: Number(message.offset),
          key: message.key?.toString() ?? null,
          headers: texts(message.headers ?? {}),
          value: message.value?.toString() ?? null,
        });
        if (until(messages)) enough.resolve();
      },
    });
    await enough.promise;
    return messages;
  } finally {
    clearTimeout(deadline);
    await consumer.disconnect();
  }
}

/** Waits until every partition of the topic has a leader that is known, for example after an outage. */
export async function untilLed(topic: string, brokers: string[]): Promise<void> {
  await eventually(() =>
    withAdmin(brokers, async (admin) => {
      const known = new Set((await admin.describeCluster()).brokers.map(({ nodeId }) => nodeId));
      const { topics } = await admin.fetchTopicMetadata({ topics: [topic] });
      const leaders = topics.flatMap(({ partitions }) => partitions.map(({ leader }) => leader));
      if (!leaders.every((leader) => known.has(leader))) throw new Error(`${topic} is not led`);
    }),
  );
}

function texts(headers: IHeaders): Record<string, string> {
  return Object.fromEntries(
    Object.entries(headers).map(([name, value]) => [name, value?.toString() ?? '']),
  );
}

async function withAdmin(
  brokers: string[],
  work: (admin: ReturnType<Kafka['admin']>) => Promise<void>,
): Promise<void> {
  const admin = client(brokers).admin();
  await admin.connect();
  try {
    await work(admin);
  } finally {
    await admin.disconnect();
  }
}

function client(brokers: string[]): Kafka {
  return createKafkaClient({ brokers }, { debug: () => {} }).kafka;
}
