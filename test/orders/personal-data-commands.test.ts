import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { createOperatorPool } from '#src/database/database.ts';
import { runPersonalDataCommand } from '#src/orders/personal-data-commands.ts';
import { skipReason } from '#test/support/infra.ts';
import { personal, verifyPersonalData } from '#test/support/personal-data.ts';
import { eventually } from '#test/support/poll.ts';
import { orderIn } from '#test/support/saga/api.ts';
import { createSagaWorld, startReplica } from '#test/support/saga/world.ts';
import { verifyDatabase } from '#test/support/verify-database.ts';

const MAIN = fileURLToPath(new URL('../../src/main.ts', import.meta.url));
const MISSING = '01999e5c-7c1f-7d3a-9f52-3b6f0c9d2a11';

/** A service that runs, and a way to run commands beside it. */
async function createConsole() {
  const world = await createSagaWorld();
  // A call that is held stays so until it is released.
  const replica = await startReplica(world, { env: { PROVIDER_TIMEOUT_MS: '120000' } });
  const pool = createOperatorPool(world.database.url);
  await world.setStock('book', 100);
  return {
    ...world,
    replica,
    place: async (customerId: string) => {
      const items = [{ sku: 'book', quantity: 1, priceCents: 1 }];
      const body = { customerId, currency: 'EUR', items, ...personal };
      return orderIn(await replica.api.request('POST', '/v1/orders', { body })).orderId;
    },
    hold: async (orderId: string) => {
      await world.simulator.addFault({ operation: 'capture', orderId, fault: 'hold', times: 1 });
      await replica.api.command('fulfil', orderId);
      await world.simulator.nextCall({ operation: 'capture', orderId });
    },
    run: async (...args: string[]) => {
      const lines: string[] = [];
      const code = await runPersonalDataCommand(args, pool, 'order.events', (text) =>
        lines.push(text),
      );
      return { code, said: lines.join('\n') };
    },
    [Symbol.asyncDispose]: async () => {
      await pool.end();
      await replica[Symbol.asyncDispose]();
      await world[Symbol.asyncDispose]();
    },
  };
}

describe.skipIf(skipReason('postgres'))('npm run personal-data', () => {
  test('says how it is used', async () => {
    await using console = await createConsole();
    const wrong: ReadonlyArray<[string[], RegExp]> = [
      [[], /^Usage: npm run personal-data/],
      [['show'], /^unknown command show\n\nUsage/],
      [['erase'], /^give either --order or --customer\n/],
      [['erase', '--order', MISSING, '--customer', 'c'], /^give either/],
      [['erase', '--order', 'x'], /^--order must be a UUID/],
      [['erase', '--customer', ''], /^--customer must not be empty/],
      [['erase', 'c-1'], /^c-1 is too much/],
      [['erase', '--all'], /--all/],
    ];
    for (const [args, text] of wrong) {
      const { code, said } = await console.run(...args);
      expect(said).toMatch(text);
      expect(code).toBe(2);
    }
  });

  test('erases one order, as often as it is asked', async () => {
    await using console = await createConsole();
    const orderId = await console.place('c-1');
    const other = await console.place('c-1');
    for (const id of [orderId, orderId.toUpperCase()]) {
      expect(await console.run('erase', '--order', id, '--by', 'eve')).toEqual({
        code: 0,
        said: `The personal data of order ${orderId} is erased.`,
      });
    }
    const erased = await console.database.query(
      `select stream_id, metadata ->> 'actor' as actor from events where type = 'PersonalDataErased'`,
    );
    expect(erased).toEqual([{ stream_id: orderId, actor: 'operator:eve' }]);
    const left = await console.database.query('select order_id from order_personal_data');
    expect(left).toEqual([{ order_id: other }]);
    expect(await verifyDatabase(console.database.url, { relay: 'off' })).toEqual([]);
  });

  test('refuses an order that is not there, and one that is being fulfilled', async () => {
    await using console = await createConsole();
    expect(await console.run('erase', '--order', MISSING)).toEqual({
      code: 1,
      said: `nothing was erased: order ${MISSING}: there is no such order`,
    });
    const orderId = await console.place('c-1');
    await console.hold(orderId);
    const { code, said } = await console.run('erase', '--order', orderId);
    expect(said).toContain(`order ${orderId}: its automatic fulfilment runs or is stuck`);
    expect(code).toBe(1);
    await console.simulator.release();
  });

  test('erases a customer to the end, and fails while something is left', async () => {
    await using console = await createConsole();
    const ids: string[] = [];
    for (let number = 0; number < 120; number += 1) ids.push(await console.place('c-1'));
    await console.place('c-2');
    await console.hold(ids[3]!);
    const first = await console.run('erase', '--customer', 'c-1');
    expect(first.said).toMatch(/^The personal data of 119 orders is erased. Left, for now:\n/);
    expect(first.said).toContain(ids[3]!);
    expect(first.code).toBe(1);
    await console.simulator.release();
    await eventually(async () => (await console.run('erase', '--customer', 'c-1')).code === 0);
    const left = await console.database.query('select customer_id from order_personal_data');
    expect(left).toEqual([{ customer_id: 'c-2' }]);
    expect(await verifyPersonalData(console.database.query)).toEqual([]);
  });

  test('ends with its exit code', async () => {
    await using console = await createConsole();
    const env = { PATH: process.env['PATH'], DATABASE_URL: console.database.url };
    const run = (args: readonly string[], url = console.database.url) =>
      new Promise((resolve) => {
        const command = [MAIN, 'personal-data', ...args];
        execFile(process.execPath, command, { env: { ...env, DATABASE_URL: url } }, (error) =>
          resolve(error?.code ?? 0),
        );
      });
    const orderId = await console.place('c-1');
    expect(await run(['erase', '--customer', 'c-1'])).toBe(0);
    expect(await run(['erase', '--order', orderId])).toBe(0);
    expect(await run(['erase', '--order', MISSING])).toBe(1);
    expect(await run(['erase'])).toBe(2);
    const nowhere = Object.assign(new URL(console.database.url), { port: '1' }).href;
    expect(await run(['erase', '--customer', 'c-1'], nowhere)).toBe(1);
  });
});
