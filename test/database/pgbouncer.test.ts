import { Client } from 'pg';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { createDatabase } from '#src/database/database.ts';
import { migrate } from '#src/database/migrate.ts';
import { createSessionPools, withClient } from '#src/database/session-pool.ts';
import { OPERATOR_SETTINGS } from '#src/database/session.ts';
import { createEmptyDatabase, createTestDatabase } from '#test/support/database.ts';
import { skipReason } from '#test/support/infra.ts';
import { startPgbouncer } from '#test/support/pgbouncer.ts';
import { eventually } from '#test/support/poll.ts';
import { startService } from '#test/support/service.ts';
import { createTestFolder } from '#test/support/test-folder.ts';
import { verifyDatabase } from '#test/support/verify-database.ts';

/*
 * PgBouncer refuses the startup parameter `options`, and keeps a session of the server for its client only in
 * session mode.
 */
describe.skipIf(skipReason('postgres') ?? skipReason('pgbouncer'))('behind PgBouncer', () => {
  let folder: Awaited<ReturnType<typeof createTestFolder>>;

  beforeAll(async () => {
    folder = await createTestFolder('pgbouncer-');
  });
  afterAll(() => folder[Symbol.asyncDispose]());

  test('in session mode, the service migrates and works with its settings', async () => {
    await using database = await createEmptyDatabase();
    await using pooler = await startPgbouncer(folder.path, database.url, { pool_mode: 'session' });
    await migrate(pooler.url);
    await using service = await startService({ databaseUrl: pooler.url });
    await useIt(service);
    expect(await settingsOf(pooler.url)).toEqual(SETTINGS);
    expect(await verifyDatabase(database.url, { relay: 'off' })).toEqual([]);
  });

  test('in session mode, it does not depend on what an earlier client left in a session', async () => {
    await using database = await createTestDatabase();
    await using pooler = await startPgbouncer(folder.path, database.url, {
      pool_mode: 'session',
      server_reset_query: '', // nothing is reset between clients
    });
    await leaveSessions(pooler.url, 12);
    await using service = await startService({ databaseUrl: pooler.url });
    await useIt(service);
    await service.terminate();
    expect(await settingsOf(pooler.url)).toEqual(SETTINGS);
    expect(await verifyDatabase(database.url, { relay: 'off' })).toEqual([]);
  });

  test('in session mode, a session that was given up keeps its place until the server is done', async () => {
    await using database = await createTestDatabase();
    await using pooler = await startPgbouncer(folder.path, database.url, {
      pool_mode: 'session',
      server_reset_query: '', // so that the last statement of a session stays visible
    });
    const holder = new Client({ connectionString: database.url });
    await holder.connect();
    await holder.query('select pg_advisory_lock(1)');
    const pools = createSessionPools(pooler.url);
    const pool = pools.open(OPERATOR_SETTINGS, { max: 1 });
    const lock = { text: 'select pg_advisory_lock(1)', query_timeout: 100 };
    const waiting = withClient(pool, (client) => client.query(lock));
    await expect(waiting).rejects.toThrow('read timeout');
    await eventually(async () => {
      const looks = await database.query(
        `select from pg_stat_activity where datname = current_database() and query like '%opened_at%'
           and pid <> pg_backend_pid()`,
      );
      return looks.length > 0;
    });
    expect(pools.givenUp.count()).toBe(1);
    await holder.end();
    await pool.query('select 1'); // gets the place
    expect(pools.givenUp.count()).toBe(0);
    await pool.end();
    pools.close();
  });

  test.each(['transaction', 'statement'])(
    'in %s mode, no session is used, and the start is refused with the reason',
    async (mode) => {
      await using database = await createTestDatabase();
      await using pooler = await startPgbouncer(folder.path, database.url, { pool_mode: mode });
      const advice = /synchronous_commit could be lost.*pool_mode=session/;
      const service = createDatabase(pooler.url, { writersMax: 1, poolMax: 2 }, () => {});
      const pools = [service.writer, service.pool, service.writes, service.reads.pool];
      await Promise.all([
        ...pools.map((pool) => expect(pool.query('select 1')).rejects.toThrow(advice)),
        expect(startService({ databaseUrl: pooler.url })).rejects.toThrow(
          /exit code 1[^]*pool_mode=session/,
        ),
      ]);
      await service.close();
    },
  );
});

const SETTINGS = {
  role: 'orders_app',
  search_path: 'public',
  synchronous_commit: 'on',
  statement_timeout: '5s',
  lock_timeout: '1s',
  idle_in_transaction_session_timeout: '10s',
};

/** Uses every named statement, twice on each connection. */
async function useIt({ api }: Awaited<ReturnType<typeof startService>>): Promise<void> {
  await Promise.all(
    Array.from({ length: 8 }, async () => {
      const order = await api.placeOrder();
      const paid = await api.pay(order);
      expect(await api.history(paid.orderId)).toHaveLength(2);
    }),
  );
  expect((await api.list()).data).toHaveLength(8);
}

/** Of a session as a caller gets it. */
async function settingsOf(url: string): Promise<unknown> {
  const service = createDatabase(url, { writersMax: 1, poolMax: 2 }, () => {});
  try {
    const { rows } = await service.writer.query<{ settings: unknown }>(
      'select json_object_agg(name, current_setting(name)) as settings from unnest($1::text[]) as name',
      [Object.keys(SETTINGS)],
    );
    return rows[0]?.settings;
  } finally {
    await service.close();
  }
}

/** Each with other settings and with prepared statements that have the names of those of the service. */
async function leaveSessions(url: string, count: number): Promise<void> {
  const clients = await Promise.all(
    Array.from({ length: count }, async () => {
      const client = new Client({ connectionString: url });
      await client.connect();
      await client.query(`set synchronous_commit = off; set statement_timeout = '1h'`);
      for (const name of ['read_stream', 'write_units', 'load_streams', 'load_responses']) {
        await client.query({ name, text: 'select 1' });
      }
      await client.query('create temp table left_over (id int)');
      return client;
    }),
  );
  await Promise.all(clients.map((client) => client.end()));
}
