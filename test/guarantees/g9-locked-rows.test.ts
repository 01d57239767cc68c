import { Client } from 'pg';
import { describe, expect, test } from 'vitest';
import { problemOf } from '#test/support/api-shapes.ts';
import type { Order } from '#test/support/api-shapes.ts';
import { createTestDatabase } from '#test/support/database.ts';
import type { TestDatabase } from '#test/support/database.ts';
import { skipReason } from '#test/support/infra.ts';
import { placeBody } from '#test/support/order-api.ts';
import type { OrderApi } from '#test/support/order-api.ts';
import { eventually } from '#test/support/poll.ts';
import { createSagaApi } from '#test/support/saga/api.ts';
import { verifySagas } from '#test/support/saga/verify-sagas.ts';
import { createSagaWorld, untilAtRest } from '#test/support/saga/world.ts';
import { startService } from '#test/support/service.ts';
import { verifyDatabase } from '#test/support/verify-database.ts';

/*
 * Somebody (a report, an operator, a tool) keeps rows locked. Who needs them is turned away or waits; nobody
 * else notices: every other command gets 201 while the lock is held, and no batch fails.
 */
const HELD = 20;
const OTHERS = 150;
const KEY = 'held-key';

type Case = Readonly<{
  name: string;
  lock: string;
  /** Sends what needs the row. */
  send(api: OrderApi, order: Order): ReturnType<OrderApi['send']>;
  statusAfter: number;
}>;

const cancel: Case['send'] = (api, { orderId }) => api.send('cancel', orderId, { reason: 'r' });
const cases: Case[] = [
  { name: 'streams', lock: 'select from streams for update', send: cancel, statusAfter: 200 },
  {
    name: 'orders_summary',
    lock: 'select from orders_summary for update',
    send: cancel,
    statusAfter: 200,
  },
  {
    name: 'an idempotency key that is not committed',
    lock: `insert into idempotency_keys (principal, key, command_id, request_hash, status, body)
           select 'anonymous', '${KEY}-' || order_id, gen_random_uuid(), '', 200, '' from orders_summary`,
    send: (api, { orderId }) => api.place(placeBody, { key: `${KEY}-${orderId}` }),
    statusAfter: 201,
  },
];

describe.skipIf(skipReason('postgres'))('rows that somebody else keeps locked', () => {
  test.each(cases)(
    'hold up the commands that need them, and no other: $name',
    async ({ lock, send, statusAfter }) => {
      await using database = await createTestDatabase();
      await using service = await startService({ databaseUrl: database.url });
      const { api } = service;
      const orders = await Promise.all(Array.from({ length: HELD }, () => api.placeOrder()));

      await using somebody = await lockRows(database.url, lock);
      const held = orders.map((order) => send(api, order));
      await expectOthersServed(api);
      for (const response of await Promise.all(held)) {
        expect(problemOf(response)).toMatchObject({ status: 503, code: 'database_unavailable' });
        expect(response.headers['retry-after']).toMatch(/^[1-9]\d*$/);
      }
      await somebody.unlock();

      expect((await send(api, orders[0]!)).status).toBe(statusAfter);
      expect(await verifyDatabase(database.url, { relay: 'off' })).toEqual([]);
    },
  );

  test.each([
    ['stock', `select from stock where sku = 'held' for update`],
    ['saga_work', 'select from saga_work for update'],
  ])('hold up the fulfilments that need them, and no other: %s', async (_, lock) => {
    await using world = await createSagaWorld();
    const { database, simulator } = world;
    for (const sku of ['held', 'free']) await world.setStock(sku, 100);
    // Fewer places than sagas that wait: they must not keep them.
    const env = { ...world.env, SAGA_CONCURRENCY: '3' };
    await using service = await startService({ databaseUrl: database.url, env });
    const sagas = createSagaApi(service.url);
    const one = (sku: string) => [{ sku, quantity: 1, priceCents: 100 }];
    const placeSome = () => Promise.all(Array.from({ length: 5 }, () => sagas.placed(one('held'))));
    await simulator.addFault({ operation: 'capture', fault: 'unavailable' });
    const underWay = await placeSome();
    for (const orderId of underWay) await simulator.nextCall({ operation: 'capture', orderId });

    await using somebody = await lockRows(database.url, lock);
    await simulator.clearFaults(); // they come to the parcel, which takes goods from the stock
    const held = [...underWay, ...(await placeSome())];
    await expectOthersServed(service.api);
    const free = await sagas.placed(one('free'));
    await eventually(async () => (await sagas.fulfilment(free)).state === 'completed');
    await somebody.unlock();

    await untilAtRest(world, held.length + 1);
    expect(await verifySagas(world, { stock: { held: 100, free: 100 } })).toEqual([]);
    sagas.close();
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
      const responses = await Promise.all(reads.map((path) => api.request('GET', path)));
      expect(responses.map(({ status }) => status)).toEqual(reads.map(() => 200));
      if (rows === 1) expect((await put(`free-${round}`)).status).toBe(201);
    }
    done.abort();
    await blocked;
    await somebody.query('rollback');
    await somebody.end();
    expect((await put('locked-0')).status).toBe(200);
  });
});

/** Many at once, again and again, so that they share batches with those that are held up. */
async function expectOthersServed(api: OrderApi): Promise<void> {
  for (let sent = 0; sent < OTHERS; sent += 10) {
    const responses = await Promise.all(Array.from({ length: 10 }, () => api.place(placeBody)));
    expect(responses.map(({ status }) => status)).toEqual(responses.map(() => 201));
  }
  const { text } = await api.request('GET', '/metrics');
  expect(text).not.toMatch(/orders_db_retries_total\{reason="batch_contended"\} [1-9]/);
}

async function lockRows(url: string, statement: string) {
  const client = new Client({ connectionString: url });
  await client.connect();
  await client.query('begin');
  await client.query(statement);
  return {
    unlock: () => client.query('rollback'),
    [Symbol.asyncDispose]: () => client.end(),
  };
}

async function waitsForLock(database: TestDatabase): Promise<boolean> {
  const waiting = await database.query(
    `select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`,
  );
  return waiting.length > 0;
}
