import knex from 'knex';
import { types } from 'pg';
import type { Pool, PoolConfig } from 'pg';
import { createGivenUpSessions } from './given-up-sessions.ts';
import { createReads } from './reads.ts';
import type { Reads } from './reads.ts';
import { createCurrentServer, createSessionPool } from './session-pool.ts';
import {
  BACKGROUND_SETTINGS,
  INDEX_ONLY_SETTINGS,
  MIGRATION_SETTINGS,
  OPERATOR_SETTINGS,
  startupOptions,
} from './session-settings.ts';
import type { SessionSettings } from './session-settings.ts';

/** Client-side limit on one statement; longer than the server's, so that the server's answer wins. */
const QUERY_TIMEOUT_MS = 6_000;
/** Beside what is set: they are few, and each waits for a lock for a second at most. */
const WRITES_MAX = 2;

/** bigint columns hold positions, money and counts: all below 2^53, so numbers lose nothing. */
types.setTypeParser(types.builtins.INT8, (text) => {
  const value = Number(text);
  if (!Number.isSafeInteger(value)) throw new Error(`bigint ${text} is above 2^53-1`);
  return value;
});

/** How the service reaches Postgres. Every connection works as the role `orders_app`. */
export type Database = Readonly<{
  /** For the write path only, so that no slow read can take its connections. */
  writer: Pool;
  /** For work in the background: relay, leases, sagas. */
  pool: Pool;
  /** For rows that callers change one by one, and that somebody else may hold locked. */
  writes: Pool;
  /** For what callers ask to see. */
  reads: Reads;
  /** Sessions that were given up while the server is still at work on them; each keeps its place. */
  givenUpSessions(): number;
  close(): Promise<void>;
}>;

/**
 * Opens the pools; connects on first use. `onError` hears of connections lost while idle. Every session is
 * on a server that takes writes and has the settings of its pool, or `connect` throws SessionRefused.
 */
export function createDatabase(
  url: string,
  limits: Readonly<{ writersMax: number; poolMax: number }>,
  onError: (error: Error) => void,
): Database {
  const server = createCurrentServer();
  const givenUp = createGivenUpSessions(connectionTo(url));
  const open = (settings: SessionSettings, sizes: Readonly<{ min: number; max: number }>) => {
    const config = {
      ...connectionTo(url, settings),
      ...sizes,
      query_timeout: QUERY_TIMEOUT_MS,
      application_name: 'order-service',
      connectionTimeoutMillis: 2_000,
    };
    const pool = createSessionPool({ config, settings, server, givenUp });
    pool.on('error', onError);
    return pool;
  };
  // What is always needed stays open, so that nobody else can take the last connections of the server.
  const { writersMax, poolMax } = limits;
  const writer = open(INDEX_ONLY_SETTINGS, { min: writersMax, max: writersMax });
  const pool = open(BACKGROUND_SETTINGS, { min: 1, max: Math.max(2, Math.ceil(poolMax / 2)) });
  const reads = open(INDEX_ONLY_SETTINGS, { min: 1, max: Math.max(2, Math.floor(poolMax / 2)) });
  const writes = open(BACKGROUND_SETTINGS, { min: 0, max: WRITES_MAX });
  return {
    writer,
    pool,
    writes,
    reads: createReads(knex({ client: 'pg' }), reads),
    givenUpSessions: givenUp.count,
    close: async () => {
      givenUp.close();
      await Promise.all([writer, pool, writes, reads].map((each) => each.end()));
    },
  };
}

/** Connections for an operator's command, which may take as long as it needs. */
export function createOperatorPool(url: string): Pool {
  const config = {
    ...connectionTo(url, OPERATOR_SETTINGS),
    application_name: 'order-service operator',
    max: 2,
    connectionTimeoutMillis: 5_000,
  };
  return createSessionPool({
    config,
    settings: OPERATOR_SETTINGS,
    server: createCurrentServer(),
    givenUp: createGivenUpSessions(connectionTo(url)), // never any: no statement is given up
  });
}

/** How to connect as the owner, who alone may change the schema. */
export function migrationConnection(url: string) {
  return {
    ...connectionTo(url, MIGRATION_SETTINGS),
    application_name: 'order-service migration',
  };
}

function connectionTo(url: string, settings: SessionSettings = {}) {
  return {
    connectionString: url,
    options: startupOptions(settings),
    keepAlive: true,
    keepAliveInitialDelayMillis: 5_000,
  } satisfies PoolConfig;
}
