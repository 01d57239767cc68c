import { randomUUID } from 'node:crypto';
import { Client, Pool } from 'pg';
import type { QueryResultRow } from 'pg';
// Makes pg read bigint as number, here as in the service.
import '#src/database/database.ts';
import { sharedServer } from './infra.ts';
import { eventually } from './poll.ts';
import { TEMPLATE_DATABASE, urlOfDatabase } from './template-database.ts';

const GOODBYE_MS_MAX = 500;
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

/** A copy of the migrated template; `await using` drops it, whoever is still connected. */
export async function createTestDatabase(): Promise<TestDatabase> {
  const server = await sharedServer('postgres');
  const name = `test_${randomUUID().replaceAll('-', '')}`;
  await asSuperuser(server, [
    `select pg_advisory_lock(${COPY_LOCK})`, // two copies of one template at a time get in each other's way
    `create database ${name} template ${TEMPLATE_DATABASE}`,
  ]);
  const url = urlOfDatabase(server, name);
  const pool = new Pool({ connectionString: url, max: 2 });
  pool.on('error', () => {}); // the test may well cut connections
  return {
    url,
    query: async (sql, params) => (await pool.query(sql, params)).rows,
    [Symbol.asyncDispose]: async () => {
      await pool.end();
      await sessionsToEnd(server, name);
      await asSuperuser(server, [`drop database if exists ${name} with (force)`]);
    },
  };
}

/**
 * Those that have said goodbye are gone in a moment; a client that is cut off while it leaves has nobody
 * left to tell. Those that stay are cut off.
 */
async function sessionsToEnd(server: string, name: string): Promise<void> {
  const client = new Client({ connectionString: server });
  await client.connect();
  const areGone = async () => {
    const { rows } = await client.query('select from pg_stat_activity where datname = $1', [name]);
    return rows.length === 0;
  };
  await eventually(areGone, { withinMs: GOODBYE_MS_MAX }).catch(() => {});
  await client.end();
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
