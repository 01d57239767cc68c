import {
  ConfigResourceTypes,
  createTopicsV3,
  describeConfigsV2,
  metadataV7,
  ResponseError,
} from '@platformatic/kafka';
import type { Connection } from '@platformatic/kafka';
import type { Logger } from 'pino';
import { protocolError } from './kafka-errors.ts';
import type { TopicLimits } from './outbox.ts';
import type { Address, Brokers } from './platformatic-brokers.ts';
import { BATCH_BYTES_MAX_DEFAULT, onceKnown } from './publisher.ts';
import type { KafkaPublisherOptions } from './publisher.ts';

/*
 * The requests have the versions that kafkajs uses, or the next one. Brokers from 2.1 to 4.x know them.
 */

const CREATE_TIMEOUT_MS = 5_000;

type MetadataResponse = ReturnType<typeof metadataV7.parseResponse>;

/** Which broker does what for a topic. */
export type Topology = Readonly<{
  controller: Address | undefined;
  /** How many partitions the topic has. 0 if there is no such topic. */
  partitions: number;
  /** The broker of each partition that has a leader. */
  leaders: ReadonlyMap<number, Address>;
}>;

/** Asks a broker for the topology. Partitions without a leader are no error. */
export async function readTopology(connection: Connection, topic: string): Promise<Topology> {
  const response = await readMetadata(connection, topic);
  const brokers = new Map(
    response.brokers.map(({ nodeId, host, port }) => [nodeId, { host, port }]),
  );
  const partitions = response.topics.find(({ name }) => name === topic)?.partitions ?? [];
  const leaders = partitions.flatMap(({ partitionIndex, leaderId }) => {
    const leader = brokers.get(leaderId);
    return leader === undefined ? [] : [[partitionIndex, leader] as const];
  });
  return {
    controller: brokers.get(response.controllerId),
    partitions: partitions.length,
    leaders: new Map(leaders),
  };
}

/**
 * The library takes a partition without a leader for a failure of the whole request. The response is
 * in the error.
 */
async function readMetadata(connection: Connection, topic: string): Promise<MetadataResponse> {
  try {
    return await metadataV7.api.async(connection, [topic], false, false);
  } catch (error) {
    if (!(error instanceof ResponseError)) throw error;
    const response: MetadataResponse = error['response'];
    const failed = response.topics.find(({ errorCode }) => errorCode !== 0);
    if (failed !== undefined && protocolError(error) !== 'UNKNOWN_TOPIC_OR_PARTITION') throw error;
    return response;
  }
}

/** Creates the topic if it is missing. */
export async function openTopic(
  brokers: Brokers,
  topic: string,
  newTopic: KafkaPublisherOptions['newTopic'],
  log: Pick<Logger, 'info'>,
): Promise<TopicLimits> {
  const read = () => brokers.ask((broker) => readTopology(broker, topic));
  let found = await read();
  if (found.partitions === 0) {
    const controller = found.controller;
    if (controller === undefined) throw new Error('the cluster has no controller');
    const isCreated = await createTopic(await brokers.connectTo(controller), topic, newTopic);
    if (isCreated) log.info({ topic, partitions: newTopic.partitions }, 'topic created');
    found = await onceKnown(async () => requirePartitions(await read(), topic));
  }
  const { partitions } = found;
  const batchBytesMax = await brokers
    .ask((broker) => readBatchBytesMax(broker, topic))
    .catch(() => BATCH_BYTES_MAX_DEFAULT);
  return { partitions, batchBytesMax };
}

function requirePartitions(topology: Topology, topic: string): Topology {
  if (topology.partitions === 0) throw new Error(`topic ${topic} has no partitions`);
  return topology;
}

/** Creates a topic. @returns false if it is there already */
async function createTopic(
  controller: Connection,
  topic: string,
  { partitions, replication }: KafkaPublisherOptions['newTopic'],
): Promise<boolean> {
  const wanted = { name: topic, numPartitions: partitions, replicationFactor: replication };
  const topics = [{ ...wanted, assignments: [], configs: [] }];
  try {
    await createTopicsV3.api.async(controller, topics, CREATE_TIMEOUT_MS, false);
    return true;
  } catch (error) {
    if (protocolError(error) === 'TOPIC_ALREADY_EXISTS') return false;
    throw new Error(`cannot create topic ${topic}`, { cause: error });
  }
}

/** The largest batch that the topic accepts. */
async function readBatchBytesMax(connection: Connection, topic: string): Promise<number> {
  const setting = 'max.message.bytes';
  const { results } = await describeConfigsV2.api.async(connection, [
    {
      resourceType: ConfigResourceTypes.TOPIC,
      resourceName: topic,
      configurationKeys: [setting],
    },
  ]);
  const entries = results.flatMap(({ configs }) => configs);
  const value = Number(entries.find(({ name }) => name === setting)?.value);
  return value > 0 ? value : BATCH_BYTES_MAX_DEFAULT;
}
