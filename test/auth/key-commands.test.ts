import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { describe, expect, test } from 'vitest';
import { parseApiKey } from '#src/auth/api-key.ts';
import { API_KEYS_MAX } from '#src/auth/api-keys.ts';
import { runKeyCommand } from '#src/auth/key-commands.ts';
import { createOwnerPool } from '#src/database/database.ts';
import { createTestDatabase } from '#test/support/database.ts';
import { skipReason } from '#test/support/infra.ts';
import { servicePool } from '../outbox/outbox-fixture.ts';

const MAIN = fileURLToPath(new URL('../../src/main.ts', import.meta.url));

/** A database and a way to run commands on it as its owner. */
async function createConsole() {
  const database = await createTestDatabase();
  const pool = createOwnerPool(database.url);
  return {
    database,
    run: async (...args: string[]) => {
      const lines: string[] = [];
      const code = await runKeyCommand(args, pool, (text) => lines.push(text));
      return { code, said: lines.join('\n') };
    },
    [Symbol.asyncDispose]: async () => {
      await pool.end();
      await database[Symbol.asyncDispose]();
    },
  };
}

describe.skipIf(skipReason('postgres'))('npm run keys', () => {
  test('says how it is used', async () => {
    await using console = await createConsole();
    const wrong: ReadonlyArray<[string[], RegExp]> = [
      [[], /^Usage: npm run keys/],
      [['destroy'], /^unknown command destroy\n\nUsage/],
      [['create'], /^--name takes 1 to 64 characters/],
      [['create', '--name', ' ', '--scopes', 'orders:read'], /^--name takes/],
      [['create', '--name', 'x'], /^--scopes takes, separated by commas: orders:read/],
      [['create', '--name', 'x', '--scopes', 'orders:read,all'], /^--scopes takes/],
      [
        ['create', '--name', 'x', '--scopes', 'stock:write', '--customer', 'c-1'],
        /^--scopes takes for a customer, separated by commas: orders:read, orders:write\n/,
      ],
      [
        ['create', '--name', 'x', '--scopes', 'orders:read', '--customer', ''],
        /^--customer takes 1 to 64 characters/,
      ],
      [
        ['create', '--name', 'x', '--scopes', 'orders:read', '--expires', 'never'],
        /^--expires takes a number and s, m, h or d: 90d/,
      ],
      [['create', 'x'], /^x is too much/],
      [['revoke'], /^<keyId> is missing/],
      [['list', '--frobnicate'], /--frobnicate/],
    ];
    for (const [args, text] of wrong) {
      const { code, said } = await console.run(...args);
      expect({ args, code }).toEqual({ args, code: 2 });
      expect(said).toMatch(text);
    }
    expect(await console.database.query('select from api_keys')).toEqual([]);
  });

  test('makes a key, prints it in the first line, and stores only its hash', async () => {
    await using console = await createConsole();
    const { code, said } = await console.run(
      'create',
      '--name=shop',
      '--scopes=orders:read, orders:write,orders:read',
      ...'--customer c-1 --expires 90d --by ann'.split(' '),
    );
    expect(code).toBe(0);
    const [text = ''] = said.split('\n');
    const { id, hash } = parseApiKey(text)!;
    expect(said).toMatch(
      `Key ${id} (shop) may orders:read, orders:write on the orders of customer c-1, until 20`,
    );
    const rows = await console.database.query(
      'select *, expires_at - created_at as lasts from api_keys',
    );
    expect(rows).toMatchObject([
      {
        key_id: id,
        name: 'shop',
        key_hash: Buffer.from(hash),
        scopes: ['orders:read', 'orders:write'],
        customer_id: 'c-1',
        created_by: 'ann',
        lasts: { days: 90 },
      },
    ]);
    expect(JSON.stringify(rows)).not.toContain(text.slice(17));
  });

  test('lists the keys that can be used, or all, but never a secret', async () => {
    await using console = await createConsole();
    const create = async (name: string, ...more: string[]) => {
      const { said } = await console.run(
        'create',
        '--name',
        name,
        '--scopes',
        'stock:read',
        ...more,
      );
      return said.slice(0, 53);
    };
    expect((await console.run('list')).said).toBe('There are no keys.');
    const keys = [
      await create('one'),
      await create('two', '--expires', '1d'),
      await create('three'),
    ];
    const [first, second, third] = keys.map((key) => key.slice(4, 16));
    expect(await console.run('revoke', third!, '--by', 'bob')).toEqual({
      code: 0,
      said: `Key ${third} (three) is revoked. Every replica refuses it within 5 seconds.`,
    });
    await console.database.query(`insert into api_key_uses values ($1, '2026-01-31T12:00:00Z')`, [
      first,
    ]);
    const { said } = await console.run('list');
    expect(said).toMatch(
      new RegExp(
        `^key ${first} \\(one\\)\\n  may        stock:read on all orders\\n  created    20.* by .*@.*\\n` +
          `  last used  2026-01-31T12:00:00.000Z\\n\\nkey ${second} \\(two\\)\\n.*\\n.*\\n` +
          '  last used  not yet\\n  expires    20.*Z$',
      ),
    );
    const all = (await console.run('list', '--all')).said;
    expect(all).toMatch(/\(three\)\n.*\n.*\n.*\n {2}revoked {4}20.* by bob$/);
    for (const key of keys) expect(all).not.toContain(key.slice(17));
  });

  test('refuses to revoke a key that is not there, or is revoked', async () => {
    await using console = await createConsole();
    const { said } = await console.run('create', '--name', 'x', '--scopes', 'stock:read');
    const id = said.slice(4, 16);
    await console.run('revoke', id);
    for (const gone of [id, 'nobody', said.slice(0, 53)]) {
      expect(await console.run('revoke', gone)).toMatchObject({ code: 1 });
    }
  });

  test('makes no more keys than replicas hold in memory', async () => {
    await using console = await createConsole();
    await console.database.query(
      `insert into api_keys (key_id, name, key_hash, scopes, created_by)
       select lpad(n::text, 12, '0'), 'x', sha256('x'), '{stock:read}', 'x' from generate_series(1, $1::int) n`,
      [API_KEYS_MAX],
    );
    const create = () => console.run('create', '--name', 'x', '--scopes', 'stock:read');
    expect(await create()).toEqual({ code: 1, said: 'there are 10000 keys: revoke one first' });
    await console.run('revoke', '000000000001');
    expect(await create()).toMatchObject({ code: 0 });
  });

  test('needs the owner of the tables, and says so', async () => {
    await using console = await createConsole();
    await using service = servicePool(console.database.url);
    for (const args of [
      ['create', '--name=x', '--scopes=stock:read'],
      ['revoke', '000000000000'],
    ]) {
      const said: string[] = [];
      expect(await runKeyCommand(args, service.pool, (text) => said.push(text))).toBe(1);
      expect(said).toEqual([
        expect.stringMatching(/may not manage keys: .*MIGRATIONS_DATABASE_URL/),
      ]);
    }
  });

  test('is a command of the service', async () => {
    await using console = await createConsole();
    const env = { PATH: process.env['PATH'], DATABASE_URL: console.database.url };
    const { stdout } = await promisify(execFile)(process.execPath, [MAIN, 'keys', 'list'], { env });
    expect(stdout).toBe('There are no keys.\n');
  });
});
