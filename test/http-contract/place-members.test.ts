import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { orderOf, problemOf } from '#test/support/api-shapes.ts';
import { createTestDatabase, rowCounts } from '#test/support/database.ts';
import type { TestDatabase } from '#test/support/database.ts';
import { skipReason } from '#test/support/infra.ts';
import { deliverable, placeBody } from '#test/support/order-api.ts';
import type { OrderApi } from '#test/support/order-api.ts';
import { startService } from '#test/support/service.ts';
import type { TestService } from '#test/support/service.ts';
import { verifyDatabase } from '#test/support/verify-database.ts';

/*
 * What an order can be placed with besides its lines: amounts, names, notes.
 */
const { MAX_SAFE_INTEGER } = Number;
const DEAREST = 1_000_000_000_000;
const pairs = (count: number) =>
  Object.fromEntries(Array.from({ length: count }, (_, index) => [`k${index}`, `v${index}`]));

describe.skipIf(skipReason('postgres'))('an order', () => {
  let database: TestDatabase;
  let service: TestService;
  let api: OrderApi;

  beforeAll(async () => {
    database = await createTestDatabase();
    service = await startService({ databaseUrl: database.url });
    ({ api } = service);
  });
  afterAll(async () => {
    await service[Symbol.asyncDispose]();
    expect(await verifyDatabase(database.url, { relay: 'off' })).toEqual([]);
    await database[Symbol.asyncDispose]();
  });

  const placed = async (change: object) => {
    const response = await api.place({ ...placeBody, ...change });
    expect(response.status, response.text).toBe(201);
    return orderOf(response);
  };
  const storedOf = async ({ orderId }: Readonly<{ orderId: string }>) =>
    (await api.history(orderId))[0]!.data;

  test('without them has lines by number and no other amounts, and stores none of them', async () => {
    const order = await placed({});
    expect(order).toMatchObject({
      shippingCents: 0,
      taxCents: 0,
      discountCents: 0,
      totalCents: 2500,
    });
    expect(order.items).toEqual(
      placeBody.items.map((item, index) => ({
        ...item,
        lineId: `${index + 1}`,
        shippedQuantity: 0,
        returnedQuantity: 0,
      })),
    );
    for (const name of ['metadata', 'externalReference', 'personalDataErasedAt']) {
      expect(order).not.toHaveProperty(name);
    }
    const members = Object.keys(await storedOf(order)).toSorted();
    expect(members).toEqual(['currency', 'customerId', 'items', 'orderId', 'totalCents']);
    const zeros = await placed({ shippingCents: 0, taxCents: 0, discountCents: 0, metadata: {} });
    expect(Object.keys(await storedOf(zeros)).toSorted()).toEqual(members);
  });

  test('with all of them shows them all, and adds them up', async () => {
    const more = {
      items: [
        { sku: 'book', name: 'Ä „book“', quantity: 2, priceCents: 1000 },
        { sku: 'book', quantity: 1, priceCents: 500 },
      ],
      shippingCents: 490,
      taxCents: 475,
      discountCents: 300,
      externalReference: 'shop/1 ü',
      metadata: { channel: 'web', empty: '' },
    };
    const order = await placed({ ...more, ...deliverable, contact: { email: 'a@example.org' } });
    expect(order).toMatchObject({ ...more, totalCents: 3165, status: 'pending' });
    const shown = JSON.stringify(order);
    for (const secret of [deliverable.payment.method, deliverable.shippingAddress.line1, 'a@ex']) {
      expect(shown).not.toContain(secret);
    }
    const stored = await storedOf(order);
    expect(stored).toMatchObject({
      hasShippingAddress: true,
      hasContact: true,
      hasPaymentMethod: true,
    });
    expect(JSON.stringify(stored)).not.toContain(deliverable.shippingAddress.line1);
    const paid = await api.pay(order);
    expect(paid).toMatchObject({ status: 'paid', capturedCents: 3165, owedCents: 0 });
    const { data } = await api.list({ customerId: order.customerId, limit: '1' });
    expect(data).toMatchObject([{ externalReference: 'shop/1 ü', totalCents: 3165 }]);
  });

  test('that costs nothing because of its discount is paid with nothing', async () => {
    const order = await placed({ discountCents: 2500 });
    expect(order).toMatchObject({ totalCents: 0, paymentStatus: 'unpaid' });
    const response = await api.send('pay', order.orderId, { paymentId: 'p', amountCents: 0 });
    expect(orderOf(response)).toMatchObject({
      status: 'paid',
      paymentStatus: 'paid',
      owedCents: 0,
    });
  });

  test.each<[string, object, number]>([
    [
      'the largest amounts',
      { shippingCents: DEAREST, taxCents: DEAREST, discountCents: DEAREST },
      DEAREST + 2500,
    ],
    ['20 notes', { metadata: pairs(20) }, 2500],
    ['the longest note', { metadata: { ['🎁'.repeat(40)]: '🎁'.repeat(500) } }, 2500],
    ['the longest name', { items: [{ ...placeBody.items[0]!, name: '🎁'.repeat(200) }] }, 2000],
    ['the longest reference', { externalReference: '🎁'.repeat(100) }, 2500],
  ])('can have %s', async (_, change, totalCents) => {
    const order = await placed(change);
    expect(order).toMatchObject({ ...change, totalCents });
    expect(await api.get(order.orderId)).toEqual(order);
  });

  test('is refused if the total is too large or below zero', async () => {
    const before = await rowCounts(database);
    const items = [
      { sku: 's', quantity: 9007, priceCents: DEAREST },
      { sku: 's', quantity: 1, priceCents: 199_254_740_991 },
    ];
    const refusal = async (change: object) =>
      problemOf(await api.place({ ...placeBody, ...change }));
    expect(await refusal({ items, shippingCents: 1 })).toMatchObject({ code: 'total_too_large' });
    expect(await refusal({ items, taxCents: 1 })).toMatchObject({ code: 'total_too_large' });
    // The sum that the discount is taken off must be a safe integer too.
    const balanced = { items, shippingCents: 1, discountCents: 1 };
    expect(await refusal(balanced)).toMatchObject({ code: 'total_too_large' });
    const below = await refusal({ discountCents: 2501 });
    expect(below).toMatchObject({ status: 422, code: 'discount_exceeds_total' });
    expect(await rowCounts(database)).toEqual(before);
    const most = await placed({ items, discountCents: 1 });
    expect(most.totalCents).toBe(MAX_SAFE_INTEGER - 1);
  });

  test.each<[object, string]>([
    [{ shippingCents: -1 }, '/shippingCents'],
    [{ shippingCents: DEAREST + 1 }, '/shippingCents'],
    [{ taxCents: 0.5 }, '/taxCents'],
    [{ taxCents: '1' }, '/taxCents'],
    [{ discountCents: -1 }, '/discountCents'],
    [{ discountCents: null }, '/discountCents'],
    [{ externalReference: '' }, '/externalReference'],
    [{ externalReference: 'r'.repeat(101) }, '/externalReference'],
    [{ externalReference: 'a\u0000b' }, '/externalReference'],
    [{ metadata: pairs(21) }, '/metadata'],
    [{ metadata: [] }, '/metadata'],
    [{ metadata: 'note' }, '/metadata'],
    [{ metadata: { note: 1 } }, '/metadata/note'],
    [{ metadata: { note: null } }, '/metadata/note'],
    [{ metadata: { note: { a: 'b' } } }, '/metadata/note'],
    [{ metadata: { note: 'v'.repeat(501) } }, '/metadata/note'],
    [{ metadata: { ['k'.repeat(41)]: 'v' } }, `/metadata/${'k'.repeat(41)}`],
    [{ metadata: { '': 'v' } }, '/metadata/'],
    [{ metadata: { constructor: 'v' } }, '/metadata/constructor'],
    [{ payment: {} }, '/payment/method'],
    [{ payment: { method: '' } }, '/payment/method'],
    [{ payment: { method: 'm'.repeat(256) } }, '/payment/method'],
    [{ payment: { method: 'm', card: '4111' } }, '/payment/card'],
    [{ items: [{ ...placeBody.items[0]!, name: '' }] }, '/items/0/name'],
    [{ items: [{ ...placeBody.items[0]!, name: 'n'.repeat(201) }] }, '/items/0/name'],
    [{ items: [{ ...placeBody.items[0]!, lineId: '7' }] }, '/items/0/lineId'],
  ])('with %j is refused, at %s', async (change, pointer) => {
    const before = await rowCounts(database);
    const problem = problemOf(await api.place({ ...placeBody, ...change }));
    expect(problem).toMatchObject({ status: 400 });
    expect(problem.errors!.map((error) => error.pointer)).toContain(pointer);
    expect(await rowCounts(database)).toEqual(before);
  });

  test('with `__proto__` among its notes is refused', async () => {
    const rawBody = JSON.stringify({ ...placeBody, metadata: { a: 'b' } }).replace(
      '"a"',
      '"__proto__"',
    );
    const response = await api.request('POST', '/v1/orders', {
      rawBody,
      headers: { 'content-type': 'application/json' },
    });
    expect(problemOf(response)).toMatchObject({ status: 400 });
  });
});
