import { execFile } from 'node:child_process';
import { appendFile, mkdir, mkdtemp, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { Client } from 'pg';
import type { QueryResultRow } from 'pg';
import { inject } from 'vitest';
import { startPostgres } from '#dev/embedded-postgres.ts';
import { migrate } from '#src/database/migrate.ts';
import { runFolder } from './test-runs.ts';
import { POSTGRES_SETTINGS } from './test-server.ts';

const quiet = () => {};

/** A server of the pair, asked as superuser on a connection of its own. */
export type PairedServer = Readonly<{
  url: string;
  query<Row extends QueryResultRow = Record<string, unknown>>(sql: string): Promise<Row[]>;
}>;

/** A migrated primary and its hot standby, which follows by streaming. */
export type PostgresPair = AsyncDisposable &
  Readonly<{ primary: PairedServer; standby: PairedServer }>;

/** Embedded servers in every mode: the standby begins as a copy of the primary's data folder. */
export async function startPostgresPair(): Promise<PostgresPair> {
  const parent = runFolder(inject('infra').run);
  await mkdir(parent, { recursive: true });
  const folder = await mkdtemp(join(parent, 'postgres-pair-'));
  const [first, second] = [join(folder, 'first'), join(folder, 'second')];
  const options = { database: 'postgres', log: quiet, settings: POSTGRES_SETTINGS };
  const primary = await startPostgres({ ...options, folder: first });
  await primary.stop();
  await mkdir(second);
  const parts = ['data', 'password'];
  await promisify(execFile)('cp', ['-Rp', ...parts.map((part) => join(first, part)), second]);
  await appendFile(join(second, 'data', 'standby.signal'), '');
  await primary.start();
  await migrate(primary.url);
  const settings = { ...POSTGRES_SETTINGS, primary_conninfo: primary.url };
  const standby = await startPostgres({ ...options, folder: second, settings });
  return {
    primary: paired(primary.url),
    standby: paired(standby.url),
    [Symbol.asyncDispose]: async () => {
      await Promise.all([primary.kill(), standby.kill()]);
      await rm(folder, { recursive: true, force: true });
    },
  };
}

function paired(url: string): PairedServer {
  return {
    url,
    query: async (sql) => {
      const client = new Client({ connectionString: url });
      client.on('error', quiet); // told by the query
      try {
        await client.connect();
        return (await client.query(sql)).rows;
      } finally {
        await client.end();
      }
    },
  };
}
