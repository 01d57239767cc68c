import { setTimeout as sleep } from 'node:timers/promises';
import {
  findErrorBy,
  GenericError,
  initProducerIdV1,
  NumericMap,
  ProduceAcks,
  produceV7,
  ProtocolError,
} from '@platformatic/kafka';
import type { MessageRecord } from '@platformatic/kafka';
import { RETRY } from './kafka-connection.ts';
import { explainKafkaError, protocolError } from './kafka-errors.ts';
import type { OutboxMessage, Publisher, PublishRequest } from './outbox.ts';
import { createBrokers } from './platformatic-brokers.ts';
import type { Brokers } from './platformatic-brokers.ts';
import { openTopic, readTopology } from './platformatic-topic.ts';
import type { Topology } from './platformatic-topic.ts';
import {
  createPublisher,
  failedOutcome,
  PUBLISH_REQUEST_TIMEOUT_MS,
  REPLICAS_TIMEOUT_MS,
} from './publisher.ts';
import type { KafkaPublisherOptions, PublishingClient } from './publisher.ts';

/** Sequence numbers have 31 bits, and start again after the last. */
const SEQUENCES = 2 ** 31;

/**
 * Publishes with the connections and the requests of @platformatic/kafka, but not with its Producer.
 * That one numbers the batches of all partitions in one place, and starts anew there when one of them
 * fails, while others are on their way: the broker may take those for duplicates and drop them. It
 * also sends to no partition when one has no leader, and to another one when the partition is missing.
 */
export function createPlatformaticPublisher(options: KafkaPublisherOptions): Publisher {
  const { connection, newTopic, log, requestTimeoutMs = PUBLISH_REQUEST_TIMEOUT_MS } = options;
  let clients = 0;
  return createPublisher((): PublishingClient => {
    // Each client asks another broker first, so that one that hangs delays only some of them.
    const brokers = createBrokers(connection, requestTimeoutMs, clients);
    clients += 1;
    const explain = (error: unknown) => explainKafkaError(error, connection, brokers.lastFault());
    return {
      openTopic: (topic) =>
        openTopic(brokers, topic, newTopic, log).catch((error: unknown) => {
          throw new Error(explain(error), { cause: error });
        }),
      send: createSend(brokers, explain),
      lastFault: () => undefined, // it does not retry to connect within a request
      destroy: brokers.destroy,
    };
  });
}

/** What a producer knows about itself and its topics. */
type Producer = {
  readonly brokers: Brokers;
  /** The number of the next message, by `topic:partition`. */
  readonly sequences: NumericMap;
  identity: Promise<Identity> | undefined;
  readonly topologies: Map<string, Promise<Topology>>;
};

type Identity = Readonly<{ producerId: bigint; producerEpoch: number }>;

function createSend(
  brokers: Brokers,
  explain: (error: unknown) => string,
): PublishingClient['send'] {
  const producer: Producer = {
    brokers,
    sequences: new NumericMap(),
    identity: undefined,
    topologies: new Map(),
  };
  return async (request) => {
    const records = request.messages.map((message) => recordOf(message, request));
    for (let attempt = 0; ; attempt += 1) {
      try {
        await produce(producer, request, records);
        return { kind: 'acked' };
      } catch (error) {
        if (attempt === RETRY.retries || !mayPass(error) || brokers.signal.aborted) {
          return failedOutcome(protocolError(error), explain(error));
        }
      }
      producer.topologies.delete(request.topic); // the leader may be another one
      await rest(attempt, brokers.signal);
    }
  };
}

function recordOf(
  { key, value, headers }: OutboxMessage,
  { topic, partition }: PublishRequest,
): MessageRecord {
  const entries = Object.entries(headers);
  return {
    topic,
    partition,
    key: Buffer.from(key),
    value: Buffer.from(value),
    headers: new Map(entries.map(([name, text]) => [Buffer.from(name), Buffer.from(text)])),
  };
}

/** Sends the batch once. Repeated, it has the same numbers, so the broker recognises it. */
async function produce(
  producer: Producer,
  { topic, partition }: PublishRequest,
  records: MessageRecord[],
): Promise<void> {
  const { brokers, sequences } = producer;
  const leader = leaderOf(await topologyOf(producer, topic), partition);
  const options = { ...(await identityOf(producer)), sequences };
  const connection = await brokers.connectTo(leader);
  const response = await produceV7.api.async(
    connection,
    ProduceAcks.ALL,
    REPLICAS_TIMEOUT_MS,
    records,
    options,
  );
  const topics = typeof response === 'object' ? response.responses : [];
  const isAcked = topics.some(
    ({ name, partitionResponses }) =>
      name === topic && partitionResponses.some(({ index }) => index === partition),
  );
  if (!isAcked) throw new Error('not acknowledged');
  const next = sequences.getWithDefault(`${topic}:${partition}`, 0) + records.length;
  sequences.set(`${topic}:${partition}`, next % SEQUENCES);
}

function leaderOf({ partitions, leaders }: Topology, partition: number) {
  const leader = leaders.get(partition);
  if (leader !== undefined) return leader;
  if (partition >= partitions) throw new Error(`the topic has no partition ${partition}`);
  throw new ProtocolError('LEADER_NOT_AVAILABLE');
}

async function topologyOf({ brokers, topologies }: Producer, topic: string): Promise<Topology> {
  const known = topologies.get(topic) ?? brokers.ask((broker) => readTopology(broker, topic));
  topologies.set(topic, known);
  return known;
}

/** Any failure ends the use of the producer, or asks for the identity again before anything is sent. */
async function identityOf(producer: Producer): Promise<Identity> {
  producer.identity ??= producer.brokers.ask((broker) =>
    initProducerIdV1.api.async(broker, null, 0),
  );
  try {
    return await producer.identity;
  } catch (error) {
    producer.identity = undefined;
    throw error;
  }
}

/** Whether the same request may succeed a little later. */
function mayPass(error: unknown): boolean {
  return (
    error instanceof Error &&
    GenericError.isGenericError(error) &&
    findErrorBy(error, 'canRetry', false) === null
  );
}

/** Waits before the next attempt, or until the connections are cut. */
async function rest(attempt: number, signal: AbortSignal): Promise<void> {
  const delayMs = Math.min(RETRY.initialRetryTime * 2 ** attempt, RETRY.maxRetryTime);
  await sleep(delayMs, undefined, { signal }).catch(() => undefined);
}
