import createKnex from 'knex';
import type { Knex } from 'knex';
import { types } from 'pg';
import type { Pool, QueryResultRow } from 'pg';
import { createSessionPools } from './session-pool.ts';
import {
  BACKGROUND_SETTINGS,
  INDEX_ONLY_SETTINGS,
  MIGRATION_SETTINGS,
  OPERATOR_SETTINGS,
  READ_SETTINGS,
} from './session.ts';
import type { SessionSettings } from './session.ts';

/** The client's limit on one statement. It is above the server's, so that the server responds first. */
const QUERY_TIMEOUT_MS = 6_000;
/** Few callers need them, and each waits for a lock for a second at most. */
const ROW_WRITES_MAX = 2;

/** bigint columns hold positions, money and counts below 2^53, which a number represents exactly. */
types.setTypeParser(types.builtins.INT8, (text) => {
  const value = Number(text);
  if (!Number.isSafeInteger(value)) throw new Error(`bigint ${text} is above 2^53-1`);
  return value;
});

/** The connections of the service. All of them use the role `orders_app`. */
export type Database = Readonly<{
  /** For the write path alone, so that no slow read can take its connections. */
  writer: Pool;
  /** For background work: relay, leases, sagas. */
  pool: Pool;
  /** For rows that callers change one by one and that another transaction may have locked. */
  writes: Pool;
  /** For the reads of callers. */
  reads: ReadPool;
  /** The sessions that were given up while the server still works on them. Each keeps its place in its pool. */
  givenUpSessions(): number;
  close(): Promise<void>;
}>;

/** Runs queries that are built with knex on a pool of pg. */
export type ReadPool = Readonly<{
  /** Builds queries. It has no connections of its own. */
  knex: Knex;
  pool: Pool;
  /** The rows of a query. */
  rows<Row extends QueryResultRow>(query: Knex.QueryBuilder): Promise<Row[]>;
}>;

/**
 * Opens the pools. They connect when they are first used. `onError` is called when an idle connection is lost, and
 * `onMove` with the host of another primary when they move to it.
 */
export function createDatabase(
  url: string,
  limits: Readonly<{ writersMax: number; poolMax: number }>,
  onError: (error: Error) => void,
  onMove?: (host: string) => void,
): Database {
  const sessionPools = createSessionPools(url, onMove);
  const { open, givenUp } = sessionPools;
  const openPool = (settings: SessionSettings, sizes: Readonly<{ min: number; max: number }>) => {
    const pool = open(settings, {
      ...sizes,
      query_timeout: QUERY_TIMEOUT_MS,
      application_name: 'order-service',
      connectionTimeoutMillis: 2_000,
    });
    pool.on('error', onError);
    return pool;
  };
  // A minimum stays open, so that nobody else can take the last connections of the server.
  const { writersMax, poolMax } = limits;
  const writer = openPool(INDEX_ONLY_SETTINGS, { min: writersMax, max: writersMax });
  const pool = openPool(BACKGROUND_SETTINGS, { min: 1, max: Math.max(2, Math.ceil(poolMax / 2)) });
  const reads = openPool(READ_SETTINGS, {
    min: 1,
    max: Math.max(2, Math.floor(poolMax / 2)),
  });
  const writes = openPool(BACKGROUND_SETTINGS, { min: 0, max: ROW_WRITES_MAX });
  sessionPools.watch();
  return {
    writer,
    pool,
    writes,
    reads: createReadPool(reads),
    givenUpSessions: givenUp.count,
    close: async () => {
      sessionPools.close();
      await Promise.all([writer, pool, writes, reads].map((each) => each.end()));
    },
  };
}

/**
 * The pool of pg instead of the one of knex, which would hand out a connection again whose query was given up after
 * the client's timeout.
 */
export function createReadPool(pool: Pool): ReadPool {
  return {
    knex: createKnex({ client: 'pg' }),
    pool,
    async rows<Row extends QueryResultRow>(query: Knex.QueryBuilder) {
      const { sql, bindings } = query.toSQL().toNative();
      const { rows } = await pool.query<Row>(sql, [...bindings]);
      return rows;
    },
  };
}

/** Connections for the command of an operator, which may take as long as it needs. */
export function createOperatorPool(url: string): Pool {
  return createSessionPools(url).open(OPERATOR_SETTINGS, {
    application_name: 'order-service operator',
    max: 2,
    connectionTimeoutMillis: 5_000,
  });
}

/** Connections for a command of an operator that the role of the service has no right to. */
export function createOwnerPool(url: string): Pool {
  return createSessionPools(url).open(MIGRATION_SETTINGS, {
    application_name: 'order-service operator',
    max: 2,
    connectionTimeoutMillis: 5_000,
  });
}

/**
 * How long the oldest transaction of the database has been open, in seconds; 0 if there is none, and NaN if the owner
 * of the tables is not shown every session.
 */
export async function oldestTransactionAgeSeconds(pool: Pool): Promise<number> {
  const { rows } = await pool.query<{ age: number | null }>(
    'select oldest_transaction_age_seconds() as age',
  );
  return rows[0]?.age ?? Number.NaN;
}
