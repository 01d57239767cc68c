import knex from 'knex';
import { Pool, types } from 'pg';
import type { PoolConfig } from 'pg';
import { createReads } from './reads.ts';
import type { Reads } from './reads.ts';

/** Client-side limit on one statement; longer than the server's, so that the server's answer wins. */
const QUERY_TIMEOUT_MS = 6_000;
/** A host that is gone without a word is found out within 11 s: its session ends, and its locks with it. */
const GONE_SETTINGS = {
  tcp_keepalives_idle: '5',
  tcp_keepalives_interval: '2',
  tcp_keepalives_count: '3',
  tcp_user_timeout: '10s',
} as const;
const SESSION_SETTINGS = {
  role: 'orders_app',
  statement_timeout: '5s',
  lock_timeout: '1s',
  idle_in_transaction_session_timeout: '10s',
  synchronous_commit: 'on',
  timezone: 'UTC',
  ...GONE_SETTINGS,
} as const;
/** Loads before a decision are planned once, perhaps on empty tables, like `append_units`: by index only. */
const WRITER_SETTINGS = {
  ...SESSION_SETTINGS,
  enable_seqscan: 'off',
  enable_hashjoin: 'off',
  enable_mergejoin: 'off',
} as const;
/** Statements take as long as they need; between two of them nobody does. */
const UNHURRIED_SETTINGS = {
  idle_in_transaction_session_timeout: '60s',
  timezone: 'UTC',
  ...GONE_SETTINGS,
} as const;

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
  /** For what callers ask to see. */
  reads: Reads;
  close(): Promise<void>;
}>;

/** Opens the pools; connects on first use. `onError` hears of connections lost while idle. */
export function createDatabase(
  url: string,
  limits: Readonly<{ writersMax: number; poolMax: number }>,
  onError: (error: Error) => void,
): Database {
  const open = (max: number, settings: Readonly<Record<string, string>> = SESSION_SETTINGS) => {
    const pool = new Pool({
      ...connectionTo(url, settings),
      query_timeout: QUERY_TIMEOUT_MS,
      application_name: 'order-service',
      max,
      connectionTimeoutMillis: 2_000,
    });
    pool.on('error', onError);
    return pool;
  };
  const writer = open(limits.writersMax, WRITER_SETTINGS);
  const pool = open(Math.max(2, Math.ceil(limits.poolMax / 2)));
  const reads = open(Math.max(2, Math.floor(limits.poolMax / 2)));
  return {
    writer,
    pool,
    reads: createReads(knex({ client: 'pg' }), reads),
    close: async () => {
      await Promise.all([writer, pool, reads].map((each) => each.end()));
    },
  };
}

/** One connection for an operator's command, which may take as long as it needs. */
export function createOperatorPool(url: string): Pool {
  return new Pool({
    ...connectionTo(url, { ...UNHURRIED_SETTINGS, role: SESSION_SETTINGS.role }),
    application_name: 'order-service operator',
    max: 2,
    connectionTimeoutMillis: 5_000,
  });
}

/** How to connect as the owner, who alone may change the schema. */
export function migrationConnection(url: string) {
  return { ...connectionTo(url, UNHURRIED_SETTINGS), application_name: 'order-service migration' };
}

function connectionTo(url: string, settings: Readonly<Record<string, string>>) {
  const options = Object.entries(settings).map(([name, value]) => `-c ${name}=${value}`);
  return {
    connectionString: url,
    options: options.join(' '),
    keepAlive: true,
    keepAliveInitialDelayMillis: 5_000,
  } satisfies PoolConfig;
}
