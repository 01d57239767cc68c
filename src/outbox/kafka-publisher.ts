import kafkajs from 'kafkajs';
import type { Admin, Producer, ProducerConfig } from 'kafkajs';
import type { Logger } from 'pino';
import { RETRY } from './kafka-connection.ts';
import { explainKafkaError, protocolError } from './kafka-errors.ts';
import { createKafkaClient } from './kafkajs-client.ts';
import type { Publisher, PublishOutcome, PublishRequest, TopicLimits } from './outbox.ts';
import {
  BATCH_BYTES_MAX_DEFAULT,
  createPublisher,
  failedOutcome,
  onceKnown,
  PUBLISH_REQUEST_TIMEOUT_MS,
  REPLICAS_TIMEOUT_MS,
} from './publisher.ts';
import type { KafkaPublisherOptions, PublishingClient } from './publisher.ts';

const PRODUCER: ProducerConfig = {
  idempotent: true,
  allowAutoTopicCreation: false,
  retry: RETRY,
  createPartitioner:
    () =>
    ({ message }) =>
      message.partition ?? -1,
};

/**
 * Publishes with kafkajs, one partition per request. kafkajs gives the sequence numbers of a batch that
 * failed to the next one.
 */
export function createKafkaPublisher(options: KafkaPublisherOptions): Publisher {
  return createPublisher(() => openKafkajs(options));
}

function openKafkajs(options: KafkaPublisherOptions): PublishingClient {
  const { connection, newTopic, log, requestTimeoutMs = PUBLISH_REQUEST_TIMEOUT_MS } = options;
  const brokers = rotated(connection.brokers);
  const { kafka, lastFault, destroy } = createKafkaClient(
    { ...connection, brokers },
    log,
    requestTimeoutMs,
  );
  const explain = (error: unknown) => explainKafkaError(error, connection);
  let connecting: Promise<Producer> | undefined;

  const connect = async (): Promise<Producer> => {
    const producer = kafka.producer(PRODUCER);
    await producer.connect();
    return producer;
  };
  return {
    openTopic: (topic) =>
      openTopic(kafka.admin(), topic, newTopic, log).catch((error: unknown) => {
        throw new Error(explain(error), { cause: error });
      }),
    send: (request) => {
      connecting ??= connect();
      return send(connecting, request).catch((error: unknown) =>
        failedOutcome(protocolError(error), explain(error)),
      );
    },
    lastFault: () => {
      const fault = lastFault();
      return fault && explain(fault);
    },
    destroy,
  };
}

/**
 * The brokers, beginning with any of them. kafkajs does not get past a first broker that accepts
 * connections and never responds, so each client begins with another one.
 */
function rotated(brokers: readonly string[]): readonly string[] {
  const first = Math.floor(Math.random() * brokers.length);
  return [...brokers.slice(first), ...brokers.slice(0, first)];
}

async function send(
  connecting: Promise<Producer>,
  { topic, partition, messages }: PublishRequest,
): Promise<PublishOutcome> {
  const producer = await connecting;
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
}

async function openTopic(
  admin: Admin,
  topic: string,
  newTopic: KafkaPublisherOptions['newTopic'],
  log: Pick<Logger, 'info'>,
): Promise<TopicLimits> {
  await admin.connect();
  const found = await partitionsOf(admin, topic).catch((error: unknown) => {
    if (protocolError(error) === 'UNKNOWN_TOPIC_OR_PARTITION') return undefined;
    throw error;
  });
  if (found === undefined) {
    const { partitions: numPartitions, replication: replicationFactor } = newTopic;
    const created = await admin
      .createTopics({
        topics: [{ topic, numPartitions, replicationFactor }],
        waitForLeaders: false, // it would fail if the broker that it asks does not know the topic yet
      })
      .catch((error: unknown) => {
        throw new Error(`cannot create topic ${topic}`, { cause: error });
      });
    if (created) log.info({ topic, partitions: newTopic.partitions }, 'topic created');
  }
  return {
    partitions: found ?? (await onceKnown(() => partitionsOf(admin, topic))),
    batchBytesMax: await batchBytesMaxOf(admin, topic).catch(() => BATCH_BYTES_MAX_DEFAULT),
  };
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
