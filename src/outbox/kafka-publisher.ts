import kafkajs from 'kafkajs';
import type { Admin } from 'kafkajs';
import type { Logger } from 'pino';
import { withDeadline } from './deadline.ts';
import { createKafkaClient } from './kafka-client.ts';
import { openKafkaSession } from './kafka-session.ts';
import type { KafkaSession } from './kafka-session.ts';
import type { Publisher, TopicLimits } from './outbox.ts';

const OPEN_TOPIC_TIMEOUT_MS = 10_000;
/** Shorter than a send may take, so that what got no answer goes out again under the same number. */
const REQUEST_TIMEOUT_MS = 3_000;
/** Kafka's default for `max.message.bytes`. */
const BATCH_BYTES_MAX_DEFAULT = 1_048_588;

export type KafkaPublisherOptions = Readonly<{
  brokers: readonly string[];
  /** Only for a topic that has to be created. */
  newTopic: Readonly<{ partitions: number; replication: number }>;
  log: Pick<Logger, 'debug' | 'info'>;
  /** How long a broker may take for one answer, before the request is sent once more. */
  requestTimeoutMs?: number;
}>;

/** Publishes with kafkajs: all replicas must acknowledge, idempotent, one partition a request. */
export function createKafkaPublisher(options: KafkaPublisherOptions): Publisher {
  const { brokers, newTopic, log, requestTimeoutMs = REQUEST_TIMEOUT_MS } = options;
  const clients = new Set<{ cut(): void }>();
  let session: KafkaSession | undefined;

  const createClient = () => {
    const client = createKafkaClient(brokers, log, requestTimeoutMs);
    clients.add(client);
    return {
      kafka: client.kafka,
      cut: () => {
        clients.delete(client);
        client.cut();
      },
    };
  };

  const fence = () => {
    session = undefined;
    for (const client of clients) client.cut();
    clients.clear();
  };

  return {
    openTopic: async (topic) => {
      const { kafka, cut } = createClient();
      const admin = kafka.admin();
      const opened = openTopic(admin, topic, newTopic, log);
      try {
        return await withDeadline(opened, OPEN_TOPIC_TIMEOUT_MS, () =>
          Promise.reject(new Error(`no answer from Kafka within ${OPEN_TOPIC_TIMEOUT_MS} ms`)),
        );
      } finally {
        cut();
      }
    },
    publish: async (request) => {
      if (session === undefined || session.isSpent()) session = openKafkaSession(createClient());
      return session.publish(request);
    },
    fence,
    close: async () => fence(),
  };
}

async function openTopic(
  admin: Admin,
  topic: string,
  newTopic: KafkaPublisherOptions['newTopic'],
  log: Pick<Logger, 'info'>,
): Promise<TopicLimits> {
  await admin.connect();
  const found = await partitionsOf(admin, topic).catch(() => undefined);
  if (found === undefined) {
    const { partitions: numPartitions, replication: replicationFactor } = newTopic;
    const created = await admin
      .createTopics({ topics: [{ topic, numPartitions, replicationFactor }] })
      .catch((error: unknown) => {
        throw new Error(`cannot create topic ${topic}: ${reasonOf(error)}`, { cause: error });
      });
    if (created) log.info({ topic, partitions: newTopic.partitions }, 'topic created');
  }
  return {
    partitions: found ?? (await partitionsOf(admin, topic)),
    batchBytesMax: await batchBytesMaxOf(admin, topic).catch(() => BATCH_BYTES_MAX_DEFAULT),
  };
}

/** kafkajs hides the reasons in a list. */
function reasonOf(error: unknown): string {
  if (error instanceof Error && 'errors' in error && Array.isArray(error.errors)) {
    return error.errors.map(String).join(', ');
  }
  return String(error);
}

async function partitionsOf(admin: Admin, topic: string): Promise<number> {
  const { topics } = await admin.fetchTopicMetadata({ topics: [topic] });
  const partitions = topics.find(({ name }) => name === topic)?.partitions.length ?? 0;
  if (partitions === 0) throw new Error(`topic ${topic} has no partitions`);
  return partitions;
}

async function batchBytesMaxOf(admin: Admin, topic: string): Promise<number> {
  const setting = 'max.message.bytes';
  const { resources } = await admin.describeConfigs({
    includeSynonyms: false,
    resources: [{ type: kafkajs.ConfigResourceTypes.TOPIC, name: topic, configNames: [setting] }],
  });
  const entries = resources.flatMap(({ configEntries }) => configEntries);
  const value = Number(entries.find(({ configName }) => configName === setting)?.configValue);
  return value > 0 ? value : BATCH_BYTES_MAX_DEFAULT;
}
