import { Kafka, logLevel } from 'kafkajs';
import RequestQueue from 'kafkajs/src/network/requestQueue/index.js';
import metadata from 'kafkajs/src/protocol/requests/metadata/index.js';
import type { Logger } from 'pino';
import { toKafkaAddress } from './broker-address.ts';
import { createCuttableSockets } from './cuttable-sockets.ts';

const CONNECTION_TIMEOUT_MS = 3_000;
const REQUEST_TIMEOUT_MS = 5_000;
const RETRY = { retries: 3, initialRetryTime: 100, maxRetryTime: 1_000 };

/** A kafkajs client and the switch that silences it for good. */
export type KafkaClient = Readonly<{ kafka: Kafka; cut(): void }>;

stopIdleTimers();
letPartitionsFailAlone();

/** A client of its own sockets, with bounded waits and retries. Its own log lines come as `debug`. */
export function createKafkaClient(
  brokers: readonly string[],
  log: Pick<Logger, 'debug'>,
  requestTimeoutMs = REQUEST_TIMEOUT_MS,
): KafkaClient {
  const sockets = createCuttableSockets();
  const kafka = new Kafka({
    clientId: 'order-service',
    brokers: brokers.map(toKafkaAddress),
    connectionTimeout: CONNECTION_TIMEOUT_MS,
    requestTimeout: requestTimeoutMs,
    retry: RETRY,
    socketFactory: sockets.open,
    logLevel: logLevel.WARN,
    // What matters of it comes back as an error, and is logged once by who asked.
    logCreator: () => (entry) => log.debug({ kafkajs: entry.namespace }, entry.log.message),
  });
  return { kafka, cut: sockets.cut };
}

/**
 * kafkajs 2.2.4 re-arms a timer of 1 ms per connection for ever, even with nothing to send: 6 to 8 % of
 * a core, and a TimeoutNegativeWarning (its issues 1704 and 1751). Nothing pending needs no timer: the
 * next request that has to wait arms it.
 */
function stopIdleTimers() {
  const schedule = RequestQueue.prototype.scheduleCheckPendingRequests;
  RequestQueue.prototype.scheduleCheckPendingRequests = function scheduleIfPending(
    this: RequestQueue,
  ) {
    if (this.pending.length > 0) schedule.call(this);
  };
}

/**
 * kafkajs 2.2.4 takes the whole answer about topics for an error when one partition in it has no leader,
 * and an idempotent producer asks about all topics of the cluster: one such partition, anybody's, and
 * nothing is published any more. Without that a leader is missed only by what is sent to that partition.
 */
function letPartitionsFailAlone() {
  for (const version of metadata.versions) {
    const { response } = metadata.protocol({ version })({ topics: [] });
    const { parse } = response;
    response.parse = async function parseTopics(answer) {
      await parse({
        ...answer,
        topicMetadata: answer.topicMetadata.map((topic) => ({ ...topic, partitionMetadata: [] })),
      });
      return answer;
    };
  }
}
