import { spawn } from 'node:child_process';
import { readFile, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Client } from 'pg';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { startPostgres } from '#dev/embedded-postgres.ts';
import { postgresUser } from '#dev/postgres-binaries.ts';
import { findProcesses, markerOf, sendSignal } from '#dev/processes.ts';
import { skipReason } from '#test/support/infra.ts';
import { createTestFolder } from '#test/support/test-folder.ts';

describe.skipIf(skipReason('postgres'))('the embedded Postgres', () => {
  let folder: Awaited<ReturnType<typeof createTestFolder>>;
  const start = () => startPostgres({ folder: folder.path, database: 'orders', log: () => {} });

  beforeAll(async () => {
    folder = await createTestFolder('postgres-');
  });
  afterAll(() => folder[Symbol.asyncDispose]());

  test('has what was committed after a kill -9 and after a stop, on the same address', async () => {
    const postgres = await start();
    await query(postgres.url, 'create table kept as select 42 as answer');
    await postgres.kill();
    expect(await findProcesses(markerOf(folder.path))).toEqual([]);
    await postgres.start();
    expect(await query(postgres.url, 'select answer from kept')).toEqual([{ answer: 42 }]);
    await postgres.stop();
    const again = await start();
    expect(again.url).toBe(postgres.url);
    expect(await query(again.url, 'select answer from kept')).toEqual([{ answer: 42 }]);
  });

  test('goes on with a server that an earlier start left running', async () => {
    await start();
    const earlier = await postmasterOf(folder.path);
    await start();
    expect(await postmasterOf(folder.path)).toBe(earlier);
  });

  test('takes the place of a server that was killed, with its children still there', async () => {
    const killed = await start();
    const earlier = await postmasterOf(folder.path);
    await killed.signal('SIGSTOP'); // otherwise they end by themselves when the postmaster has ended
    sendSignal(earlier, 'SIGKILL');
    const postgres = await start();
    expect(await query(postgres.url, 'select 1 as one')).toEqual([{ one: 1 }]);
    expect(await postmasterOf(folder.path)).not.toBe(earlier);
  });

  test('starts although its old process id is now that of another program', async () => {
    const postgres = await start();
    await postgres.kill();
    const other = spawn('sleep', ['60'], { ...(await postgresUser()) });
    const file = join(folder.path, 'data', 'postmaster.pid');
    const [, ...rest] = (await readFile(file, 'utf8')).split('\n');
    await writeFile(file, [other.pid, ...rest].join('\n'));
    await postgres.start();
    expect(await query(postgres.url, 'select 1 as one')).toEqual([{ one: 1 }]);
    other.kill();
  });

  test('says so at once when it dies of a signal as it starts', async () => {
    await using broken = await createTestFolder('postgres-');
    const options = { folder: broken.path, database: 'orders', log: () => {} };
    const postgres = await startPostgres(options);
    await postgres.stop();
    await truncate(join(broken.path, 'data', 'global', 'pg_control')); // Postgres aborts when it reads this file
    await expect(postgres.start()).rejects.toThrow('Postgres did not start');
  });

  test('syncs to disk, and lets nobody in without the password', async () => {
    const { port, url } = await start();
    expect(await query(url, 'show fsync')).toEqual([{ fsync: 'on' }]);
    expect(await query(url, 'show synchronous_commit')).toEqual([{ synchronous_commit: 'on' }]);
    const guess = `postgres://postgres:postgres@127.0.0.1:${port}/orders`;
    await expect(query(guess, 'select 1')).rejects.toThrow('password authentication failed');
  });
});

async function postmasterOf(folder: string): Promise<number> {
  const [pid = ''] = (await readFile(join(folder, 'data', 'postmaster.pid'), 'utf8')).split('\n');
  return Number(pid);
}

async function query(url: string, sql: string) {
  const client = new Client({ connectionString: url });
  await client.connect();
  try {
    return (await client.query(sql)).rows;
  } finally {
    await client.end();
  }
}
