import knex from 'knex';
import { Pool, types } from 'pg';
import type { PoolConfig } from 'pg';
import { createReads } from './reads.ts';
import type { Reads } from './reads.ts';

/** Client-side limit on one statement; longer than the server's, so that the server's answer wins. */
const QUERY_TIMEOUT_MS = 6_000;
const SESSION_SETTINGS = {
  role: 'orders_app',
  statement_timeout: '5s',
  lock_timeout: '1s',
  idle_in_transaction_session_timeout: '10s',
  synchronous_commit: 'on',
  timezone: 'UTC',
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
  const open = (max: number) => {
    const pool = new Pool({ ...connectionConfig(url), max, connectionTimeoutMillis: 2_000 });
    pool.on('error', onError);
    return pool;
  };
  const writer = open(limits.writersMax);
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
    connectionString: url,
    options: `-c role=${SESSION_SETTINGS.role} -c timezone=${SESSION_SETTINGS.timezone}`,
    application_name: 'order-service operator',
    max: 2,
    connectionTimeoutMillis: 5_000,
  });
}

function connectionConfig(url: string) {
  const options = Object.entries(SESSION_SETTINGS).map(([name, value]) => `-c ${name}=${value}`);
  return {
    connectionString: url,
    options: options.join(' '),
    query_timeout: QUERY_TIMEOUT_MS,
    keepAlive: true,
    keepAliveInitialDelayMillis: 5_000,
    application_name: 'order-service',
  } satisfies PoolConfig;
}
