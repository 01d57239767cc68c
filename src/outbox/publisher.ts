import { setTimeout as sleep } from 'node:timers/promises';
import type { Logger } from 'pino';
import { withDeadline } from '#src/workers/worker.ts';
import type { KafkaConnection } from './kafka-connection.ts';
import type { Publisher, PublishOutcome, PublishRequest, TopicLimits } from './outbox.ts';

const OPEN_TOPIC_TIMEOUT_MS = 10_000;
const NEW_TOPIC_POLL_MS = 100;
const NEW_TOPIC_POLLS_MAX = 50;
/** Shorter than a send may take: the request can be repeated with the same sequence numbers. */
export const PUBLISH_REQUEST_TIMEOUT_MS = 3_000;
/** How long a broker may wait for its replicas. It then still responds before the request ends. */
export const REPLICAS_TIMEOUT_MS = 2_500;
/** Kafka's default for `max.message.bytes`. */
export const BATCH_BYTES_MAX_DEFAULT = 1_048_588;

/** Errors that say that a record of the batch can never be stored. Any other error may pass. */
const REFUSALS: ReadonlySet<string> = new Set([
  'MESSAGE_TOO_LARGE',
  'RECORD_LIST_TOO_LARGE',
  'INVALID_RECORD',
]);

/** What a publisher needs, with either library. */
export type KafkaPublisherOptions = Readonly<{
  connection: KafkaConnection;
  /** Only for a topic that has to be created. */
  newTopic: Readonly<{ partitions: number; replication: number }>;
  log: Pick<Logger, 'debug' | 'info'>;
  /** How long a broker may take to respond, before the request is sent once more. */
  requestTimeoutMs?: number;
}>;

/** A client with its own connections, on top of a library. It connects when it is first used. */
export type PublishingClient = Readonly<{
  /** Creates the topic if it is missing. */
  openTopic(topic: string): Promise<TopicLimits>;
  /** Sends as an idempotent producer, to all replicas. Repeats only the same request. Never throws. */
  send(request: PublishRequest): Promise<PublishOutcome>;
  /** Why it cannot connect, if the last attempt failed. It may still be retrying. */
  lastFault(): string | undefined;
  /** Ends all connections at once and opens no others. */
  destroy(): void;
}>;

/** A client and what becomes of it. */
type Session = { readonly client: PublishingClient; inFlight: number; isSpent: boolean };

/**
 * Publishes with one idempotent producer after the other.
 *
 * The first batch that is not acknowledged ends the use of a producer. Its sequence numbers may be in
 * the topic or not. If the next batch had the same ones, the broker would take it for a duplicate,
 * acknowledge it and drop it.
 */
export function createPublisher(openClient: () => PublishingClient): Publisher {
  const clients = new Set<PublishingClient>();
  let session: Session | undefined;

  const open = (): PublishingClient => {
    const client = openClient();
    clients.add(client);
    return client;
  };
  const destroy = (client: PublishingClient) => {
    clients.delete(client);
    client.destroy();
  };
  const abort = () => {
    session = undefined;
    for (const client of clients) destroy(client);
  };

  return {
    openTopic: async (topic) => {
      const client = open();
      try {
        return await withDeadline(client.openTopic(topic), OPEN_TOPIC_TIMEOUT_MS, () =>
          Promise.reject(new Error(noResponse(client, OPEN_TOPIC_TIMEOUT_MS))),
        );
      } finally {
        destroy(client);
      }
    },
    publish: async (request) => {
      session ??= { client: open(), inFlight: 0, isSpent: false };
      const current = session;
      const { timeoutMs } = request;
      current.inFlight += 1;
      const sent = current.client.send(request);
      const outcome = await withDeadline<PublishOutcome>(sent, timeoutMs, () => {
        const reason = noResponse(current.client, timeoutMs);
        destroy(current.client);
        return { kind: 'unknown', reason };
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

function noResponse(client: PublishingClient, withinMs: number): string {
  const fault = client.lastFault();
  return `no response within ${withinMs} ms${fault === undefined ? '' : `: ${fault}`}`;
}

/** The outcome of a send that failed, with the name of the broker's error if it returned one. */
export function failedOutcome(code: string | undefined, reason: string): PublishOutcome {
  return code !== undefined && REFUSALS.has(code)
    ? { kind: 'refused', reason: code }
    : { kind: 'unknown', reason };
}

/** Reads about a topic that was just created. Some brokers know it a little later than others. */
export async function onceKnown<T>(
  read: () => Promise<T>,
  pollsMax = NEW_TOPIC_POLLS_MAX,
): Promise<T> {
  try {
    return await read();
  } catch (error) {
    if (pollsMax === 0) throw error;
  }
  await sleep(NEW_TOPIC_POLL_MS);
  return onceKnown(read, pollsMax - 1);
}
