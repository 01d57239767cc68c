import kafkajs from 'kafkajs';
import type { Admin, Producer, ProducerConfig } from 'kafkajs';
import type { Logger } from 'pino';
import { withDeadline } from '#src/workers/worker.ts';
import type { KafkaConnection } from './kafka-connection.ts';
import { createKafkaClient, RETRY } from './kafkajs-client.ts';
import type { KafkaClient } from './kafkajs-client.ts';
import type { Publisher, PublishOutcome, PublishRequest, TopicLimits } from './outbox.ts';

const OPEN_TOPIC_TIMEOUT_MS = 10_000;
/** Shorter than a send may take: kafkajs can retry the request with the same sequence numbers. */
const PUBLISH_REQUEST_TIMEOUT_MS = 3_000;
/** How long a broker may wait for its replicas. It then still responds before the request ends. */
const REPLICAS_TIMEOUT_MS = 2_500;
const PRODUCER: ProducerConfig = {
  idempotent: true,
  allowAutoTopicCreation: false,
  retry: RETRY,
  createPartitioner:
    () =>
    ({ message }) =>
      message.partition ?? -1,
};
/** Kafka's default for `max.message.bytes`. */
const BATCH_BYTES_MAX_DEFAULT = 1_048_588;

/** Errors that say that a record of the batch can never be stored. Any other error may pass. */
const REFUSALS: ReadonlySet<string> = new Set([
  'MESSAGE_TOO_LARGE',
  'RECORD_LIST_TOO_LARGE',
  'INVALID_RECORD',
]);

export type KafkaPublisherOptions = Readonly<{
  connection: KafkaConnection;
  /** Only for a topic that has to be created. */
  newTopic: Readonly<{ partitions: number; replication: number }>;
  log: Pick<Logger, 'debug' | 'info'>;
  /** How long a broker may take to respond, before the request is sent once more. */
  requestTimeoutMs?: number;
}>;

/** An idempotent producer and what becomes of it. */
type Session = {
  readonly client: KafkaClient;
  readonly producer: Producer;
  readonly connecting: Promise<void>;
  inFlight: number;
  isSpent: boolean;
};

/**
 * Publishes with kafkajs: idempotent, acknowledged by all replicas, one partition per request.
 *
 * The first batch that is not acknowledged ends the use of a producer. kafkajs gives the sequence
 * numbers of that batch to the next one, so the broker would take the next batch for a duplicate,
 * acknowledge it and drop it.
 */
export function createKafkaPublisher(options: KafkaPublisherOptions): Publisher {
  const { connection, newTopic, log, requestTimeoutMs = PUBLISH_REQUEST_TIMEOUT_MS } = options;
  const clients = new Set<KafkaClient>();
  let session: Session | undefined;

  const createClient = (): KafkaClient => {
    const client = createKafkaClient(connection, log, requestTimeoutMs);
    clients.add(client);
    return client;
  };
  const destroy = (client: KafkaClient) => {
    clients.delete(client);
    client.destroy();
  };
  const openSession = (): Session => {
    const client = createClient();
    const producer = client.kafka.producer(PRODUCER);
    return { client, producer, connecting: producer.connect(), inFlight: 0, isSpent: false };
  };
  const abort = () => {
    session = undefined;
    for (const client of clients) destroy(client);
  };

  return {
    openTopic: async (topic) => {
      const client = createClient();
      const opened = openTopic(client.kafka.admin(), topic, newTopic, log);
      try {
        return await withDeadline(opened, OPEN_TOPIC_TIMEOUT_MS, () =>
          Promise.reject(new Error(`no response from Kafka within ${OPEN_TOPIC_TIMEOUT_MS} ms`)),
        );
      } finally {
        destroy(client);
      }
    },
    publish: async (request) => {
      session ??= openSession();
      const current = session;
      const { timeoutMs } = request;
      current.inFlight += 1;
      const sent = send(current, request);
      const outcome = await withDeadline<PublishOutcome>(sent, timeoutMs, () => {
        destroy(current.client);
        return { kind: 'unknown', reason: `no response within ${timeoutMs} ms` };
      });
      current.inFlight -= 1;
      current.isSpent ||= outcome.kind !== 'acked';
      if (current.isSpent && session === current) session = undefined;
      if (current.isSpent && current.inFlight === 0) destroy(current.client);
      return outcome;
    },
    abort,
    close: async () => abort(),
  };
}

async function send(
  { producer, connecting }: Session,
  { topic, partition, messages }: PublishRequest,
): Promise<PublishOutcome> {
  try {
    await connecting;
    const acks = await producer.send({
      topic,
      acks: -1,
      timeout: REPLICAS_TIMEOUT_MS,
      messages: messages.map((message) => ({ ...message, partition })),
    });
    // kafkajs also resolves when it does not know the partition and has sent nothing.
    const isAcked = acks.some(
      (ack) => ack.topicName === topic && ack.partition === partition && ack.errorCode === 0,
    );
    return isAcked ? { kind: 'acked' } : { kind: 'unknown', reason: 'not acknowledged' };
  } catch (error) {
    const code = protocolError(error);
    if (code !== undefined && REFUSALS.has(code)) return { kind: 'refused', reason: code };
    const message = error instanceof Error ? error.message : 'failed';
    return { kind: 'unknown', reason: code ?? message };
  }
}

/** The name of the broker's error. kafkajs wraps it in other errors. */
function protocolError(error: unknown): string | undefined {
  if (!(error instanceof Error)) return undefined;
  if ('type' in error && typeof error.type === 'string') return error.type;
  return protocolError(error.cause);
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

/** kafkajs puts the reasons into a list. */
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
