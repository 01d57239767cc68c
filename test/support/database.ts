import { randomUUID } from 'node:crypto';
import { Client, Pool } from 'pg';
import type { QueryResultRow } from 'pg';
// Makes pg read bigint as number, here as in the service.
import '#src/database/database.ts';
import { sharedServer } from './infra.ts';
import { TEMPLATE_DATABASE, urlOfDatabase } from './template-database.ts';

/** Any constant; test files take turns at copying. */
const COPY_LOCK = 1;

/** A migrated, empty database of the test's own. */
export type TestDatabase = AsyncDisposable &
  Readonly<{
    /** As superuser; the service drops to its own role by itself. */
    url: string;
    /** As the owner of the tables. */
    query<Row extends QueryResultRow = Record<string, unknown>>(
      sql: string,
      params?: unknown[],
    ): Promise<Row[]>;
  }>;

/**
 * A copy of the migrated template. Nobody drops it: that makes a checkpoint, which holds up the commits of
 * the tests beside it. It goes with the server at the end of the run.
 */
export function createTestDatabase(): Promise<TestDatabase> {
  return create(`template ${TEMPLATE_DATABASE}`);
}

/** One without a schema; `options` are those of `create database`. */
export function createEmptyDatabase(options = ''): Promise<TestDatabase> {
  return create(options);
}

async function create(options: string): Promise<TestDatabase> {
  const server = await sharedServer('postgres');
  const name = `test_${randomUUID().replaceAll('-', '')}`;
  await asSuperuser(server, [
    `select pg_advisory_lock(${COPY_LOCK})`, // two copies of one template at a time get in each other's way
    `create database ${name} ${options}`,
  ]);
  const url = urlOfDatabase(server, name);
  const pool = new Pool({ connectionString: url, max: 2 });
  pool.on('error', () => {}); // the test may well cut connections
  return {
    url,
    query: async (sql, params) => (await pool.query(sql, params)).rows,
    [Symbol.asyncDispose]: () => pool.end(),
  };
}

async function asSuperuser(server: string, statements: readonly string[]): Promise<void> {
  const client = new Client({ connectionString: server });
  await client.connect();
  try {
    for (const statement of statements) await client.query(statement);
  } finally {
    await client.end();
  }
}
