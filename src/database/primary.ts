import { setTimeout as delay } from 'node:timers/promises';
import { Client } from 'pg';
import { connectionTo, hostUrlsOf } from './database-url.ts';
import type { Connection } from './database-url.ts';
import { isTemporaryOutage } from './database-errors.ts';
import { openSession, SessionRefused } from './session.ts';
import type { ServerIdentity } from './session.ts';

const LOOK_TIMEOUT_MS = 2_000;
const WATCH_EVERY_MS = 3_000;

/** Finds the primary among the hosts of a URL. A URL with one host leads to it, and nothing is looked up. */
export type PrimaryLocator = Readonly<{
  /** How to connect to the primary. @throws SessionRefused if no host is one */
  find(): Promise<Connection>;
  /**
   * The host that `find` returned does not respond or is no primary. The next call looks again.
   * @returns whether there is another host
   */
  lost(connection: Connection): boolean;
  /** Looks every 3 s whether another host was promoted, until `close`. */
  watch(): void;
  close(): void;
}>;

type Primary = Readonly<{ connection: Connection; server: ServerIdentity }>;

const ignoreError = () => {};

/**
 * @param admit told of the primary that was found. Throws SessionRefused if it is a former one.
 * @param onMove called with the new host if it is not that of before
 */
export function createPrimaryLocator(
  url: string,
  admit: (server: ServerIdentity) => void = () => {},
  onMove: (host: string) => void = () => {},
): PrimaryLocator {
  const connections = hostUrlsOf(url).map(connectionTo);
  const [only] = connections;
  if (only && connections.length === 1) {
    return { find: async () => only, lost: () => false, watch: () => {}, close: () => {} };
  }
  let current: Connection | undefined;
  let latest: Connection | undefined;
  let locating: Promise<Connection> | undefined;
  const closing = new AbortController();

  async function locate(): Promise<Connection> {
    const { connection, server } = await newestPrimary(connections);
    admit(server);
    if (latest !== undefined && latest !== connection) onMove(hostOf(connection));
    current = connection;
    latest = connection;
    return connection;
  }

  async function find(): Promise<Connection> {
    if (current) return current;
    locating ??= locate().finally(() => {
      locating = undefined;
    });
    return locating;
  }

  /** A former primary may still respond, so that nothing fails. */
  async function watch(): Promise<void> {
    const options = { ref: false, signal: closing.signal };
    while (!closing.signal.aborted) {
      await delay(WATCH_EVERY_MS, undefined, options).catch(ignoreError);
      if (!closing.signal.aborted) await locate().catch(ignoreError);
    }
  }

  return {
    find,
    lost: (connection) => {
      if (current === connection) current = undefined;
      return true;
    },
    watch: () => void watch(),
    close: () => closing.abort(),
  };
}

/** Asks all hosts at once. A former primary that nobody has stopped is on a lower timeline. */
async function newestPrimary(connections: readonly Connection[]): Promise<Primary> {
  const looks = await Promise.allSettled(connections.map(look));
  const primaries = looks.flatMap((each) => (each.status === 'fulfilled' ? [each.value] : []));
  const [newest] = primaries.toSorted((one, other) => other.server.timeline - one.server.timeline);
  if (newest) return newest;
  const errors: unknown[] = looks.flatMap((each) =>
    each.status === 'rejected' ? [each.reason] : [],
  );
  if (!errors.some(isTemporaryOutage)) throw errors[0];
  const reasons = errors.map((error, index) => {
    const connection = connections[index];
    const host = connection === undefined ? '' : hostOf(connection);
    return `${host}: ${error instanceof Error ? error.message : String(error)}`;
  });
  const details = reasons.join('; ');
  throw new SessionRefused('no host takes writes', { isTemporary: true, details });
}

async function look(connection: Connection): Promise<Primary> {
  const client = new Client({
    ...connection,
    application_name: 'order-service primary look-up',
    connectionTimeoutMillis: LOOK_TIMEOUT_MS,
    query_timeout: LOOK_TIMEOUT_MS,
  });
  client.on('error', ignoreError); // the query fails too
  try {
    await client.connect();
    return { connection, server: (await openSession(client, {})).server };
  } finally {
    void client.end().catch(ignoreError);
  }
}

function hostOf({ connectionString }: Connection): string {
  const { host, searchParams } = new URL(connectionString);
  return host || (searchParams.get('host') ?? '');
}
