import { Client } from 'pg';
import type { QueryResultRow } from 'pg';
import { inject } from 'vitest';
// Makes pg read bigint as number, here as in the service.
import '#src/database/database.ts';
import { migrate } from '#src/database/migrate.ts';
import { startTestPostgres } from './test-server.ts';
import type { TestServer } from './test-server.ts';

/** A migrated Postgres of the test's own, to stop, kill and pause. */
export type FaultyPostgres = AsyncDisposable &
  TestServer &
  Readonly<{
    url: string;
    /** As the owner, on a connection of its own, since the last may be dead. */
    query<Row extends QueryResultRow = Record<string, unknown>>(
      sql: string,
      params?: unknown[],
    ): Promise<Row[]>;
  }>;

export async function startFaultyPostgres(): Promise<FaultyPostgres> {
  const server = await startTestPostgres(inject('infra'));
  const url = server.address;
  await migrate(url);
  return {
    ...server,
    url,
    query: async (sql, params) => {
      const client = new Client({ connectionString: url });
      client.on('error', () => {}); // told by the query
      try {
        await client.connect();
        return (await client.query(sql, params)).rows;
      } finally {
        await client.end();
      }
    },
    [Symbol.asyncDispose]: server.remove,
  };
}
