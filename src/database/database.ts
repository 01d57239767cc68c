import knex from 'knex';
import { Pool, types } from 'pg';
import type { PoolConfig } from 'pg';

/** Client-side limit on one statement; longer than the server's, so that the server's answer wins. */
const QUERY_TIMEOUT_MS = 6_000;
const SESSION_SETTINGS = {
  role: 'orders_app',
  statement_timeout: '5s',
  lock_timeout: '2s',
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
  /** For background work that speaks plain SQL. */
  pool: Pool;
  /** For reads and one-table statements. */
  knex: knex.Knex;
  close(): Promise<void>;
}>;

/** Opens the pools; connects on first use. `onError` hears of connections lost while idle. */
export function createDatabase(
  url: string,
  limits: Readonly<{ writersMax: number; poolMax: number }>,
  onError: (error: Error) => void,
): Database {
  const connection = connectionConfig(url);
  const pool = (max: number) => {
    const created = new Pool({ ...connection, max, connectionTimeoutMillis: 2_000 });
    created.on('error', onError);
    return created;
  };
  const writer = pool(limits.writersMax);
  const background = pool(Math.max(2, Math.ceil(limits.poolMax / 2)));
  const reads = knex({
    client: 'pg',
    connection,
    pool: { min: 0, max: Math.max(2, Math.floor(limits.poolMax / 2)) },
    acquireConnectionTimeout: 2_000,
  });
  return {
    writer,
    pool: background,
    knex: reads,
    close: async () => {
      await Promise.all([writer.end(), background.end(), reads.destroy()]);
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
