import { isIP } from 'node:net';
import type { Socket } from 'node:net';
import { Connection, parseBroker } from '@platformatic/kafka';
import type { ConnectionOptions, SASLMechanismValue } from '@platformatic/kafka';
import {
  CLIENT_ID,
  CONNECTION_TIMEOUT_MS,
  KEEP_ALIVE_DELAY_MS,
  readTlsFiles,
  requireHiddenPassword,
} from './kafka-connection.ts';
import type { KafkaConnection, KafkaLogin } from './kafka-connection.ts';

/** Requests of one connection at the same time. The broker works on one of them. */
const IN_FLIGHT_MAX = 5;
const MECHANISMS: Readonly<Record<KafkaLogin['mechanism'], SASLMechanismValue>> = {
  plain: 'PLAIN',
  'scram-sha-256': 'SCRAM-SHA-256',
  'scram-sha-512': 'SCRAM-SHA-512',
};

type Opened = Readonly<{ connection: Connection; ready: Promise<Connection> }>;

/** Where a broker listens. */
export type Address = Readonly<{ host: string; port: number }>;

/** The brokers, with at most one connection to each. */
export type Brokers = Readonly<{
  connectTo(broker: Address): Promise<Connection>;
  /** Asks the brokers of the settings, one after the other, until one responds. */
  ask<T>(question: (connection: Connection) => Promise<T>): Promise<T>;
  /** Why the last connection that failed did so. */
  lastFault(): Error | undefined;
  /** Ends all connections at once, discards what they have not sent, and opens no others. */
  destroy(): void;
  /** Aborted when the connections are destroyed. */
  signal: AbortSignal;
}>;

/**
 * Connects to brokers in a way that can be cut. The library's own pool would not do: it closes a
 * connection only after what waits there is sent, and loses sight of some that are still open.
 */
export function createBrokers(
  settings: KafkaConnection,
  requestTimeoutMs: number,
  /** The index of the broker that is asked first. */
  first: number,
): Brokers {
  const controller = new AbortController();
  const { signal } = controller;
  const opened = new Map<string, Opened>();
  let lastFault: Error | undefined;
  const { brokers } = settings;
  const seeds = brokers.map((_, index) =>
    parseBroker(brokers[(first + index) % brokers.length] ?? ''),
  );

  const connectTo = async (broker: Address): Promise<Connection> => {
    if (signal.aborted) throw new Error('the connection was cut');
    requireHiddenPassword(settings, broker.host);
    const name = `${broker.host}:${broker.port}`;
    const known = opened.get(name);
    if (known !== undefined) return known.ready;
    const connection = new Connection(CLIENT_ID, optionsFor(settings, broker, requestTimeoutMs));
    const drop = () => {
      if (opened.get(name)?.connection === connection) opened.delete(name);
      cut(connection);
    };
    // Whoever waits for a response gets the error too. Without a listener it would end the process.
    connection.on('error', (error: Error) => {
      lastFault = error;
      drop();
    });
    connection.on('close', drop);
    const ready = connect(connection, broker);
    opened.set(name, { connection, ready });
    ready.catch(drop);
    return ready;
  };

  return {
    connectTo,
    ask: async (question) => {
      const errors: unknown[] = [];
      for (const seed of seeds) {
        try {
          return await question(await connectTo(seed));
        } catch (error) {
          errors.push(error);
        }
      }
      throw errors.at(-1);
    },
    lastFault: () => lastFault,
    destroy: () => {
      controller.abort();
      for (const { connection } of opened.values()) cut(connection);
    },
    signal,
  };
}

async function connect(connection: Connection, { host, port }: Address): Promise<Connection> {
  await connection.connect(host, port);
  connection.socket.setKeepAlive(true, KEEP_ALIVE_DELAY_MS);
  return connection;
}

function optionsFor(
  { tls, sasl }: KafkaConnection,
  { host }: Address,
  requestTimeout: number,
): ConnectionOptions {
  return {
    connectTimeout: CONNECTION_TIMEOUT_MS,
    requestTimeout,
    maxInflights: IN_FLIGHT_MAX,
    ...(tls && {
      // Whatever NODE_TLS_REJECT_UNAUTHORIZED says.
      tls: { ...readTlsFiles(tls), rejectUnauthorized: true },
      // TLS names hosts, not addresses.
      tlsServerName: isIP(host) === 0 && host,
    }),
    ...(sasl && { sasl: { ...sasl, mechanism: MECHANISMS[sasl.mechanism] } }),
  };
}

/** Ends a connection at once, and the timer that it may have for its next login. */
function cut(connection: Pick<Connection, 'close'> & Readonly<{ socket?: Socket }>): void {
  connection.socket?.destroy(); // there is none if the settings of TLS cannot be used
  void connection.close();
}
