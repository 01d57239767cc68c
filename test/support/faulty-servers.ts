import { execFile } from 'node:child_process';
import { appendFile, mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { inject } from 'vitest';
import { startPostgres } from '#dev/embedded-postgres.ts';
import type { EmbeddedPostgres } from '#dev/embedded-postgres.ts';
import { migrate } from '#src/database/migrate.ts';
import { queryOnce } from './database.ts';
import type { Query } from './database.ts';
import {
  POSTGRES_SETTINGS,
  serverFolder,
  startTestKafka,
  startTestPostgres,
} from './test-servers.ts';
import type { TestServer } from './test-servers.ts';

/** A migrated Postgres of the test's own, to stop, kill and pause. */
export type FaultyPostgres = AsyncDisposable &
  TestServer &
  Readonly<{
    url: string;
    /** As superuser, on a new connection each time, because the last one may be dead. */
    query: Query;
  }>;

export async function startFaultyPostgres(): Promise<FaultyPostgres> {
  const server = await startTestPostgres(inject('infra'));
  const url = server.address;
  await migrate(url);
  return { ...server, ...postgresAt(url), [Symbol.asyncDispose]: server.remove };
}

/** A Kafka of the test's own, to stop, kill and pause. */
export async function startFaultyKafka(): Promise<
  AsyncDisposable & TestServer & Readonly<{ brokers: string[] }>
> {
  const server = await startTestKafka(inject('infra'));
  return { ...server, brokers: [server.address], [Symbol.asyncDispose]: server.remove };
}

/** A migrated primary and its hot standby, which follows by streaming replication. */
export type PostgresPair = AsyncDisposable &
  Readonly<
    Record<'primary' | 'standby', Pick<FaultyPostgres, 'url' | 'query' | 'pause' | 'resume'>> & {
      /** The URL that names both. */
      url: string;
    }
  >;

/** Uses embedded servers in every mode, because the standby begins as a copy of the primary's data folder. */
export async function startPostgresPair(): Promise<PostgresPair> {
  const folder = await serverFolder(inject('infra').run, 'postgres-pair-');
  const [first, second] = [join(folder, 'first'), join(folder, 'second')];
  const options = { database: 'postgres', log: () => {} };
  const primary = await startPostgres({ ...options, folder: first, settings: POSTGRES_SETTINGS });
  await primary.stop();
  await mkdir(second);
  const parts = ['data', 'password'].map((part) => join(first, part));
  await promisify(execFile)('cp', ['-Rp', ...parts, second]);
  await appendFile(join(second, 'data', 'standby.signal'), '');
  await primary.start();
  await migrate(primary.url);
  const settings = { ...POSTGRES_SETTINGS, primary_conninfo: primary.url };
  const standby = await startPostgres({ ...options, folder: second, settings });
  const pausable = (server: EmbeddedPostgres) => ({
    ...postgresAt(server.url),
    pause: () => server.signal('SIGSTOP'),
    resume: () => server.signal('SIGCONT'),
  });
  return {
    primary: pausable(primary),
    standby: pausable(standby),
    url: primary.url.replace(/:\d+\//, `:${primary.port},127.0.0.1:${standby.port}/`),
    [Symbol.asyncDispose]: async () => {
      await Promise.all([primary.kill(), standby.kill()]);
      await rm(folder, { recursive: true, force: true });
    },
  };
}

function postgresAt(url: string): Readonly<{ url: string; query: Query }> {
  return { url, query: (sql, params) => queryOnce(url, sql, params) };
}
