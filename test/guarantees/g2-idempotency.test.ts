import { createHash, randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { orderOf, problemOf } from '#test/support/api-shapes.ts';
import type { Order } from '#test/support/api-shapes.ts';
import { createTestDatabase, rowCounts } from '#test/support/database.ts';
import type { TestDatabase } from '#test/support/database.ts';
import type { HttpResponse } from '#test/support/http-client.ts';
import { skipReason } from '#test/support/infra.ts';
import { placeBody, deliverable } from '#test/support/order-api.ts';
import type { CommandName, OrderApi } from '#test/support/order-api.ts';
import { startService } from '#test/support/service.ts';
import type { TestService } from '#test/support/service.ts';
import { verifyDatabase } from '#test/support/verify-database.ts';

/*
 * G2: a command sent twice with one Idempotency-Key takes effect once, for 72 hours; the second response
 * equals the first. Lost responses are in g2-lost-responses.test.ts.
 */
const REPEATS = 16;

describe.skipIf(skipReason('postgres'))('a command repeated with its key', () => {
  let database: TestDatabase;
  let service: TestService;
  let replica: TestService;
  let api: OrderApi;

  beforeAll(async () => {
    database = await createTestDatabase();
    const options = { databaseUrl: database.url };
    [service, replica] = await Promise.all([startService(options), startService(options)]);
    ({ api } = service);
  });
  afterAll(async () => {
    await Promise.all([service[Symbol.asyncDispose](), replica[Symbol.asyncDispose]()]);
    expect(await verifyDatabase(database.url, { relay: 'off' })).toEqual([]);
    await database[Symbol.asyncDispose]();
  });

  /** Each command on an order that is ready for it. */
  const commands: ReadonlyArray<[string, () => Promise<(key: string) => Promise<HttpResponse>>]> = [
    ['place', async () => (key) => api.place(placeBody, { key })],
    ['pay', async () => sender('pay', await api.placeOrder())],
    ['ship', async () => sender('ship', await api.pay(await api.placeOrder()))],
    ['deliver', async () => sender('deliver', await shippedOrder())],
    ['return', async () => sender('return', await shippedOrder())],
    ['cancel', async () => sender('cancel', await api.pay(await api.placeOrder()))],
    [
      'refund',
      async () => sender('refund', await api.cancel(await api.pay(await api.placeOrder()))),
    ],
  ];
  const shippedOrder = async () => api.ship(await api.pay(await api.placeOrder()));
  const bodies: Readonly<Record<CommandName, unknown>> = {
    pay: { paymentId: 'pay-7', amountCents: 2500 },
    ship: { trackingNumber: 'T-7', carrier: 'post' },
    deliver: { trackingNumber: 'T-1' },
    return: {
      returnId: 'ret-7',
      items: [{ lineId: '1', quantity: 1 }],
      reason: 'too small',
      restock: true,
    },
    cancel: { reason: 'too late' },
    refund: { refundId: 'ref-7', amountCents: 1000 },
  };
  const sender = (name: CommandName, { orderId }: Order) => {
    return (key: string) => api.send(name, orderId, bodies[name], { key });
  };

  test.each(commands)('%s gets the same bytes and takes effect once', async (_, ready) => {
    const send = await ready();
    const key = randomUUID();
    const first = await send(key);
    const counts = await rowCounts(database);
    const second = await send(key);

    orderOf(first);
    expect(first.headers).not.toHaveProperty('idempotency-replayed');
    expectReplay(second, first);
    expect(await rowCounts(database)).toEqual(counts);
  });

  test.each(commands)('%s sent many times at once takes effect once', async (_, ready) => {
    const send = await ready();
    const before = await rowCounts(database);
    const key = randomUUID();
    const responses = await Promise.all(Array.from({ length: REPEATS }, () => send(key)));
    expectOneEffect(responses, await send(key));
    const after = await rowCounts(database);
    expect(after.events - before.events).toBe(1);
    expect(after.responses - before.responses).toBe(1);
  });

  test('sent to two replicas at once takes effect once', async () => {
    for (let round = 0; round < 5; round += 1) {
      const placed = await api.placeOrder();
      const before = await rowCounts(database);
      const key = randomUUID();
      const placeKey = randomUUID();
      const toBoth = (send: (api: OrderApi) => Promise<HttpResponse>) =>
        Promise.all(
          Array.from({ length: REPEATS }, (_, i) => send(i % 2 ? service.api : replica.api)),
        );
      const [places, pays] = await Promise.all([
        toBoth((api) => api.place(placeBody, { key: placeKey })),
        toBoth((api) => api.send('pay', placed.orderId, bodies.pay, { key })),
      ]);
      expectOneEffect(places, await replica.api.place(placeBody, { key: placeKey }));
      expectOneEffect(pays, await service.api.send('pay', placed.orderId, bodies.pay, { key }));
      const after = await rowCounts(database);
      expect(after.events - before.events).toBe(2);
    }
  });

  test('gives the response that it gave, whatever has happened to the order since', async () => {
    const key = randomUUID();
    const placeKey = randomUUID();
    const first = await api.place(placeBody, { key: placeKey });
    const order = orderOf(first);
    const paid = await api.send('pay', order.orderId, bodies.pay, { key, ifMatch: '"v1"' });
    await api.cancel(order);

    expectReplay(await api.place(placeBody, { key: placeKey }), first);
    // The stored response comes before If-Match and before the rule: both would refuse it by now.
    expectReplay(await api.send('pay', order.orderId, bodies.pay, { key, ifMatch: '"v1"' }), paid);
  });

  test('is the same request however its JSON is written, and its key quoted', async () => {
    const key = randomUUID();
    const first = await api.place(placeBody, { key });
    const { customerId, currency, items } = placeBody;
    const again = await api.request('POST', '/v1/orders', {
      rawBody: JSON.stringify({ items, currency, customerId }, undefined, 2),
      headers: { 'idempotency-key': `"${key}"` },
    });
    expectReplay(again, first);
  });

  test('is the same request however its address and its conditions are spelt', async () => {
    const order = await api.placeOrder();
    const key = randomUUID();
    const pay = (orderId: string, ifMatch: string) =>
      api.send('pay', orderId, bodies.pay, { key, ifMatch });
    const first = await pay(order.orderId, '"v1", "v0"');
    orderOf(first);
    const percent = order.orderId.replaceAll('-', '%2D');
    for (const [orderId, ifMatch] of [
      [order.orderId.toUpperCase(), '"v1","v0"'],
      [percent, '"v0", ,"v1"'],
      [order.orderId, '"v0","v1", "v1"'],
    ] as const) {
      expectReplay(await pay(orderId, ifMatch), first);
    }
    expect(problemOf(await pay(order.orderId, '"v1"')).code).toBe('idempotency_key_reused');
  });

  test('is the same request with a default written out or left out', async () => {
    const spellings = [placeBody, { ...placeBody, fulfilment: 'manual' }];
    for (const [one, other] of [spellings, spellings.toReversed()]) {
      const key = randomUUID();
      const first = await api.place(one, { key });
      expectReplay(await api.place(other, { key }), first);
    }
  });

  test('is known by what an earlier release stored of how it was spelt', async () => {
    const key = randomUUID();
    const order = await api.placeOrder();
    const path = `/v1/orders/${order.orderId.toUpperCase()}/pay`;
    const body = '{"amountCents":2500,"paymentId":"pay-7"}';
    const hash = createHash('sha256').update(`POST\n${path}\n"v1"\n${body}`).digest();
    await database.query(
      `insert into idempotency_keys (principal, key, command_id, request_hash, status, etag, body)
       values ('anonymous', $1, gen_random_uuid(), $2, 200, '"v2"', '{"earlier":true}')`,
      [key, hash],
    );
    const headers = {
      'content-type': 'application/json',
      'idempotency-key': key,
      'if-match': '"v1"',
    };
    const again = await api.request('POST', path, { rawBody: body, headers });
    await database.query('delete from idempotency_keys where key = $1', [key]);
    expect(again).toMatchObject({ status: 200, text: '{"earlier":true}' });
    expect(again.headers['idempotency-replayed']).toBe('true');
  });

  test('and stored by this release is the same to an earlier one, if it is spelt as usual', async () => {
    const key = randomUUID();
    const { orderId } = await api.placeOrder();
    await api.send('pay', orderId, bodies.pay, { key, ifMatch: '"v1"' });
    const body = '{"amountCents":2500,"paymentId":"pay-7"}';
    const text = `POST\n/v1/orders/${orderId}/pay\n"v1"\n${body}`;
    const rows = await database.query<{ request_hash: Buffer }>(
      'select request_hash from idempotency_keys where key = $1',
      [key],
    );
    expect(rows[0]!.request_hash).toEqual(createHash('sha256').update(text).digest());
  });

  /** Commands that have taken effect already, with another way to say the same. */
  const repeats: ReadonlyArray<[CommandName, (order: Order) => Promise<unknown>, unknown]> = [
    ['pay', async (order) => api.pay(order), { paymentId: 'pay-1', amountCents: 2500 }],
    [
      'ship',
      async (order) => api.ship(await api.pay(order)),
      { trackingNumber: 'T-1', carrier: 'other' },
    ],
    ['cancel', async (order) => api.cancel(await api.pay(order)), { reason: 'again' }],
    [
      'refund',
      async (order) => {
        await api.cancel(await api.pay(order));
        return api.send('refund', order.orderId, bodies.refund);
      },
      bodies.refund,
    ],
  ];

  test.each(repeats)('%s with nothing left to do costs a reference', async (name, reach, body) => {
    const items = Array.from({ length: 200 }, (_, index) => ({
      sku: `${index}${'s'.repeat(60)}`,
      quantity: 1,
      priceCents: index === 0 ? 2500 : 0,
    }));
    const order = await api.placeOrder({ items });
    await reach(order);
    const { orderId } = order;
    const keys = Array.from({ length: 10 }, () => randomUUID());
    const before = await rowCounts(database);
    const firsts = await Promise.all(keys.map((key) => api.send(name, orderId, body, { key })));
    expect(firsts.every(({ text }) => text.length > 15_000)).toBe(true);
    const after = await rowCounts(database);
    expect(after).toEqual({ ...before, responses: before.responses + keys.length });
    const [stored] = await database.query<{ bytes: number }>(
      `select max(pg_column_size(k.*)) as bytes from idempotency_keys k where key = any($1)`,
      [keys],
    );
    expect(stored!.bytes).toBeLessThan(300);

    // The order moves on; the responses do not.
    await api.send('cancel', orderId, { reason: 'r' });
    await api.send('refund', orderId, { refundId: 'ref-9', amountCents: 1 });
    const agains = await Promise.all(
      keys.map((key) => replica.api.send(name, orderId, body, { key })),
    );
    for (const [index, again] of agains.entries()) expectReplay(again, firsts[index]!);
    const other = { ...Object(bodies[name]), ...(name === 'cancel' && { reason: 'other' }) };
    if (name === 'cancel') {
      const reused = await api.send(name, orderId, other, { key: keys[0]! });
      expect(problemOf(reused).code).toBe('idempotency_key_reused');
    }
  });

  test('with another request under the key is refused', async () => {
    const key = randomUUID();
    const placed = orderOf(await api.place(placeBody, { key }));
    const other = await api.placeOrder();
    const payKey = randomUUID();
    await api.send('pay', placed.orderId, bodies.pay, { key: payKey });
    const before = await rowCounts(database);
    const { orderId } = placed;
    const tooDear = [{ sku: 'book', quantity: 100_000, priceCents: 1_000_000_000_000 }];
    const refused = [
      await api.place({ ...placeBody, customerId: 'c-2' }, { key }),
      await api.place({ ...placeBody, items: tooDear }, { key }),
      await api.send('pay', orderId, bodies.pay, { key }),
      await api.send('pay', other.orderId, bodies.pay, { key: payKey }),
      await api.send('pay', orderId, bodies.pay, { key: payKey, ifMatch: '"v1"' }),
      await api.send('pay', orderId, { ...Object(bodies.pay), amountCents: 1 }, { key: payKey }),
      await api.send('cancel', orderId, bodies.cancel, { key: payKey }),
    ].map(problemOf);
    for (const problem of refused) {
      expect(problem).toMatchObject({ status: 422, code: 'idempotency_key_reused' });
    }
    expect(await rowCounts(database)).toEqual(before);
  });

  test('is told again although the rules would refuse it by now', async () => {
    await using own = await createTestDatabase();
    const key = randomUUID();
    const place = ({ api }: TestService) =>
      api.place({ ...placeBody, ...deliverable, fulfilment: 'automatic' }, { key });
    const providers = { PAYMENT_URL: 'http://127.0.0.1:1', SHIPPING_URL: 'http://127.0.0.1:1' };
    await using able = await startService({ databaseUrl: own.url, env: providers });
    const first = await place(able);
    await able.kill();
    await own.query(`update saga_work set state = 'completed', due_at = null`);
    await using unable = await startService({ databaseUrl: own.url });
    expectReplay(await place(unable), first);
  });

  test('is decided anew when it was turned away: refusals are not kept', async () => {
    const order = await api.placeOrder();
    const keys = { ship: randomUUID(), pay: randomUUID(), place: randomUUID() };
    const before = await rowCounts(database);
    const send = (name: 'pay' | 'ship', body: unknown = bodies[name], ifMatch = '"v1"') =>
      api.send(name, order.orderId, body, { key: keys[name], ifMatch });
    const refused = [
      await api.send('ship', order.orderId, bodies.ship, { key: keys.ship }), // 409
      await send('pay', { paymentId: 'pay-7', amountCents: 0 }), // 422
      await send('pay', bodies.pay, '"v9"'), // 412
      await api.send('pay', randomUUID(), bodies.pay, { key: keys.pay }), // 404
      await api.place({ ...placeBody, items: [] }, { key: keys.place }), // 400
    ].map(({ status }) => status);
    expect(refused).toEqual([409, 422, 412, 404, 400]);
    expect(await rowCounts(database)).toEqual(before);

    expect(await send('pay')).toMatchObject({ status: 200 });
    const shipped = await api.send('ship', order.orderId, bodies.ship, { key: keys.ship });
    expect(shipped).toMatchObject({ status: 200 });
    expect(await api.place(placeBody, { key: keys.place })).toMatchObject({ status: 201 });
  });

  test('is known for 72 hours, and forgotten after them', async () => {
    const young = randomUUID();
    const old = randomUUID();
    const first = await api.place(placeBody, { key: young });
    const forgotten = orderOf(await api.place(placeBody, { key: old }));
    const age = `update idempotency_keys set created_at = now() - $1::interval where key = $2`;
    await database.query(age, ['71 hours 59 minutes', young]);
    await database.query(age, ['72 hours 1 minute', old]);
    await using third = await startService({ databaseUrl: database.url });
    await expect
      .poll(() => database.query('select from idempotency_keys where key = $1', [old]))
      .toEqual([]);
    expectReplay(await third.api.place(placeBody, { key: young }), first);
    const anew = await third.api.place(placeBody, { key: old });
    expect(orderOf(anew).orderId).not.toBe(forgotten.orderId);
  });
});

function expectReplay(response: HttpResponse, first: HttpResponse): void {
  expect(response.text).toBe(first.text);
  expect(response.status).toBe(first.status);
  for (const name of ['etag', 'location', 'content-type']) {
    expect(response.headers[name]).toBe(first.headers[name]);
  }
  expect(response.headers['idempotency-replayed']).toBe('true');
}

/** One response is the first; the others repeat it, or say that it is under way. */
function expectOneEffect(responses: readonly HttpResponse[], later: HttpResponse): void {
  const [first, ...others] = responses.filter(
    ({ status, headers }) => status < 300 && headers['idempotency-replayed'] === undefined,
  );
  expect(others).toEqual([]);
  expectReplay(later, first!);
  for (const response of responses) {
    if (response === first) continue;
    if (response.status < 300) expectReplay(response, first!);
    else {
      expect(problemOf(response)).toMatchObject({ status: 409, code: 'idempotency_key_in_use' });
      expect(Number(response.headers['retry-after'])).toBeGreaterThan(0);
    }
  }
}
