import type { Pool } from 'pg';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { createApiKey } from '#src/auth/api-key.ts';
import { createApiKeys } from '#src/auth/api-keys.ts';
import type { ApiKeys } from '#src/auth/api-keys.ts';
import { runKeyCommand } from '#src/auth/key-commands.ts';
import { createOwnerPool } from '#src/database/database.ts';
import { createTestDatabase } from '#test/support/database.ts';
import type { TestDatabase } from '#test/support/database.ts';
import { skipReason } from '#test/support/infra.ts';
import { eventually } from '#test/support/poll.ts';
import { startTcpProxy } from '#test/support/tcp-proxy.ts';
import { servicePool } from '../outbox/outbox-fixture.ts';

const silent = { info: () => {}, error: () => {} };

describe.skipIf(skipReason('postgres'))('the API keys', () => {
  let database: TestDatabase;
  let owner: Pool;

  beforeEach(async () => {
    database = await createTestDatabase();
    owner = createOwnerPool(database.url);
  });
  afterEach(async () => {
    await owner.end();
    await database[Symbol.asyncDispose]();
  });

  const run = async (...args: string[]) => {
    const said: string[] = [];
    const code = await runKeyCommand(args, owner, (text) => said.push(text));
    expect({ code, said }).toMatchObject({ code: 0 });
    return said.join('\n').split('\n')[0]!;
  };
  const create = (...more: string[]) =>
    run('create', '--name', 'shop', '--scopes', 'orders:read', ...more);
  const idOf = (key: string) => key.slice(4, 16);
  const refusalOf = async (keys: ApiKeys, key: string) =>
    keys.authenticate(key).then(
      () => 'accepted',
      (error: unknown) => (error instanceof Error && 'code' in error ? error.code : error),
    );

  /** The keys over a pool with the rights of the service, whose reads of keys are counted. */
  function openKeys(url = database.url) {
    const service = servicePool(url);
    let reads = 0;
    const query = service.pool.query.bind(service.pool);
    Object.assign(service.pool, {
      query: (...args: Parameters<typeof query>) => {
        if (JSON.stringify(args[0]).includes('api_keys_version')) reads += 1;
        return query(...args);
      },
    });
    const keys = createApiKeys(service.pool, silent);
    return {
      keys,
      reads: () => reads,
      [Symbol.asyncDispose]: async () => {
        await keys.stop();
        await service[Symbol.asyncDispose]();
      },
    };
  }

  test('name the principal, its scopes and its customer', async () => {
    await using opened = openKeys();
    const service = await create();
    expect(await opened.keys.authenticate(service)).toEqual({
      id: `key:${idOf(service)}`,
      scopes: new Set(['orders:read']),
    });
    const customer = await create('--customer', 'c-1');
    expect(await opened.keys.authenticate(customer)).toMatchObject({ customerId: 'c-1' });
  });

  test('are accepted as soon as they are made, and then without a query', async () => {
    await using opened = openKeys();
    for (let made = 0; made < 3; made += 1) {
      await opened.keys.authenticate(await create());
    }
    const key = await create();
    await opened.keys.authenticate(key);
    const before = opened.reads();
    for (let times = 0; times < 100; times += 1) await opened.keys.authenticate(key);
    expect(opened.reads()).toBe(before);
  });

  test('that are misspelt are refused without a query', async () => {
    await using opened = openKeys();
    const key = await create();
    const misspelt = key.slice(0, 20) + (key[20] === 'a' ? 'b' : 'a') + key.slice(21);
    expect(await refusalOf(opened.keys, misspelt)).toBe('unauthenticated');
    expect(opened.reads()).toBe(0);
  });

  test('that nobody made share the few queries that they cause', async () => {
    await using opened = openKeys();
    const key = await create();
    const unknown = Array.from({ length: 500 }, () => createApiKey().text);
    const refusals = await Promise.all(unknown.map((each) => refusalOf(opened.keys, each)));
    expect(new Set(refusals)).toEqual(new Set(['unauthenticated']));
    expect(opened.reads()).toBeLessThanOrEqual(2);
    expect(await refusalOf(opened.keys, key)).toBe('accepted');
  });

  test('with the id of another key are refused', async () => {
    await using opened = openKeys();
    const { id } = createApiKey();
    const forged = createApiKey();
    await database.query(
      `insert into api_keys (key_id, name, key_hash, scopes, created_by)
       values ($1, 'x', sha256('other'), '{orders:read}', 'x'), ($2, 'x', sha256('other'), '{orders:read}', 'x')`,
      [id, forged.id],
    );
    expect(await refusalOf(opened.keys, forged.text)).toBe('unauthenticated');
  });

  test('that are revoked, by command or by SQL, stop working', async () => {
    await using opened = openKeys();
    opened.keys.start();
    for (const revoke of [
      (id: string) => run('revoke', id),
      (id: string) =>
        database.query('update api_keys set revoked_at = now() where key_id = $1', [id]),
      (id: string) => database.query('delete from api_keys where key_id = $1', [id]),
    ]) {
      const key = await create();
      expect(await refusalOf(opened.keys, key)).toBe('accepted');
      await revoke(idOf(key));
      await eventually(async () => (await refusalOf(opened.keys, key)) === 'unauthenticated');
    }
  });

  test('that expire stop working, without a change of the table', async () => {
    await using opened = openKeys();
    const key = await create('--expires', '1s');
    expect(await refusalOf(opened.keys, key)).toBe('accepted');
    await eventually(async () => (await refusalOf(opened.keys, key)) === 'unauthenticated');
  });

  test('are all refused with 503 once they cannot be read any longer, and work again afterwards', async () => {
    await using proxy = await startTcpProxy(database.url);
    await using opened = openKeys(proxy.url);
    opened.keys.start();
    const key = await create();
    expect(await refusalOf(opened.keys, key)).toBe('accepted');
    proxy.leadTo('postgres://127.0.0.1:1/');
    proxy.cut();
    await run('revoke', idOf(key));
    const states = new Set<unknown>();
    await eventually(async () => {
      const state = await refusalOf(opened.keys, key);
      states.add(state);
      return state === 'authentication_unavailable';
    });
    expect(states).toEqual(new Set(['accepted', 'authentication_unavailable']));
    proxy.leadTo(database.url);
    await eventually(async () => (await refusalOf(opened.keys, key)) === 'unauthenticated');
  });

  test('show their last use, which is written for all together', async () => {
    const used = await create();
    const unused = await create();
    {
      await using opened = openKeys();
      await opened.keys.authenticate(used);
      await opened.keys.authenticate(used);
      expect(await database.query('select from api_key_uses')).toEqual([]);
    }
    const rows = await database.query<{ key_id: string }>(
      `select key_id from api_key_uses where last_used_at between now() - interval '1 minute' and now()`,
    );
    expect(rows).toEqual([{ key_id: idOf(used) }]);
    expect(rows).not.toContainEqual({ key_id: idOf(unused) });
  });

  test('are only read by the role of the service', async () => {
    const service = servicePool(database.url);
    await using _ = service;
    const key = await create();
    for (const change of [
      `update api_keys set scopes = '{orders:write}'`,
      `insert into api_keys (key_id, name, key_hash, scopes, created_by)
       values ('000000000000', 'x', sha256('x'), '{orders:read}', 'x')`,
      'delete from api_keys',
      'truncate api_keys',
      'update api_keys_version set version = 0',
    ]) {
      await expect(service.pool.query(change)).rejects.toThrow('permission denied');
    }
    const rights = await service.pool.query(
      `select privilege from unnest(array['select', 'insert', 'update', 'delete', 'truncate']) privilege
       where has_table_privilege('api_keys', privilege)`,
    );
    expect(rights.rows).toEqual([{ privilege: 'select' }]);
    const { rows } = await service.pool.query('select * from api_keys');
    expect(JSON.stringify(rows)).not.toContain(key.slice(17));
  });
});
