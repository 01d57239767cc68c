import { randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { Client } from 'pg';
import { describe, expect, test } from 'vitest';
import { rawClient, requestText } from '#test/http/raw-client.ts';
import { orderOf, problemOf } from '#test/support/api-shapes.ts';
import { createTestDatabase, rowCounts } from '#test/support/database.ts';
import { skipReason } from '#test/support/infra.ts';
import { placeBody } from '#test/support/order-api.ts';
import type { HttpResponse } from '#test/support/http-client.ts';
import { eventually } from '#test/support/poll.ts';
import { startService } from '#test/support/service.ts';
import { createSagaApi } from '#test/support/saga/api.ts';
import { createSagaWorld } from '#test/support/saga/world.ts';
import { startTcpProxy } from '#test/support/tcp-proxy.ts';
import { verifyDatabase } from '#test/support/verify-database.ts';

/*
 * G9: overload turns callers away with 503 and Retry-After; it never loses, corrupts or grows without bound.
 */
const QUEUE_MAX = 3;
const OUTBOX_MAX = 5;

/** More than Node lets wait by itself (511), and than some kernels do. */
const WAITING = 900;
const kernelWaitingMax = () => {
  try {
    return Number(readFileSync('/proc/sys/net/core/somaxconn', 'utf8'));
  } catch {
    return 0;
  }
};

describe.skipIf(skipReason('postgres'))('overload', () => {
  test.skipIf(kernelWaitingMax() < WAITING)(
    'of new connections while the service is busy resets none of them',
    async () => {
      await using database = await createTestDatabase();
      await using service = await startService({ databaseUrl: database.url });
      const port = Number(new URL(service.url).port);
      service.signal('SIGSTOP');
      const clients = await Promise.all(Array.from({ length: WAITING }, () => rawClient(port)));
      for (const { socket } of clients) {
        socket.write(requestText('GET', '/livez', ['connection: close']));
      }
      service.signal('SIGCONT');
      const ends = await Promise.all(clients.map(({ ended }) => ended));
      expect(ends.filter((end) => end === 'reset')).toHaveLength(0);
      const served = clients.filter(({ received }) => received().startsWith('HTTP/1.1 200 '));
      expect(served).toHaveLength(WAITING);
    },
  );

  test('of the queue turns callers away at once, and writes what it took', async () => {
    await using database = await createTestDatabase();
    await using proxy = await startTcpProxy(database.url);
    await using service = await startService({
      databaseUrl: proxy.url,
      env: { COMMAND_QUEUE_MAX: String(QUEUE_MAX), COMMAND_BATCH_MAX: '1' },
    });
    const { api } = service;
    const placed = await api.placeOrder();

    const underWay: Promise<HttpResponse>[] = [];
    const held = [];
    for (const customerId of [randomUUID(), randomUUID()]) {
      const trap = proxy.trap(customerId, 'hold');
      underWay.push(api.place({ ...placeBody, customerId }));
      await trap.sprung;
      held.push(trap);
    }
    const keys = Array.from({ length: 20 }, () => randomUUID());
    const others = keys.map((key) => api.place(placeBody, { key }));
    const firsts = await untilResponseed(others, keys.length - QUEUE_MAX);
    for (const response of firsts) expectOverloaded(response);
    const payment = { paymentId: 'p', amountCents: placed.totalCents };
    expectOverloaded(await api.send('pay', placed.orderId, payment));
    expect(await api.get(placed.orderId)).toEqual(placed);
    for (const path of ['/livez', '/readyz']) {
      expect(await api.request('GET', path)).toMatchObject({ status: 200 });
    }

    for (const trap of held) trap.release();
    const responses = await Promise.all([...underWay, ...others]);
    const taken = responses.filter(({ status }) => status === 201);
    expect(taken).toHaveLength(underWay.length + QUEUE_MAX);
    expect(await rowCounts(database)).toMatchObject({
      events: 1 + taken.length,
      responses: QUEUE_MAX,
    });
    // Who was turned away is free to come again, with the key too.
    for (const key of keys) orderOf(await api.place(placeBody, { key }));
    expect((await rowCounts(database)).responses).toBe(keys.length);
    expect(await verifyDatabase(database.url, { relay: 'off' })).toEqual([]);
  });

  test('by hundreds at once ends for each with 201 or 503, and only the 201 are stored', async () => {
    await using database = await createTestDatabase();
    await using service = await startService({
      databaseUrl: database.url,
      env: { COMMAND_QUEUE_MAX: '8', COMMAND_BATCH_MAX: '4' },
    });
    const responses = await Promise.all(
      Array.from({ length: 300 }, () => service.api.place(placeBody)),
    );
    const refused = responses.filter(({ status }) => status !== 201);
    for (const response of refused) expectOverloaded(response);
    expect(refused.length).toBeGreaterThan(0);
    expect((await rowCounts(database)).events).toBe(responses.length - refused.length);
    expect(await verifyDatabase(database.url, { relay: 'off' })).toEqual([]);
  });

  test('of one order leaves the queue to the others', async () => {
    await using database = await createTestDatabase();
    await using service = await startService({
      databaseUrl: database.url,
      env: { COMMAND_QUEUE_MAX: '16', COMMAND_BATCH_MAX: '8' },
    });
    const { api } = service;
    const { orderId } = await api.placeOrder();
    const over = new AbortController();
    const reasons = new Set<number>();
    const flood = Promise.all(
      Array.from({ length: 40 }, async () => {
        while (!over.signal.aborted) {
          const { status, headers } = await api.send('ship', orderId, {
            trackingNumber: 'T',
            carrier: 'c',
          });
          reasons.add(status);
          if (status === 503) expect(headers['retry-after']).toMatch(/^[1-9]\d*$/);
        }
      }),
    );
    const others = [];
    for (let index = 0; index < 12; index += 1) others.push((await api.place(placeBody)).status);
    over.abort();
    await flood;
    expect(others).toEqual(others.map(() => 201));
    expect(reasons).toEqual(new Set([409, 503])); // not paid; and more than its share
  });

  test('of the queue leaves room for what sagas have to record', async () => {
    await using world = await createSagaWorld();
    const { database, simulator } = world;
    await world.setStock('book', 100);
    await using proxy = await startTcpProxy(database.url);
    await using service = await startService({
      databaseUrl: proxy.url,
      env: { ...world.env, PROVIDER_TIMEOUT_MS: '30000', COMMAND_QUEUE_MAX: '1' },
    });
    const sagas = createSagaApi(service.url);
    await simulator.addFault({ operation: 'capture', fault: 'hold' });
    const orderId = await sagas.placed();
    await simulator.nextCall({ operation: 'capture', orderId });

    // Both slots are held up, and the queue is full.
    const held = [];
    const underWay = [];
    for (const customerId of [randomUUID(), randomUUID()]) {
      const trap = proxy.trap(customerId, 'hold');
      underWay.push(service.api.place({ ...placeBody, customerId }));
      await trap.sprung;
      held.push(trap);
    }
    underWay.push(service.api.place(placeBody));
    await eventually(async () => (await service.api.place(placeBody)).status === 503);
    await simulator.release({ orderId });
    // The outcome waits behind the one command that fills the queue, and does not have to come again.
    await eventually(
      async () => waitingCommands(await service.api.request('GET', '/metrics')) === 2,
    );
    for (const trap of held) trap.release();
    for (const { status } of await Promise.all(underWay)) expect(status).toBe(201);
    await eventually(async () => (await sagas.fulfilment(orderId)).state === 'completed');
    sagas.close();
  });

  test('of reads leaves it ready for commands', async () => {
    await using database = await createTestDatabase();
    await using service = await startService({ databaseUrl: database.url });
    const { api } = service;
    await Promise.all(Array.from({ length: 8 }, () => api.placeOrder()));
    // A list takes 4 s from here on, and there are more of them than connections for reads.
    await database.query(`
      create function slowly() returns boolean volatile language plpgsql as
        'begin perform pg_sleep(0.5); return true; end';
      alter table orders_summary enable row level security;
      create policy slowly on orders_summary for select using (slowly());`);
    const over = new AbortController();
    const lists = Promise.all(
      Array.from({ length: 10 }, () => api.request('GET', '/v1/orders')),
    ).finally(() => over.abort());
    while (!over.signal.aborted) {
      expect(await api.request('GET', '/readyz')).toMatchObject({ status: 200 });
    }
    await lists;
  });

  test('does not keep a service from starting, though it cannot see how full the outbox is', async () => {
    await using database = await createTestDatabase();
    await using holder = await startTransaction(database.url);
    await holder.query('lock table outbox_events in access exclusive mode');
    await using service = await startService({
      databaseUrl: database.url,
      env: { OUTBOX_MAX_ROWS: '1', RELAY: 'off' },
    });
    await holder.query('commit');
    await service.api.placeOrder();
    await service.api.placeOrder();
    // It goes on looking.
    await expect.poll(() => statusOf(service.api.place(placeBody)), { timeout: 15_000 }).toBe(503);
  });

  test('of the outbox refuses commands until it is drained', async () => {
    await using database = await createTestDatabase();
    await using service = await startService({
      databaseUrl: database.url,
      env: { OUTBOX_MAX_ROWS: String(OUTBOX_MAX), RELAY: 'off' },
    });
    const { api } = service;
    const key = randomUUID();
    const first = await api.place(placeBody, { key });
    const order = orderOf(first);
    for (let row = 2; row <= OUTBOX_MAX; row += 1) await api.placeOrder();
    // How full it is is looked at now and then, not with every command.
    await expect.poll(() => statusOf(api.place(placeBody))).toBe(503);

    const before = await rowCounts(database);
    const payment = { paymentId: 'p', amountCents: order.totalCents };
    for (const refused of [
      await api.place(placeBody, { key: randomUUID() }),
      await api.send('pay', order.orderId, payment),
      await api.send('cancel', order.orderId, { reason: 'r' }),
    ]) {
      expect(problemOf(refused)).toMatchObject({ status: 503, code: 'outbox_full' });
      expectRetryAfter(refused);
    }
    expect(await rowCounts(database)).toEqual(before);
    expect(await api.get(order.orderId)).toEqual(order);
    expect(await verifyDatabase(database.url, { relay: 'off' })).toEqual([]);

    await database.query('delete from outbox_events');
    await expect.poll(() => statusOf(api.place(placeBody))).toBe(201);
    expect(await verifyDatabase(database.url, { relay: 'on' })).toEqual([]);
  });
});

async function startTransaction(url: string) {
  const client = new Client({ connectionString: url });
  await client.connect();
  await client.query('begin');
  return {
    query: (sql: string) => client.query(sql),
    [Symbol.asyncDispose]: () => client.end(),
  };
}

async function statusOf(response: Promise<HttpResponse>): Promise<number> {
  return (await response).status;
}

/** The first so many responses; the others may take their time. */
function untilResponseed(
  all: readonly Promise<HttpResponse>[],
  count: number,
): Promise<HttpResponse[]> {
  const responses: HttpResponse[] = [];
  const enough = Promise.withResolvers<HttpResponse[]>();
  const collect = async (one: Promise<HttpResponse>) => {
    responses.push(await one);
    if (responses.length === count) enough.resolve([...responses]);
  };
  for (const one of all) collect(one).catch(enough.reject);
  return enough.promise;
}

function expectOverloaded(response: HttpResponse): void {
  expect(problemOf(response)).toMatchObject({ status: 503, code: 'overloaded' });
  expectRetryAfter(response);
}

function expectRetryAfter({ headers }: HttpResponse): void {
  expect(headers['retry-after']).toMatch(/^[1-9]\d*$/);
}

function waitingCommands({ text }: HttpResponse): number {
  return Number(/^orders_command_queue_length (\d+)/m.exec(text)?.[1]);
}
