import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { z } from 'zod';
import { bearer, createKey, keyIdOf } from '#test/support/api-keys.ts';
import { problemOf } from '#test/support/api-shapes.ts';
import type { HttpResponse, RequestOptions } from '#test/support/http-client.ts';
import { skipReason } from '#test/support/infra.ts';
import { createOrderApi, deliverable } from '#test/support/order-api.ts';
import type { OrderApi } from '#test/support/order-api.ts';
import { personal } from '#test/support/personal-data.ts';
import { eventually } from '#test/support/poll.ts';
import { createSagaWorld, startReplica } from '#test/support/saga/world.ts';
import type { Replica, SagaWorld } from '#test/support/saga/world.ts';

/** No order has it. */
const MISSING = '01999e5c-7c1f-7d3a-9f52-3b6f0c9d2a11';
const reason = { reason: 'late' };
const pageShape = z.looseObject({
  data: z.array(z.looseObject({ orderId: z.string() })),
  nextCursor: z.string().nullable(),
});

describe.skipIf(skipReason('postgres'))('a customer', () => {
  let world: SagaWorld;
  let replica: Replica;
  let service: OrderApi;
  /** Two customers, and their keys. */
  let ann: OrderApi;
  let bob: OrderApi;
  let keyOfBob: string;

  beforeAll(async () => {
    world = await createSagaWorld();
    replica = await startReplica(world, { env: { AUTH: 'on' } });
    const client = async (customer?: string) => {
      const key = await createKey(world.database.url, customer === undefined ? {} : { customer });
      return { key, api: createOrderApi(replica.url, bearer(key)) };
    };
    ({ api: service } = await client());
    ({ api: ann } = await client('ann'));
    ({ api: bob, key: keyOfBob } = await client('bob'));
  });
  afterAll(async () => {
    for (const api of [service, ann, bob]) api.close();
    await replica[Symbol.asyncDispose]();
    await world[Symbol.asyncDispose]();
  });

  const orderOfAnn = () => ann.placeOrder({ customerId: 'ann' });
  /** Everything in a response but its time, its own id and the id of the order. */
  const comparable = ({ status, headers, text }: HttpResponse, orderId: string) => ({
    status,
    headers: { ...headers, date: '', 'x-request-id': '' },
    text: text.replaceAll(orderId, '<order>').replace(/"requestId":"[^"]*"/, ''),
  });
  /** Sends bob's request for an order that is not his, and the same for one that does not exist. */
  const expectSame = async (
    orderId: string,
    method: string,
    path: string,
    options?: RequestOptions,
  ) => {
    const ask = async (id: string) =>
      comparable(await bob.request(method, path.replace('<order>', id), options), id);
    const [other, missing] = [await ask(orderId), await ask(MISSING)];
    expect(other).toEqual(missing);
    return other;
  };

  test('sees its own orders', async () => {
    const { orderId } = await orderOfAnn();
    expect((await ann.get(orderId)).customerId).toBe('ann');
    expect(await ann.history(orderId)).toHaveLength(1);
    expect((await service.get(orderId)).orderId).toBe(orderId);
  });

  const reads = [
    '/v1/orders/<order>',
    '/v1/orders/<order>?version=1',
    '/v1/orders/<order>?version=99',
    '/v1/orders/<order>?at=2099-01-01T00:00:00Z',
    '/v1/orders/<order>?at=2020-01-01T00:00:00Z',
    '/v1/orders/<order>/events',
    '/v1/orders/<order>/fulfilment',
    '/v1/orders/<order>/refunds',
    '/v1/orders/<order>/refunds/ref-1',
  ];

  test.each(reads)(
    'gets for the order of another what it gets for a missing one: %s',
    async (path) => {
      const placed = await service.place({
        ...body('ann'),
        ...deliverable,
        fulfilment: 'automatic',
      });
      const { orderId } = z.looseObject({ orderId: z.string() }).parse(JSON.parse(placed.text));
      for (const method of ['GET', 'HEAD']) {
        for (const tag of [undefined, '*', '"v1"']) {
          const headers = tag === undefined ? {} : { 'if-none-match': tag };
          const { status } = await expectSame(orderId, method, path, { headers });
          expect(status).toBe(404);
        }
      }
    },
  );

  test('lists its own orders only, whatever it filters by', async () => {
    const mine = await bob.placeOrder({ customerId: 'bob' });
    const other = await orderOfAnn();
    const ids = async (api: OrderApi, query = '') => {
      const { text } = await api.request('GET', `/v1/orders?limit=100${query}`);
      return pageShape.parse(JSON.parse(text)).data.map(({ orderId }) => orderId);
    };
    expect(await ids(service)).toEqual(expect.arrayContaining([mine.orderId, other.orderId]));
    expect(await ids(bob)).toEqual([mine.orderId]);
    expect(await ids(bob, '&customerId=bob')).toEqual([mine.orderId]);
    expect(await ids(bob, '&customerId=ann')).toEqual([]);
    expect(await ids(bob, '&status=pending')).toEqual([mine.orderId]);
    const newest = await service.request('GET', '/v1/orders?limit=1');
    const { nextCursor } = pageShape.parse(JSON.parse(newest.text));
    expect(await ids(bob, `&cursor=${nextCursor}`)).not.toContain(other.orderId);
  });

  test('cannot cancel the order of another, which looks missing, whatever it sends with it', async () => {
    const { orderId } = await orderOfAnn();
    const path = '/v1/orders/<order>/cancel';
    for (const headers of [
      {},
      { 'if-match': '"v1"' },
      { 'if-match': '"v9"' },
      { 'if-match': 'W/"v1"' },
      { 'if-match': '*' },
      { 'idempotency-key': 'bob-1' },
      { 'idempotency-key': 'bob-2', 'if-match': '"v1"' },
      { prefer: 'return=minimal' },
    ]) {
      const { status } = await expectSame(orderId, 'POST', path, { body: reason, headers });
      expect({ headers, status }).toEqual({ headers, status: 404 });
    }
    await expectSame(orderId, 'POST', path, { body: { reason: '' } });
    expect(await ann.get(orderId)).toMatchObject({ status: 'pending', version: 1 });
    expect(
      await world.database.query(`select from idempotency_keys where key like 'bob-%'`),
    ).toEqual([]);
  });

  test.each([
    'pay',
    'ship',
    'refund',
    'fulfil',
    'deliver',
    'return',
    'fulfilment/retry',
    'fulfilment/resolve',
    'refunds/r/retry',
    'refunds/r/resolve',
  ])('cannot %s any order, its own neither', async (command) => {
    for (const { orderId } of [await orderOfAnn(), await bob.placeOrder({ customerId: 'bob' })]) {
      const { status } = await expectSame(orderId, 'POST', `/v1/orders/<order>/${command}`);
      expect(status).toBe(403);
    }
  });

  test('cannot change the address of another, and erases none, its own neither', async () => {
    const { orderId } = await ann.placeOrder({ customerId: 'ann', ...personal });
    const before = await ann.request('GET', `/v1/orders/${orderId}`);
    expect(before.text).toContain(personal.contact.email);
    const address = { ...personal.shippingAddress, city: 'Bonn' };
    for (const headers of [{}, { 'if-match': '"v1-personal"' }, { 'idempotency-key': 'bob-3' }]) {
      const path = '/v1/orders/<order>/shipping-address';
      const { status } = await expectSame(orderId, 'PUT', path, { body: address, headers });
      expect(status).toBe(404);
    }
    for (const path of ['/v1/orders/<order>/personal-data', '/v1/customers/ann/personal-data']) {
      const { status } = await expectSame(orderId, 'DELETE', path);
      expect(status).toBe(403);
    }
    expect((await ann.request('GET', `/v1/orders/${orderId}`)).text).toBe(before.text);
    const own = await ann.request('PUT', `/v1/orders/${orderId}/shipping-address`, {
      body: address,
    });
    expect(own.status).toBe(200);
  });

  test('cancels its own order', async () => {
    const order = await orderOfAnn();
    expect((await ann.cancel(order)).status).toBe('cancelled');
  });

  test('never gets the stored response of another: keys belong to their principal', async () => {
    const key = randomUUID();
    const { orderId } = await orderOfAnn();
    const first = await ann.send('cancel', orderId, reason, { key });
    expect(first.status).toBe(200);
    const replayed = await ann.send('cancel', orderId, reason, { key });
    expect(replayed.headers['idempotency-replayed']).toBe('true');
    const { status } = await expectSame(orderId, 'POST', '/v1/orders/<order>/cancel', {
      body: reason,
      headers: { 'idempotency-key': key },
    });
    expect(status).toBe(404);
    const own = await bob.place(body('bob'), { key });
    expect(own.status).toBe(201);
  });

  test('gets no stored response of an order that it may no longer see', async () => {
    const key = randomUUID();
    const { orderId } = await bob.placeOrder({ customerId: 'bob' });
    expect((await bob.send('cancel', orderId, reason, { key })).status).toBe(200);
    const become = async (customer: string) => {
      await world.database.query('update api_keys set customer_id = $2 where key_id = $1', [
        keyIdOf(keyOfBob),
        customer,
      ]);
      const { status } = await bob.place(body(customer));
      return status === 201;
    };
    await eventually(() => become('carl'));
    const headers = { 'idempotency-key': key };
    const replay = { body: reason, headers };
    const other = await bob.request('POST', `/v1/orders/${orderId}/cancel`, replay);
    expect(problemOf(other).code).toBe('order_not_found');
    await eventually(() => become('bob'));
    const again = await bob.request('POST', `/v1/orders/${orderId}/cancel`, replay);
    expect(again.headers['idempotency-replayed']).toBe('true');
  });

  test('places orders for itself only, and none that is fulfilled by itself', async () => {
    for (const headers of [{}, { 'idempotency-key': randomUUID() }]) {
      const other = await bob.request('POST', '/v1/orders', { body: body('ann'), headers });
      expect([other.status, problemOf(other).code]).toEqual([403, 'other_customer']);
      const automatic = { ...body('bob'), ...deliverable, fulfilment: 'automatic' };
      const shipped = await bob.request('POST', '/v1/orders', { body: automatic, headers });
      expect([shipped.status, problemOf(shipped).code]).toEqual([403, 'services_only']);
    }
  });

  test('is the actor of its events, and is not told who else acted', async () => {
    const { orderId } = await bob.placeOrder({ customerId: 'bob' });
    const [placed] = await service.history(orderId);
    expect(placed?.metadata['actor']).toBe(`key:${keyIdOf(keyOfBob)}`);
    const payment = { paymentId: 'p', amountCents: 1 };
    expect((await service.send('pay', orderId, payment)).status).toBe(200);
    const shown = (await bob.history(orderId)).map(({ metadata }) => metadata['actor']);
    expect(shown).toEqual([`key:${keyIdOf(keyOfBob)}`, 'other']);
  });

  function body(customerId: string) {
    return { customerId, currency: 'EUR', items: [{ sku: 'book', quantity: 1, priceCents: 1 }] };
  }
});
