import { Client } from 'pg';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { createTestDatabase } from '#test/support/database.ts';
import type { TestDatabase } from '#test/support/database.ts';
import { skipReason } from '#test/support/infra.ts';
import { startService } from '#test/support/service.ts';
import { verifyDatabase } from '#test/support/verify-database.ts';

/*
 * G8: stored history is never changed: no UPDATE, DELETE or TRUNCATE on events, by role and by trigger.
 */
const changes = [
  `update events set data = '{}'`,
  `update events set data = '{}' where position = -1`,
  `delete from events`,
  `delete from events where position = -1`,
  `truncate events`,
  `truncate events, streams cascade`,
  `insert into events overriding system value select * from events
     on conflict (position) do update set data = '{}'`,
  `merge into events using events as source on events.position = source.position
     when matched then delete`,
];
/** What would open the way to the above. */
const preparations = [
  `alter table events disable trigger all`,
  `drop trigger events_append_only on events`,
  `drop table events`,
  `create or replace function refuse_history_change() returns trigger language plpgsql
     as 'begin return null; end'`,
  `set session_replication_role = replica`,
];

describe.skipIf(skipReason('postgres'))('the history of an order', () => {
  let database: TestDatabase;
  let history: unknown[];
  const readHistory = () =>
    database.query('select * from events where version <= 2 order by position limit 2');

  beforeAll(async () => {
    database = await createTestDatabase();
    await using service = await startService({ databaseUrl: database.url });
    await service.api.pay(await service.api.placeOrder());
    history = await readHistory();
    expect(history).toHaveLength(2);
  });
  afterAll(async () => {
    expect(await readHistory()).toEqual(history);
    expect(await verifyDatabase(database.url, { relay: 'off' })).toEqual([]);
    await database[Symbol.asyncDispose]();
  });

  test.each([...changes, ...preparations])(
    'is not for the role of the service: %s',
    async (sql) => {
      await expect(asRole('orders_app', sql)).rejects.toMatchObject({
        code: '42501',
        message: expect.stringMatching(/permission denied|must be owner/),
      });
    },
  );

  test.each(changes)('is not for the owner of the tables: %s', async (sql) => {
    await expect(asRole('postgres', sql)).rejects.toMatchObject({
      code: '42501',
      message: expect.stringContaining('append-only'),
    });
  });

  test('is written by a role that owns nothing and stands above nothing', async () => {
    const roles = await database.query(
      `select rolsuper, rolcreaterole, rolcreatedb, rolcanlogin, rolreplication, rolbypassrls,
              (select count(*) from pg_class where relowner = r.oid) as owned,
              (select count(*) from pg_auth_members where member = r.oid) as memberships
       from pg_roles r where rolname = 'orders_app'`,
    );
    expect(roles).toEqual([
      {
        rolsuper: false,
        rolcreaterole: false,
        rolcreatedb: false,
        rolcanlogin: false,
        rolreplication: false,
        rolbypassrls: false,
        owned: 0,
        memberships: 0,
      },
    ]);
  });

  test('is written as that role, on every connection of the service', async () => {
    // A default that only a session of another role would fill in.
    await database.query(
      `create table seen_roles (role text);
       grant insert on seen_roles to public;
       create function see_role() returns trigger language plpgsql as
         'begin insert into seen_roles values (current_user); return null; end';
       create trigger see_role after insert on events for each statement execute function see_role();`,
    );
    await using service = await startService({ databaseUrl: database.url });
    const writes = Array.from({ length: 8 }, () => service.api.placeOrder());
    await Promise.all(writes);
    const seen = await database.query('select distinct role from seen_roles');
    expect(seen).toEqual([{ role: 'orders_app' }]);
    await database.query('drop trigger see_role on events; drop table seen_roles');
  });

  test.each([
    ['OrderTeleported', 1],
    ['OrderPlaced', 99],
  ])('that holds %s version %i is not read by a service that cannot', async (type, version) => {
    const entry = [type, version];
    await database.query('insert into event_schemas values ($1, $2)', entry);
    const start = startService({ databaseUrl: database.url, env: { LOG_LEVEL: 'fatal' } });
    await expect(start).rejects.toThrow(new RegExp(`exit code 1 .*\\n.*${type}.*${version}`, 's'));
    const forget = 'delete from event_schemas where type = $1 and schema_version = $2';
    await database.query(forget, entry);
  });

  async function asRole(role: string, sql: string): Promise<void> {
    const client = new Client({ connectionString: database.url });
    await client.connect();
    try {
      await client.query(`set role ${role}`);
      await client.query(sql);
    } finally {
      await client.end();
    }
  }
});
