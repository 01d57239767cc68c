import { callbackify } from 'node:util';
import { Pool } from 'pg';
import type { ClientBase, PoolClient, PoolConfig } from 'pg';
import { createGivenUpSessions, isGivenUp } from './given-up-sessions.ts';
import type { GivenUpSessions } from './given-up-sessions.ts';
import { createPoolerProof } from './pooler.ts';
import { createPrimaryLocator } from './primary.ts';
import type { PrimaryLocator } from './primary.ts';
import { openSession, SessionRefused } from './session.ts';
import type { ServerIdentity, Session, SessionSettings } from './session.ts';

/** A connection is replaced after 4 to 6 minutes, so that none leads to a former primary for long. */
const LIFETIME_S = { min: 240, spread: 120 };

/** Opens the pools of a process on one database. */
export type SessionPools = Readonly<{
  /**
   * Opens a pool. Every new session gets these settings and is checked once. `connect` and `query` throw
   * SessionRefused if it does not have them, if its server takes no writes, or if a pooler does not keep it.
   */
  open(settings: SessionSettings, options: PoolConfig): Pool;
  givenUp: GivenUpSessions;
  /** Moves to another host of the URL as soon as it is promoted, until `close`. */
  watch(): void;
  close(): void;
}>;

/** @param onMove called with the host of the new primary when the pools move to it */
export function createSessionPools(url: string, onMove?: (host: string) => void): SessionPools {
  const server = createCurrentServer();
  const primary = createPrimaryLocator(url, (found) => server.admit(found), onMove);
  const givenUp = createGivenUpSessions(primary.find);
  const proof = createPoolerProof(primary.find);
  const sessions = new WeakMap<ClientBase, Session>();

  function open(settings: SessionSettings, options: PoolConfig): Pool {
    const hooks = {
      onConnect: async (client: ClientBase) => {
        const session = await openSession(client, settings);
        if (session.isPooled) await proof.require(client);
        server.admit(session.server);
        sessions.set(client, session);
      },
    };
    const pool = new Pool({
      ...options,
      maxLifetimeSeconds: LIFETIME_S.min + Math.floor(Math.random() * LIFETIME_S.spread),
      ...hooks,
    });
    wrapConnect(pool, toPrimary(pool, primary));
    wrapConnect(pool, toCurrentServer);
    return pool;
  }

  /** Closes a connection to an earlier server and takes the next one. */
  function toCurrentServer(connect: Connect): Connect {
    return function connectToCurrent(callback) {
      connect((error, client, release) => {
        const session = client && sessions.get(client);
        if (client === undefined || session === undefined) {
          callback(error, client, release);
        } else if (server.isCurrent(session.server)) {
          keepIfGivenUp(client, session);
          callback(undefined, client, (error) => client.release(error));
        } else {
          client.release(true);
          connectToCurrent(callback);
        }
      });
    };
  }

  /** The caller's release of a session that was given up takes effect once the session has ended. */
  function keepIfGivenUp(client: PoolClient, session: Session): void {
    const release = client.release.bind(client);
    client.release = (error) => {
      if (!isGivenUp(error)) release(error);
      else givenUp.keep(client, session, () => release(true));
    };
  }

  return {
    open,
    givenUp,
    watch: primary.watch,
    close: () => {
      primary.close();
      givenUp.close();
    },
  };
}

/** New connections of the pool lead to the primary. If it is not there any more, they look for it once more. */
function toPrimary(pool: Pool, primary: PrimaryLocator): (connect: Connect) => Connect {
  const find = callbackify(primary.find);
  return (connect) =>
    function connectToPrimary(callback, isSecond = false) {
      find((notFound, connection) => {
        if (notFound) {
          callback(notFound, undefined, () => {});
          return;
        }
        Object.assign(pool.options, connection);
        connect((error, client, release) => {
          const isLost = client === undefined && error?.message !== QUEUE_TIMEOUT;
          if (isLost && primary.lost(connection) && !isSecond) connectToPrimary(callback, true);
          else callback(error, client, release);
        });
      });
    };
}

/** The server of the newest session. Sessions on an earlier server are closed before they are used again. */
function createCurrentServer() {
  let current: ServerIdentity | undefined;
  return {
    /** @throws SessionRefused if a standby was promoted since this server was the primary */
    admit(server: ServerIdentity): void {
      if (current?.system === server.system && server.timeline < current.timeline) {
        throw new SessionRefused(
          `the server is on timeline ${server.timeline}, a former primary: ` +
            `a standby was promoted to timeline ${current.timeline}`,
          { isTemporary: true },
        );
      }
      current = server;
    },
    isCurrent: (server: ServerIdentity) =>
      server.system === current?.system &&
      server.timeline === current.timeline &&
      server.startedAt === current.startedAt,
  };
}

/** A connection error and an error of the query on it are one failure, which the query reports. */
const ignoreError = () => {};

/**
 * Runs `use` with a connection of its own. If `isSpoilt` says so of an error, the connection is closed: a response
 * that is still on its way would be read as the response to somebody else's statement.
 */
export async function withClient<Result>(
  pool: Pool,
  use: (client: PoolClient) => Promise<Result>,
  isSpoilt: (error: unknown) => boolean = () => true,
): Promise<Result> {
  const client = await pool.connect();
  client.on('error', ignoreError);
  let spoiltBy: Error | undefined;
  try {
    return await use(client);
  } catch (error) {
    if (isSpoilt(error)) spoiltBy = error instanceof Error ? error : new Error(String(error));
    throw error;
  } finally {
    client.off('error', ignoreError);
    client.release(spoiltBy);
  }
}

/** The message of pg if no connection became free in time. */
const QUEUE_TIMEOUT = 'timeout exceeded when trying to connect';
/** The end of its message if a new connection took too long. */
const CONNECT_TIMEOUT = 'due to connection timeout';

/** Calls `onTimeout` for every caller that got no connection in time. pg has no event for it. */
export function watchPoolTimeouts(pool: Pool, onTimeout: () => void): void {
  wrapConnect(pool, (connect) => (callback) => {
    connect((error, client, release) => {
      const message = error?.message ?? '';
      if (message === QUEUE_TIMEOUT || message.endsWith(CONNECT_TIMEOUT)) onTimeout();
      callback(error, client, release);
    });
  });
}

type ConnectCallback = Parameters<Pool['connect']>[0];
type Connect = (callback: ConnectCallback) => void;

/** Wraps the method that `pool.connect` and `pool.query` both get their connections from. */
function wrapConnect(pool: Pool, wrap: (connect: Connect) => Connect): void {
  const original = pool.connect.bind(pool);
  const wrapped = wrap((callback) => {
    original(callback);
  });

  function connect(): Promise<PoolClient>;
  function connect(callback: ConnectCallback): void;
  function connect(callback?: ConnectCallback): Promise<PoolClient> | undefined {
    if (callback === undefined) return connected();
    wrapped(callback);
    return undefined;
  }

  const connected = () =>
    new Promise<PoolClient>((resolve, reject) => {
      wrapped((error, client) => {
        if (client === undefined) reject(error);
        else resolve(client);
      });
    });

  pool.connect = connect;
}
