import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { byHand } from '#test/fixtures/histories.ts';
import { json } from '#test/fixtures/rows.ts';
import { createTestDatabase } from '#test/support/database.ts';
import type { TestDatabase } from '#test/support/database.ts';
import { skipReason } from '#test/support/infra.ts';
import { unpackRelease } from '#test/support/release.ts';
import type { Release } from '#test/support/release.ts';
import { startService } from '#test/support/service.ts';
import type { TestService } from '#test/support/service.ts';
import { verifyDatabase } from '#test/support/verify-database.ts';

/** The last release. Its archive is in `test/fixtures`. */
const BEFORE = 'a63efb8';

const MAIN = fileURLToPath(new URL('../../src/main.ts', import.meta.url));

const ITEMS = [
  { sku: 'book', quantity: 2, priceCents: 1000 },
  { sku: 'pen', quantity: 5, priceCents: 100 },
];

/*
 * G8 during a deployment: replicas of the release before run beside those of this one, on the database that this one
 * has migrated. The release before is the real one.
 */
describe.skipIf(skipReason('postgres'))('the release before, beside this one', () => {
  let release: Release;
  let database: TestDatabase;
  let before: TestService;
  let now: TestService;

  beforeAll(async () => {
    release = await unpackRelease(BEFORE);
    database = await createTestDatabase();
    now = await startService({ databaseUrl: database.url });
    before = await startService({ databaseUrl: database.url, main: release.main });
  });
  afterAll(async () => {
    await before[Symbol.asyncDispose]();
    await now[Symbol.asyncDispose]();
    await database[Symbol.asyncDispose]();
    await release[Symbol.asyncDispose]();
  });

  const read = async ({ api }: TestService, path: string) => {
    const { status, text } = await api.request('GET', path);
    expect({ path, status, text }).toMatchObject({ status: 200 });
    return json.parse(JSON.parse(text));
  };
  const send = async ({ api }: TestService, path: string, body: unknown) => {
    const { status, text } = await api.request('POST', path, { body });
    expect({ path, status: Math.floor(status / 100), text }).toMatchObject({ status: 2 });
    return json.parse(JSON.parse(text));
  };
  const place = async (service: TestService, customerId: string) => {
    const body = { customerId, currency: 'EUR', items: ITEMS };
    return String((await send(service, '/v1/orders', body))['orderId']);
  };
  /** Both show the order at each of its versions; what the release before shows, this one shows too. */
  const expectToAgree = async (orderId: string) => {
    const { version } = await read(before, `/v1/orders/${orderId}`);
    for (let at = 1; at <= Number(version); at += 1) {
      const path = `/v1/orders/${orderId}?version=${at}`;
      expect(await read(now, path)).toMatchObject(await read(before, path));
    }
    const events = `/v1/orders/${orderId}/events`;
    expect(await read(now, events)).toMatchObject(await read(before, events));
  };

  test.each(Object.entries(byHand))(
    'goes on with an order of this one, and the other way round: it %s',
    async (name, steps) => {
      for (const turn of [0, 1]) {
        const services = turn === 0 ? [before, now] : [now, before];
        const customerId = `${name} ${turn}`;
        const orderId = await place(services[0]!, customerId);
        for (const [index, [command, body]] of steps.entries()) {
          await send(services[(index + 1) % 2]!, `/v1/orders/${orderId}/${command}`, body);
        }
        await expectToAgree(orderId);
        const list = `/v1/orders?${new URLSearchParams({ customerId }).toString()}`;
        const lists = { before: await read(before, list), now: await read(now, list) };
        expect(lists.now).toMatchObject(lists.before);
        expect(lists.before).toMatchObject({ data: [{ orderId }] });
      }
    },
  );

  test('leaves no row wrong, as both of them see it', async () => {
    expect(await verifyDatabase(database.url, { relay: 'off' })).toEqual([]);
    for (const main of [release.main, undefined]) {
      const { code, output } = await operate(['projections', 'verify'], database.url, main);
      expect(output).toContain(' 0 differ');
      expect(code).toBe(0);
    }
  });
});

/** Runs a command of operators, of this release or of another. */
async function operate(args: readonly string[], databaseUrl: string, main = MAIN) {
  const env = { PATH: process.env['PATH'], DATABASE_URL: databaseUrl };
  const child = spawn(process.execPath, [main, ...args], { env });
  let output = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (data: Buffer) => (output += data.toString()));
  }
  const [code] = await once(child, 'close');
  return { code, output };
}
