import { Client } from 'pg';
import type { Pool } from 'pg';
import { describe, expect, test } from 'vitest';
import { SessionRefused } from '#src/database/session.ts';
import { createDatabase, createOperatorPool } from '#src/database/database.ts';
import { isOutage } from '#src/database/database-errors.ts';
import { migrate } from '#src/database/migrate.ts';
import { problemOf } from '#test/support/api-shapes.ts';
import { createEmptyDatabase, createTestDatabase } from '#test/support/database.ts';
import type { TestDatabase } from '#test/support/database.ts';
import { skipReason } from '#test/support/infra.ts';
import { startService } from '#test/support/service.ts';
import { startTcpProxy } from '#test/support/tcp-proxy.ts';
import { verifyDatabase } from '#test/support/verify-database.ts';

/*
 * A session does not depend on the settings of the role, the database or the environment. If it does, it is refused
 * with the reason.
 */
const INHERITED = {
  search_path: 'app',
  default_transaction_isolation: `'serializable'`,
  default_transaction_deferrable: 'on',
  synchronous_commit: 'off',
  TimeZone: `'Asia/Kolkata'`,
  DateStyle: `'SQL, DMY'`,
  IntervalStyle: 'sql_standard',
  bytea_output: 'escape',
  extra_float_digits: '0',
  array_nulls: 'off',
  transform_null_equals: 'on',
  row_security: 'off',
  client_encoding: 'LATIN1',
  lock_timeout: '1',
  idle_in_transaction_session_timeout: '1',
  // Enough for the statement with which a session is set.
  statement_timeout: `'2s'`,
  idle_session_timeout: `'2s'`,
  enable_indexscan: 'off',
  enable_nestloop: 'off',
};

describe.skipIf(skipReason('postgres'))('a session', () => {
  test('inherits no setting, in a migration or in the service', async () => {
    await using database = await createEmptyDatabase();
    const owner = new Client({ connectionString: database.url }); // before it inherits that itself
    await owner.connect();
    const { rows: names } = await owner.query<{ name: string }>(
      'select current_database() as name',
    );
    const alter = (change: string) => owner.query(`alter database ${names[0]!.name} ${change}`);
    await owner.query('create schema app');
    for (const [name, value] of Object.entries(INHERITED)) await alter(`set ${name} = ${value}`);
    await migrate(database.url);
    const env = { PGOPTIONS: '-c search_path=app -c statement_timeout=2s', PGTZ: 'Asia/Kolkata' };
    await using service = await startService({ databaseUrl: database.url, env });
    const order = await service.api.placeOrder();
    await service.api.pay(order);
    expect(await service.api.history(order.orderId)).toHaveLength(2);
    const { rows: tables } = await owner.query<{ schema: string }>(
      `select schemaname as schema from pg_tables where tablename in ('events', 'migrations')`,
    );
    expect(tables).toEqual([{ schema: 'public' }, { schema: 'public' }]);
    for (const name of Object.keys(INHERITED)) await alter(`reset ${name}`);
    await owner.end();
    expect(await verifyDatabase(database.url, { relay: 'off' })).toEqual([]);
  });

  test('whose settings a pooler dropped is refused with the reason', async () => {
    await using database = await createTestDatabase();
    await using pooler = await startTcpProxy(database.url, () => ({
      request: withoutSettings,
      response: (data) => data,
    }));
    const reason = /role is "none" and must be "orders_app".*session mode/;
    await forEachPool(pooler.url, async (pool) => {
      await expect(pool.query('select 1')).rejects.toThrow(reason);
      await expect(pool.query('select 1')).rejects.toBeInstanceOf(SessionRefused);
    });
    await expect(migrate(pooler.url)).rejects.toThrow(/search_path is .* must be "public"/);
    await expect(startService({ databaseUrl: pooler.url })).rejects.toThrow(
      /exit code 1[^]*search_path is/,
    );
  });

  test('of a user that is not a member of the role is refused with the reason', async () => {
    await using database = await createTestDatabase();
    await database.query(`create role outsider login password 'secret'`);
    const url = Object.assign(new URL(database.url), { username: 'outsider', password: 'secret' });
    await forEachPool(url.href, async (pool) => {
      await expect(pool.query('select 1')).rejects.toThrow('must be a member of orders_app');
      await expect(pool.query('select 1')).rejects.toBeInstanceOf(SessionRefused);
    });
  });

  test('that is read-only by default is refused until it no longer is', async () => {
    await using database = await createTestDatabase();
    await using service = await startService({ databaseUrl: database.url });
    const { api } = service;
    await api.placeOrder();
    await alterDatabase(database, 'set default_transaction_read_only = on');
    await endSessions(database);
    await expect.poll(async () => (await api.request('GET', '/readyz')).status).toBe(503);
    expect((await api.request('GET', '/readyz')).text).toContain('default_transaction_read_only');
    const refused = await api.request('GET', '/v1/orders');
    expect(problemOf(refused)).toMatchObject({ status: 503, code: 'database_unavailable' });
    await alterDatabase(database, 'reset default_transaction_read_only');
    await expect.poll(async () => (await api.request('GET', '/readyz')).status).toBe(200);
    await api.placeOrder();
  });

  test('in which triggers do not fire is refused', async () => {
    await using database = await createTestDatabase();
    await alterDatabase(database, 'set session_replication_role = replica');
    await forEachPool(database.url, async (pool) => {
      await expect(pool.query('select 1')).rejects.toThrow('triggers would not fire');
    });
  });

  test('of a database that cannot hold every text is refused', async () => {
    await using database = await createEmptyDatabase(
      `encoding 'LATIN1' locale_provider libc locale 'C' template template0`,
    );
    const migrating = migrate(database.url);
    await expect(migrating).rejects.toThrow(/server_encoding is "LATIN1" and must be "UTF8"/);
    await expect(startService({ databaseUrl: database.url })).rejects.toThrow(
      /exit code 1[^]*UTF8/,
    );
  });

  test('that is refused is an outage for callers', () => {
    expect(isOutage(new SessionRefused('x', { isTemporary: false }))).toBe(true);
  });
});

async function forEachPool(url: string, check: (pool: Pool) => Promise<void>): Promise<void> {
  const service = createDatabase(url, { writersMax: 1, poolMax: 2 }, () => {});
  const operator = createOperatorPool(url);
  for (const pool of [service.writer, service.pool, service.reads.pool, operator]) {
    await check(pool);
  }
  await service.close();
  await operator.end();
}

async function alterDatabase(database: TestDatabase, change: string): Promise<void> {
  const [row] = await database.query<{ name: string }>('select current_database() as name');
  await database.query(`alter database ${row!.name} ${change}`);
}

/** Of the service; the next ones have what was altered meanwhile. */
async function endSessions(database: TestDatabase): Promise<void> {
  await database.query(
    `select pg_terminate_backend(pid) from pg_stat_activity
     where datname = current_database() and application_name = 'order-service'`,
  );
}

/** What a client sends, as a pooler passes it on that ignores `set`. */
function withoutSettings(data: Buffer): Buffer {
  const sent = data.toString('latin1');
  return Buffer.from(
    sent.replaceAll('set_config(key, value, false)', `concat(key, value, 'ignored')`),
    'latin1',
  );
}
