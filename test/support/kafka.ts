import { randomUUID } from 'node:crypto';
import { FetchIsolationLevels, fetchV11 } from '@platformatic/kafka';
import type { Connection } from '@platformatic/kafka';
import type { Kafka } from 'kafkajs';
import { createKafkaClient } from '#src/outbox/kafkajs-client.ts';
import { createBrokers } from '#src/outbox/platformatic-brokers.ts';
import { readTopology } from '#src/outbox/platformatic-topic.ts';
import { sharedServer } from './infra.ts';
import { eventually } from './poll.ts';

const REQUEST_TIMEOUT_MS = 5_000;
const FETCH_WAIT_MS = 100;
const FETCH_BYTES_MAX = 64 * 1024 * 1024;

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
 * Reads a topic from the beginning until the condition has held after a message. Returns all messages that were
 * read, each partition in its order. It is in no consumer group: a group can be joined only some time after the
 * start of a broker, and kafkajs gives up before, without an error.
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
  const connections = createBrokers(
    { brokers: brokers ?? (await testBrokers()) },
    REQUEST_TIMEOUT_MS,
    0,
  );
  const messages: ReadMessage[] = [];
  const nextOffsets = new Map<number, number>();
  const offsetIn = (partition: number) => ({ partition, offset: nextOffsets.get(partition) ?? 0 });
  let isEnough = false;
  try {
    await eventually(
      async () => {
        const { leaders } = await connections.ask((broker) => readTopology(broker, topic));
        for (const [leader, led] of Map.groupBy(leaders, ([, address]) => address)) {
          const wanted = led.map(([partition]) => offsetIn(partition));
          const connection = await connections.connectTo(leader);
          for (const message of await fetchFrom(connection, topic, wanted)) {
            messages.push(message);
            nextOffsets.set(message.partition, message.offset + 1);
            isEnough ||= until(messages);
          }
        }
        return isEnough;
      },
      { withinMs },
    );
    return messages;
  } catch (error) {
    const seen = messages.map((message) => JSON.stringify(message)).join('\n');
    throw new Error(`${topic}: read ${messages.length}, ${String(error)}\n${seen}`, {
      cause: error,
    });
  } finally {
    connections.destroy();
  }
}

type Place = Readonly<{ partition: number; offset: number }>;

/** What partitions hold from these offsets on, or the first part of it. Waits a little if there is nothing. */
async function fetchFrom(
  connection: Connection,
  topic: string,
  places: readonly Place[],
): Promise<ReadMessage[]> {
  const { responses } = await fetchV11.api.async(
    connection,
    FETCH_WAIT_MS,
    1,
    FETCH_BYTES_MAX,
    FetchIsolationLevels.READ_UNCOMMITTED,
    0,
    -1,
    [{ topicId: topic, partitions: places.map(toFetchRequest) }],
    [],
    '',
  );
  const found = responses.flatMap(({ partitions }) => partitions).flatMap(messagesIn);
  // A batch is read as a whole, also what is before the offset.
  return found.filter((message) =>
    places.some(
      ({ partition, offset }) => message.partition === partition && message.offset >= offset,
    ),
  );
}

function toFetchRequest({ partition, offset }: Place) {
  return {
    partition,
    currentLeaderEpoch: -1,
    fetchOffset: BigInt(offset),
    lastFetchedEpoch: -1,
    partitionMaxBytes: FETCH_BYTES_MAX,
  };
}

type FetchedPartition = ReturnType<
  typeof fetchV11.parseResponse
>['responses'][number]['partitions'][number];

function messagesIn({ partitionIndex: partition, records: batches }: FetchedPartition) {
  return (batches ?? []).flatMap(({ firstOffset, records }) =>
    records.map(({ offsetDelta, key, value, headers }) => ({
      partition,
      offset: Number(firstOffset) + offsetDelta,
      key: key?.toString() ?? null,
      headers: Object.fromEntries(
        headers.map(([name, text]) => [String(name), text?.toString() ?? '']),
      ),
      value: value?.toString() ?? null,
    })),
  );
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
