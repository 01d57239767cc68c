import { randomUUID } from 'node:crypto';
import { Client, Pool } from 'pg';
import type { QueryResultRow } from 'pg';
// Makes pg read bigint as number, as in the service.
import '#src/database/database.ts';
import { sharedServer } from './infra.ts';
import { TEMPLATE_DATABASE, urlOfDatabase } from './test-servers.ts';

/** Any constant. Test files take turns at copying the template. */
const COPY_LOCK = 1;

export type Query = <Row extends QueryResultRow = Record<string, unknown>>(
  sql: string,
  params?: unknown[],
) => Promise<Row[]>;

/** A migrated, empty database of the test's own. */
export type TestDatabase = AsyncDisposable &
  Readonly<{
    /** As superuser. The service switches to its own role by itself. */
    url: string;
    /** As superuser, who owns the tables. */
    query: Query;
  }>;

/**
 * A copy of the migrated template. It is not dropped: dropping makes a checkpoint, which delays the commits of
 * other tests. It goes with the server at the end of the run.
 */
export function createTestDatabase(): Promise<TestDatabase> {
  return create(`template ${TEMPLATE_DATABASE}`);
}

/** A database without a schema. `options` are those of `create database`. */
export function createEmptyDatabase(options = ''): Promise<TestDatabase> {
  return create(options);
}

async function create(options: string): Promise<TestDatabase> {
  const server = await sharedServer('postgres');
  const name = `test_${randomUUID().replaceAll('-', '')}`;
  const client = new Client({ connectionString: server });
  await client.connect();
  try {
    await client.query(`select pg_advisory_lock(${COPY_LOCK})`); // concurrent copies of a template fail
    await client.query(`create database ${name} ${options}`);
  } finally {
    await client.end();
  }
  const url = urlOfDatabase(server, name);
  const pool = new Pool({ connectionString: url, max: 2 });
  pool.on('error', () => {}); // a test may cut connections
  return {
    url,
    query: async (sql, params) => (await pool.query(sql, params)).rows,
    [Symbol.asyncDispose]: () => pool.end(),
  };
}

/** Runs one query on a connection of its own. */
export async function queryOnce<Row extends QueryResultRow>(
  url: string,
  sql: string,
  params?: unknown[],
): Promise<Row[]> {
  const client = new Client({ connectionString: url });
  client.on('error', () => {}); // the query reports it
  try {
    await client.connect();
    return (await client.query<Row>(sql, params)).rows;
  } finally {
    await client.end();
  }
}

/** The number of rows in each table to which a command may write. */
export type RowCounts = Readonly<
  Record<'events' | 'streams' | 'summaries' | 'messages' | 'responses', number>
>;

/** To compare before and after a request that must write nothing. */
export async function rowCounts({ query }: TestDatabase): Promise<RowCounts> {
  const [row] = await query<RowCounts>(
    `select (select count(*) from events) as events, (select count(*) from streams) as streams,
            (select count(*) from orders_summary) as summaries,
            (select count(*) from outbox_events) as messages,
            (select count(*) from idempotency_keys) as responses`,
  );
  return row!;
}
