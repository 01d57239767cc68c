import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { Client } from 'pg';
import { afterAll, beforeAll, describe, expect, inject, test, vi } from 'vitest';
import { createDatabase, oldestTransactionAgeSeconds } from '#src/database/database.ts';
import { TABLE_GRANTS } from '#src/database/grants.ts';
import { MIGRATION_LOCK, migrate } from '#src/database/migrate.ts';
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

  describe('and another user that owns nothing and runs the service', () => {
    let owner: string;
    let shop: string;

    beforeAll(async () => {
      owner = await ownedDatabase('owner', 'createrole in role orders_app');
      await query(server.address, `grant orders_app to owner with admin option`);
      await query(server.address, `create role "shop" login password 'secret'`);
      shop = Object.assign(new URL(owner), { username: 'shop' }).href;
    });

    test('does not start on an empty database without the URL of the owner', async () => {
      await expect(startService({ databaseUrl: shop })).rejects.toThrow(
        /exit code 1[^]*the database lacks \d+ migrations[^]*MIGRATIONS_DATABASE_URL/,
      );
    });

    test('works with the URL of the owner, which only migrates', async () => {
      await using service = await startService({
        databaseUrl: shop,
        env: { MIGRATIONS_DATABASE_URL: owner },
      });
      await service.api.pay(await service.api.placeOrder());
      expect((await service.api.list()).data).toHaveLength(1);
      const users = await rowsOf(
        urlOfDatabase(server.address, 'owner'),
        `select distinct usename as name from pg_stat_activity where application_name like 'order-service%'`,
      );
      expect(users).toEqual([{ name: 'shop' }]);
      const change = query(shop, `update events set data = '{}'`);
      await expect(change).rejects.toMatchObject({ code: '42501' });
      await expect(query(shop, 'create table mine ()')).rejects.toMatchObject({ code: '42501' });
    });

    test('needs no URL of the owner while no migration is pending, nor do the commands', async () => {
      await using service = await startService({ databaseUrl: shop });
      await service.api.placeOrder();
      for (const command of ['outbox status', 'projections verify', 'migrate']) {
        expect(await operate(command, { DATABASE_URL: shop })).toMatchObject({ code: 0 });
      }
    });

    test('does not start while a migration is pending, until the owner has applied it', async () => {
      const last = await rowsOf(
        owner,
        `delete from migrations where name = '${HARMLESS}' returning name`,
      );
      expect(last).toHaveLength(1);
      await expect(startService({ databaseUrl: shop })).rejects.toThrow(
        /exit code 1[^]*lacks 1 migrations, the first is 0075[^]*user shop does not own/,
      );
      expect(
        await operate('migrate', { DATABASE_URL: shop, MIGRATIONS_DATABASE_URL: owner }),
      ).toEqual({ code: 0, output: `applied: ${HARMLESS}\n` });
      await using service = await startService({ databaseUrl: shop });
      await service.api.placeOrder();
    });

    test('blames the URL that Postgres refuses', async () => {
      const env = {
        MIGRATIONS_DATABASE_URL: Object.assign(new URL(owner), { password: 'wrong' }).href,
      };
      await expect(startService({ databaseUrl: shop, env })).rejects.toThrow(
        'Postgres refuses MIGRATIONS_DATABASE_URL',
      );
    });

    test('does not know the oldest transaction of others until the owner may see them', async () => {
      const service = createDatabase(shop, { writersMax: 1, poolMax: 2 }, () => {});
      const other = await service.reads.pool.connect();
      expect(await oldestTransactionAgeSeconds(service.pool)).toBeNaN();
      await query(server.address, 'grant pg_read_all_stats to owner');
      expect(await oldestTransactionAgeSeconds(service.pool)).toBe(0);
      other.release();
      await service.close();
    });

    test('works although it may not ask for the identity of the server', async () => {
      const all = urlOfDatabase(server.address, 'owner');
      await query(all, 'revoke execute on function pg_control_system() from public');
      await using service = await startService({ databaseUrl: shop });
      await service.api.pay(await service.api.placeOrder());
    });

    test('may be orders_app itself', async () => {
      await query(server.address, `alter role orders_app login password 'secret'`);
      const url = Object.assign(new URL(owner), { username: 'orders_app' }).href;
      await using service = await startService({ databaseUrl: url });
      await service.api.pay(await service.api.placeOrder());
    });
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

/** Replaces a function, so that it can be applied twice. */
const HARMLESS = '0075_hidden_transactions.sql';
const MAIN = fileURLToPath(new URL('../../src/main.ts', import.meta.url));

async function operate(command: string, settings: Readonly<Record<string, string>>) {
  const env = { PATH: process.env['PATH'], ...settings };
  const child = spawn(process.execPath, [MAIN, ...command.split(' ')], { env });
  let output = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (data: Buffer) => (output += data.toString()));
  }
  const [code] = await once(child, 'close');
  return { code, output };
}

async function query(url: string, sql: string): Promise<void> {
  await rowsOf(url, sql);
}

async function rowsOf(url: string, sql: string): Promise<unknown[]> {
  const client = new Client({ connectionString: url });
  await client.connect();
  try {
    return (await client.query(sql)).rows;
  } finally {
    await client.end();
  }
}
