import { Client } from 'pg';
import { describe, expect, test } from 'vitest';
import { problemOf } from '#test/support/api-shapes.ts';
import { createTestDatabase } from '#test/support/database.ts';
import type { TestDatabase } from '#test/support/database.ts';
import { skipReason } from '#test/support/infra.ts';
import { placeBody } from '#test/support/order-api.ts';
import { eventually } from '#test/support/poll.ts';
import { startService } from '#test/support/service.ts';
import { verifyDatabase } from '#test/support/verify-database.ts';

const ORDERS = 130; // more than both slots hold

describe.skipIf(skipReason('postgres'))('rows that somebody else keeps locked', () => {
  test('hold up the commands that need them, and no other for long', async () => {
    await using database = await createTestDatabase();
    await using service = await startService({ databaseUrl: database.url });
    const { api } = service;
    const orders = await Promise.all(Array.from({ length: ORDERS }, () => api.placeOrder()));

    const somebody = new Client({ connectionString: database.url });
    await somebody.connect();
    await somebody.query('begin; select from streams for update');
    const locked = orders.map(({ orderId }) => api.send('cancel', orderId, { reason: 'r' }));
    const others = Array.from({ length: 5 }, () => api.place(placeBody));
    // All of them are answered while the lock is held: a hang would end in the client's time limit.
    for (const { status } of await Promise.all(others)) expect([201, 503]).toContain(status);
    for (const answer of await Promise.all(locked)) {
      expect(problemOf(answer)).toMatchObject({ status: 503 });
    }
    expect((await api.place(placeBody)).status).toBe(201);
    await somebody.query('rollback');
    await somebody.end();

    expect((await api.send('cancel', orders[0]!.orderId, { reason: 'r' })).status).toBe(200);
    expect(await verifyDatabase(database.url, { relay: 'off' })).toEqual([]);
  });

  test.each([
    ['a row of the stock holds up no read, and no change of another sku', 1],
    ['rows of the stock, more than reads have connections, hold up no read', 6],
  ])('%s', async (_, rows) => {
    await using database = await createTestDatabase();
    await using service = await startService({ databaseUrl: database.url });
    const { api } = service;
    const put = (sku: string) => api.request('PUT', `/v1/stock/${sku}`, { body: { onHand: 1 } });
    const locked = Array.from({ length: rows }, (_, index) => `locked-${index}`);
    for (const sku of locked) await put(sku);
    const { orderId } = await api.placeOrder();

    const somebody = new Client({ connectionString: database.url });
    await somebody.connect();
    await somebody.query(`begin; select from stock where sku like 'locked%' for update`);
    const done = new AbortController();
    const callers = Array.from({ length: 30 }, async (_, index) => {
      while (!done.signal.aborted)
        expect(problemOf(await put(locked[index % rows]!))).toMatchObject({ status: 503 });
    });
    const blocked = Promise.all(callers);
    blocked.catch(() => {}); // told below
    await eventually(() => waitsForLock(database));
    for (let round = 0; round < 5; round += 1) {
      const reads = [`/v1/orders/${orderId}`, '/v1/orders', '/v1/stock/locked-0', '/v1/stock'];
      const answers = await Promise.all(reads.map((path) => api.request('GET', path)));
      expect(answers.map(({ status }) => status)).toEqual(reads.map(() => 200));
      if (rows === 1) expect((await put(`free-${round}`)).status).toBe(201);
    }
    done.abort();
    await blocked;
    await somebody.query('rollback');
    await somebody.end();
    expect((await put('locked-0')).status).toBe(200);
  });
});

async function waitsForLock(database: TestDatabase): Promise<boolean> {
  const waiting = await database.query(
    `select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`,
  );
  return waiting.length > 0;
}
