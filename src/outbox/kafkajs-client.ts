import { connect, isIP } from 'node:net';
import type { Socket } from 'node:net';
import { connect as connectTls } from 'node:tls';
import { Kafka, logLevel } from 'kafkajs';
import type { ISocketFactoryArgs } from 'kafkajs';
import RequestQueue from 'kafkajs/src/network/requestQueue/index.js';
import metadata from 'kafkajs/src/protocol/requests/metadata/index.js';
import type { Logger } from 'pino';
import {
  CLIENT_ID,
  CONNECTION_TIMEOUT_MS,
  KEEP_ALIVE_DELAY_MS,
  readTlsFiles,
  requireHiddenPassword,
  RETRY,
} from './kafka-connection.ts';
import type { KafkaConnection, KafkaTlsFiles } from './kafka-connection.ts';

/** Shorter, so that the error says what was missing. */
const HANDSHAKE_TIMEOUT_MS = 2_500;
const REQUEST_TIMEOUT_MS = 5_000;
const IPV6_SUFFIX = '.ipv6-literal.net';
/** The first two bytes of a TLS record that says what is wrong. */
const [TLS_ALERT, TLS_VERSION] = [0x15, 0x03];

stopIdleTimers();
acceptPartitionsWithoutLeader();

export type KafkaClient = Readonly<{
  kafka: Kafka;
  /** Why the last connection failed, if none was opened since. kafkajs may still be retrying. */
  lastFault(): Error | undefined;
  /** Ends all connections at once and opens no others. */
  destroy(): void;
}>;

/** A kafkajs client with its own connections, and bounded timeouts and retries. */
export function createKafkaClient(
  connection: KafkaConnection,
  log: Pick<Logger, 'debug'>,
  requestTimeoutMs = REQUEST_TIMEOUT_MS,
): KafkaClient {
  const { brokers, sasl } = connection;
  const connections = createConnections(connection);
  const kafka = new Kafka({
    clientId: CLIENT_ID,
    brokers: brokers.map(toKafkajsAddress),
    connectionTimeout: CONNECTION_TIMEOUT_MS,
    requestTimeout: requestTimeoutMs,
    retry: RETRY,
    socketFactory: connections.open,
    ...(sasl && { sasl: { ...sasl } }), // kafkajs adds to it
    logLevel: logLevel.WARN,
    // What matters is also thrown as an error, and whoever catches it logs it.
    logCreator: () => (entry) => log.debug({ kafkajs: entry.namespace }, entry.log.message),
  });
  return { kafka, lastFault: connections.lastFault, destroy: connections.destroy };
}

/**
 * The connections of one client. kafkajs keeps sending after `disconnect()` (its issue 1174). A
 * client certainly sends nothing more when its sockets are destroyed and it cannot open new ones.
 */
export function createConnections(connection: Pick<KafkaConnection, 'tls' | 'sasl'>) {
  const { tls } = connection;
  const sockets = new Set<Socket>();
  let isDestroyed = false;
  let lastFault: Error | undefined;

  return {
    open: ({ host, port, onConnect }: ISocketFactoryArgs): Socket => {
      if (isDestroyed) throw new Error('the connection was cut');
      const address = { host: fromKafkajsHost(host), port };
      requireHiddenPassword(connection, address.host);
      const opened = () => {
        lastFault = undefined;
        onConnect();
      };
      const socket = tls ? openTls(address, tls, opened) : openPlaintext(address, opened);
      socket.setKeepAlive(true, KEEP_ALIVE_DELAY_MS);
      sockets.add(socket);
      socket.once('close', () => sockets.delete(socket));
      socket.on('error', (error) => {
        lastFault = error;
      });
      return socket;
    },
    lastFault: () => lastFault,
    /** Discards what the sockets have not sent yet. */
    destroy: () => {
      isDestroyed = true;
      for (const socket of sockets) socket.destroy(new Error('the connection was cut'));
    },
  };
}

type Address = Readonly<{ host: string; port: number }>;

function openPlaintext(address: Address, onConnect: () => void): Socket {
  const socket = connect({ ...address, noDelay: true }, onConnect);
  // kafkajs would take the bytes for the length of a response, and wait for the rest.
  socket.once('data', (bytes) => {
    if (isTlsAlert(bytes)) socket.destroy(new Error('the response is one of TLS'));
  });
  return socket;
}

/** @throws if a file of TLS cannot be read or used now */
function openTls(address: Address, files: KafkaTlsFiles, onConnect: () => void): Socket {
  const { host } = address;
  const options = { ...address, ...(isIP(host) === 0 && { servername: host }), noDelay: true };
  const checks = { rejectUnauthorized: true }; // whatever NODE_TLS_REJECT_UNAUTHORIZED says
  const socket = connectTls({ ...options, ...readTlsFiles(files), ...checks }, onConnect);
  const timer = setTimeout(() => {
    socket.destroy(new Error(`no TLS handshake within ${HANDSHAKE_TIMEOUT_MS} ms`));
  }, HANDSHAKE_TIMEOUT_MS);
  const clear = () => clearTimeout(timer);
  socket.once('secureConnect', clear).once('close', clear);
  return socket;
}

function isTlsAlert(bytes: Buffer): boolean {
  return bytes[0] === TLS_ALERT && bytes[1] === TLS_VERSION;
}

/**
 * kafkajs splits an address at every colon (its issue 1589). So `[::1]:9092` is passed to it as
 * `--1.ipv6-literal.net:9092`.
 */
function toKafkajsAddress(broker: string): string {
  const [, address, port] = /^\[(.+)\]:(\d+)$/.exec(broker) ?? [];
  return address === undefined ? broker : `${address.replaceAll(':', '-')}${IPV6_SUFFIX}:${port}`;
}

function fromKafkajsHost(host: string): string {
  return host.endsWith(IPV6_SUFFIX)
    ? host.slice(0, -IPV6_SUFFIX.length).replaceAll('-', ':')
    : host;
}

/**
 * Patch 1. kafkajs 2.2.4 sets a timer of 1 ms for each connection, again and again, even when no
 * request is pending: 6 to 8 % of a core, and a TimeoutNegativeWarning (its issues 1704 and 1751).
 * The patch sets the timer only while requests are pending. The next request that has to wait sets
 * it again.
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
 * Patch 2. An idempotent producer of kafkajs 2.2.4 asks for the metadata of all topics of the
 * cluster, and rejects the whole response when one partition in it has no leader. One such
 * partition, of any topic, would stop all publishing. The patch hides the partitions from that
 * check. A send to a partition without a leader still fails by itself.
 */
function acceptPartitionsWithoutLeader() {
  for (const version of metadata.versions) {
    const { response } = metadata.protocol({ version })({ topics: [] });
    const { parse: check } = response;
    response.parse = async function checkTopicsOnly(decoded) {
      await check({
        ...decoded,
        topicMetadata: decoded.topicMetadata.map((topic) => ({ ...topic, partitionMetadata: [] })),
      });
      return decoded;
    };
  }
}
