import { Client } from 'pg';
import { afterAll, beforeAll, describe, expect, inject, test, vi } from 'vitest';
import { createDatabase } from '#src/database/database.ts';
import { MIGRATION_LOCK, TABLE_GRANTS, migrate } from '#src/database/migrate.ts';
import { createTestDatabase } from '#test/support/database.ts';
import { skipReason } from '#test/support/infra.ts';
import { startService } from '#test/support/service.ts';
import { startTestPostgres, urlOfDatabase } from '#test/support/test-servers.ts';
import type { TestServer } from '#test/support/test-servers.ts';

/*
 * On a server of its own: roles belong to all databases of a server, and these tests depend on who created them.
 */
describe.skipIf(skipReason('postgres'))('migrating as an owner that is not a superuser', () => {
  let server: TestServer;

  beforeAll(async () => {
    server = await startTestPostgres(inject('infra'));
  });
  afterAll(() => server.remove());

  test('creates orders_app if the owner may create roles, and lets the owner act as it', async () => {
    const url = await ownedDatabase('maker', 'createrole');
    await migrate(url);
    expect(await roleOfTheService(url)).toBe('orders_app');
  });

  test('needs no right to create roles if orders_app exists and is granted', async () => {
    const url = await ownedDatabase('user', 'nocreaterole in role orders_app');
    await migrate(url);
    expect(await roleOfTheService(url)).toBe('orders_app');
  });

  test('restores the role and its rights after a restore into another cluster', async () => {
    const url = await ownedDatabase('restored', 'createrole in role orders_app');
    await migrate(url);
    const before = await rightsIn(url);
    await query(url, 'revoke all on schema public from public');
    await query(
      urlOfDatabase(server.address, 'restored'),
      `revoke all on all tables in schema public from orders_app;
       revoke all on all functions in schema public from orders_app;
       revoke all on all sequences in schema public from orders_app;
       revoke all on schema public from orders_app;
       grant execute on function oldest_transaction_age_seconds() to public`,
    );
    for (const name of ['maker', 'user']) {
      await query(urlOfDatabase(server.address, name), 'drop owned by orders_app');
    }
    await query(
      urlOfDatabase(server.address, 'restored'),
      'drop owned by orders_app; drop role orders_app',
    );
    const warn = vi.fn<() => void>();
    await migrate(url, { warn });
    expect(warn).toHaveBeenCalledExactlyOnceWith(
      { grants: expect.arrayContaining([expect.stringContaining('on events to orders_app')]) },
      expect.stringContaining('rights'),
    );
    expect(await rightsIn(url)).toEqual(before);
    await using service = await startService({ databaseUrl: url });
    await service.api.pay(await service.api.placeOrder());
    expect((await service.api.list()).data).toHaveLength(1);
    const change = query(url, `set role orders_app; update events set data = '{}'`);
    await expect(change).rejects.toMatchObject({ code: '42501' });
    await migrate(url, { warn });
    expect(warn).toHaveBeenCalledTimes(1);
  });

  test('applies each file once if several processes start together', async () => {
    await query(server.address, 'create database together');
    const url = urlOfDatabase(server.address, 'together');
    const applied = await Promise.all([migrate(url), migrate(url), migrate(url)]);
    const [first, ...others] = applied.toSorted((one, other) => other.length - one.length);
    expect(first).toContain('0001_event_store.sql');
    expect(others).toEqual([[], []]);
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
  test('grants the service exactly the rights that the code lists, for every table', async () => {
    await using database = await createTestDatabase();
    const rows = await database.query<{ name: string; privileges: string[] }>(
      `select c.relname as name, array_agg(lower(privilege_type)) filter (
         where grantee = 'orders_app'::regrole) as privileges
       from pg_class c left join lateral aclexplode(relacl) on true
       where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p')
         and c.relname not like 'migrations%' group by 1`,
    );
    const rights = rows.map(({ name, privileges }) => [name, privileges?.toSorted()]);
    const listed = Object.entries(TABLE_GRANTS).map(([name, all]) => [name, all.toSorted()]);
    expect(Object.fromEntries(rights)).toEqual(Object.fromEntries(listed));
  });

  test('accepts a database that a newer release has migrated', async () => {
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

  test('refuses a database with migrations that this service never had', async () => {
    await using database = await createTestDatabase();
    await database.query(`insert into migrations (name, batch) values ('0001_other.sql', 1)`);
    await expect(migrate(database.url)).rejects.toThrow('0001_other.sql');
  });

  test('logs that it waits while another process migrates, then continues', async () => {
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

/** Every right of the service's role in a database. */
async function rightsIn(url: string): Promise<unknown> {
  const client = new Client({ connectionString: url });
  await client.connect();
  try {
    const { rows } = await client.query(
      `select relname as name, privilege_type as privilege from pg_class c
       cross join lateral aclexplode(relacl) where grantee = 'orders_app'::regrole
       union all
       select proname, privilege_type from pg_proc cross join lateral aclexplode(proacl)
       where proname = 'oldest_transaction_age_seconds'
         and grantee in ('orders_app'::regrole, 0) order by 1, 2`,
    );
    return rows;
  } finally {
    await client.end();
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
