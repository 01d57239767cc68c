import { Client, Pool } from 'pg';
import type { PoolClient } from 'pg';
import { describe, expect, test } from 'vitest';
import type { Session } from '#src/database/session.ts';
import { createGivenUpSessions } from '#src/database/given-up-sessions.ts';
import { createTestDatabase } from '#test/support/database.ts';
import { skipReason } from '#test/support/infra.ts';
import { eventually } from '#test/support/poll.ts';
import { startTcpProxy } from '#test/support/tcp-proxy.ts';

const server = { system: '1', timeline: 1, startedAt: '2026-01-01' };

describe.skipIf(skipReason('postgres'))('a session that was given up', () => {
  test('keeps its place while the server works for it, and no longer', async () => {
    await using database = await createTestDatabase();
    const holder = new Client({ connectionString: database.url });
    await holder.connect();
    await holder.query('select pg_advisory_lock(1)');
    const pool = new Pool({ connectionString: database.url, max: 4 });
    const givenUp = createGivenUpSessions(async () => ({ connectionString: database.url }));
    const released: string[] = [];
    const ended = Promise.withResolvers<void>();
    const keep = async (name: string, change: Partial<Session> = {}, work?: string) => {
      const client = await pool.connect();
      const session = { ...(await sessionOf(client)), ...change };
      if (work !== undefined) {
        client.query(work).catch(() => {});
        await eventually(async () => (await waitingSessions(database.url)) === 1);
      }
      givenUp.keep(client, session, () => {
        released.push(name);
        client.release(true);
        if (released.length === 3) ended.resolve();
      });
    };
    await keep('still at work', {}, 'select pg_advisory_lock(1)');
    await keep('that waits for its client');
    await keep('gone with its server', { pid: 2 ** 31 - 1 });
    await keep('whose process id is another session', { openedAt: '2026-01-01 00:00:00+00' });
    await ended.promise;
    expect(released.toSorted()).toEqual([
      'gone with its server',
      'that waits for its client',
      'whose process id is another session',
    ]);
    expect(givenUp.count()).toBe(1);

    givenUp.close();
    expect([released.at(-1), givenUp.count()]).toEqual(['still at work', 0]);
    await keep('when all is over');
    expect(released.at(-1)).toBe('when all is over');
    await holder.end();
    await pool.end();
  });

  test('behind a pooler keeps its place although the pooler has closed the connection', async () => {
    await using database = await createTestDatabase();
    await using pooler = await startTcpProxy(database.url);
    const holder = new Client({ connectionString: database.url });
    await holder.connect();
    await holder.query('select pg_advisory_lock(1)');
    const pool = new Pool({ connectionString: pooler.url, max: 1 });
    const givenUp = createGivenUpSessions(async () => ({ connectionString: database.url }));
    const client = await pool.connect();
    const session = { ...(await sessionOf(client)), isPooled: true };
    client.query('select pg_advisory_lock(1)').catch(() => {});
    await eventually(async () => (await waitingSessions(database.url)) === 1);
    const isFree = Promise.withResolvers<void>();
    givenUp.keep(client, session, isFree.resolve);
    const isClosed = new Promise<void>((resolve) => client.once('end', resolve));
    pooler.cut();
    await isClosed;
    expect(givenUp.count()).toBe(1);
    await holder.end();
    await isFree.promise;
    expect(givenUp.count()).toBe(0);
    client.release(true);
    await pool.end();
  });

  test('gives its place back when its result comes, however late', async () => {
    await using database = await createTestDatabase();
    const pool = new Pool({ connectionString: database.url, max: 1, query_timeout: 50 });
    const givenUp = createGivenUpSessions(async () => ({ connectionString: database.url }));
    const holder = new Client({ connectionString: database.url });
    await holder.connect();
    await holder.query('select pg_advisory_lock(1)');
    const client = await pool.connect();
    await expect(client.query('select pg_advisory_lock(1)')).rejects.toThrow('read timeout');
    const isFree = Promise.withResolvers<void>();
    givenUp.keep(client, undefined, isFree.resolve);
    expect(givenUp.count()).toBe(1);
    await holder.end();
    await isFree.promise;
    expect(givenUp.count()).toBe(0);
    client.release(true);
    await pool.end();
  });
});

async function waitingSessions(url: string): Promise<number> {
  const client = new Client({ connectionString: url });
  await client.connect();
  try {
    const { rowCount } = await client.query(
      `select from pg_stat_activity
       where datname = current_database() and wait_event_type = 'Lock' and state = 'active'`,
    );
    return rowCount ?? 0;
  } finally {
    await client.end();
  }
}

async function sessionOf(client: PoolClient): Promise<Session> {
  const { rows } = await client.query<{ pid: number; openedAt: string }>(
    `select pg_backend_pid() as pid, clock_timestamp()::text as "openedAt"`,
  );
  return { ...rows[0]!, server, isPooled: false };
}
