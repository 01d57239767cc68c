import { Client } from 'pg';
import { afterAll, beforeAll, describe, expect, inject, test, vi } from 'vitest';
import { createDatabase } from '#src/database/database.ts';
import { MIGRATION_LOCK, migrate } from '#src/database/migrate.ts';
import { createTestDatabase } from '#test/support/database.ts';
import { skipReason } from '#test/support/infra.ts';
import { startService } from '#test/support/service.ts';
import { urlOfDatabase } from '#test/support/template-database.ts';
import { startTestPostgres } from '#test/support/test-server.ts';
import type { TestServer } from '#test/support/test-server.ts';

/*
 * A server of its own: roles belong to all databases of one, and here it matters who made them.
 */
describe.skipIf(skipReason('postgres'))('migrating as an owner who is no superuser', () => {
  let server: TestServer;

  beforeAll(async () => {
    server = await startTestPostgres(inject('infra'));
  });
  afterAll(() => server.remove());

  test('lets an owner who may create roles make orders_app, and act as it', async () => {
    const url = await ownedDatabase('maker', 'createrole');
    await migrate(url);
    expect(await roleOfTheService(url)).toBe('orders_app');
  });

  test('needs no right to create roles where orders_app is there and granted', async () => {
    const url = await ownedDatabase('user', 'nocreaterole in role orders_app');
    await migrate(url);
    expect(await roleOfTheService(url)).toBe('orders_app');
  });

  /** Of a database of the same name; on a managed server nobody is superuser. */
  async function ownedDatabase(owner: string, options: string): Promise<string> {
    await query(server.address, `create role "${owner}" login password 'secret' ${options}`);
    await query(server.address, `create database "${owner}" owner "${owner}"`);
    const url = new URL(urlOfDatabase(server.address, owner));
    return Object.assign(url, { username: owner, password: 'secret' }).href;
  }
});

describe.skipIf(skipReason('postgres'))('migrating', () => {
  test('leaves a database alone that a newer release has brought further', async () => {
    await using database = await createTestDatabase();
    await database.query(`insert into migrations (name, batch) values ('0999_newer.sql', 2)`);
    const warn = vi.fn<() => void>();
    expect(await migrate(database.url, { warn })).toEqual([]);
    expect(warn).toHaveBeenCalledExactlyOnceWith(
      { migrations: ['0999_newer.sql'] },
      expect.stringContaining('newer'),
    );
    await using service = await startService({ databaseUrl: database.url });
    await service.api.placeOrder();
  });

  test('refuses a database that has another past', async () => {
    await using database = await createTestDatabase();
    await database.query(`insert into migrations (name, batch) values ('0001_other.sql', 1)`);
    await expect(migrate(database.url)).rejects.toThrow('0001_other.sql');
  });

  test('says that it waits while another process migrates, and then goes on', async () => {
    await using database = await createTestDatabase();
    const other = new Client({ connectionString: database.url });
    await other.connect();
    await other.query('select pg_advisory_lock($1)', [MIGRATION_LOCK]);
    const waits = Promise.withResolvers<void>();
    const migrating = migrate(database.url, { warn: () => waits.resolve() });
    await waits.promise;
    await other.end();
    expect(await migrating).toEqual([]);
  });
});

async function roleOfTheService(url: string): Promise<string | undefined> {
  const database = createDatabase(url, { writersMax: 1, poolMax: 2 }, () => {});
  try {
    const { rows } = await database.pool.query<{ role: string }>(
      'select current_user as role, (select count(*) from events) as readable',
    );
    return rows[0]?.role;
  } finally {
    await database.close();
  }
}

async function query(url: string, sql: string): Promise<void> {
  const client = new Client({ connectionString: url });
  await client.connect();
  try {
    await client.query(sql);
  } finally {
    await client.end();
  }
}
