import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { orderOf, problemOf } from '#test/support/api-shapes.ts';
import type { Order } from '#test/support/api-shapes.ts';
import { createTestDatabase, rowCounts } from '#test/support/database.ts';
import type { TestDatabase } from '#test/support/database.ts';
import { skipReason } from '#test/support/infra.ts';
import type { OrderApi } from '#test/support/order-api.ts';
import { startService } from '#test/support/service.ts';
import type { TestService } from '#test/support/service.ts';
import { verifyDatabase } from '#test/support/verify-database.ts';

/*
 * Refunds of payments that were reported by hand: they have happened, and are recorded, whatever the order owes.
 */
const TOTAL = 2500;

describe.skipIf(skipReason('postgres'))('a refund by hand', () => {
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

  const paid = async () => api.pay(await api.placeOrder());
  const shipped = async () => api.ship(await paid());
  const cancelled = async () => api.cancel(await paid());
  const overpaid = async () => {
    const order = await shipped();
    return orderOf(await api.send('pay', order.orderId, { paymentId: 'pay-2', amountCents: 400 }));
  };
  const refund = async ({ orderId }: Order, body: object) => {
    const response = await api.send('refund', orderId, body);
    expect(response.status, response.text).toBe(200);
    expect(response.headers).not.toHaveProperty('location');
    const order = orderOf(response);
    expect(await api.get(orderId)).toEqual(order);
    return order;
  };
  const refusal = async ({ orderId }: Order, body: object) => {
    const before = await rowCounts(database);
    const problem = problemOf(await api.send('refund', orderId, body));
    expect(await rowCounts(database)).toEqual(before);
    return problem;
  };
  const lastEvent = async ({ orderId }: Order) => {
    const { type, data } = (await api.history(orderId)).at(-1)!;
    return { type, data };
  };

  test.each<[string, () => Promise<Order>, string]>([
    ['paid', paid, 'paid'],
    ['shipped', shipped, 'shipped'],
    ['cancelled', cancelled, 'cancelled'],
  ])('of a %s order leaves its status, and is shown', async (_, reach, status) => {
    const order = await reach();
    const part = await refund(order, { refundId: 'r-1', amountCents: 1000, reason: 'scratched' });
    expect(part).toMatchObject({
      status,
      version: order.version + 1,
      paymentStatus: 'partially_refunded',
      refundedCents: 1000,
      owedCents: status === 'cancelled' ? 1500 : 0,
      refunds: [
        {
          refundId: 'r-1',
          amountCents: 1000,
          paymentId: 'pay-1',
          state: 'refunded',
          reason: 'scratched',
        },
      ],
    });
    const all = await refund(order, { refundId: 'r-2', amountCents: 1500 });
    expect(all).toMatchObject({ status, paymentStatus: 'refunded', owedCents: 0 });
    expect(all.refunds.map(({ refundId }) => refundId)).toEqual(['r-1', 'r-2']);
    expect(await refusal(order, { refundId: 'r-3', amountCents: 1 })).toMatchObject({
      status: 409,
      code: 'refund_exceeds_captured',
      refundableCents: 0,
    });
  });

  test('says what of it was not owed, and only that', async () => {
    const goodwill = await paid();
    await refund(goodwill, { refundId: 'r', amountCents: 300 });
    expect(await lastEvent(goodwill)).toEqual({
      type: 'PaymentRefunded',
      data: { refundId: 'r', amountCents: 300, paymentId: 'pay-1', allowanceCents: 300 },
    });
    const owing = await cancelled();
    await refund(owing, { refundId: 'r', amountCents: 300 });
    expect((await lastEvent(owing)).data).toEqual({
      refundId: 'r',
      amountCents: 300,
      paymentId: 'pay-1',
    });
    const both = await overpaid();
    expect(both.owedCents).toBe(400);
    const refunded = await refund(both, { refundId: 'r', amountCents: 1000, paymentId: 'pay-1' });
    expect(refunded.owedCents).toBe(0);
    expect((await lastEvent(both)).data).toMatchObject({ allowanceCents: 600 });
  });

  test('of what was not owed does not hide what is owed later', async () => {
    const order = await shipped();
    await refund(order, { refundId: 'r', amountCents: 300 });
    const again = { paymentId: 'pay-2', amountCents: 500 };
    expect(orderOf(await api.send('pay', order.orderId, again))).toMatchObject({ owedCents: 500 });
    const row = (await api.listAll()).find(({ orderId }) => orderId === order.orderId);
    expect(row).toMatchObject({ owedCents: 500, refundedCents: 300, capturedCents: 3000 });
    expect(await refund(order, { refundId: 's', amountCents: 500 })).toMatchObject({
      owedCents: 0,
    });
    expect((await lastEvent(order)).data).not.toHaveProperty('allowanceCents');
    const before = await paid();
    await refund(before, { refundId: 'r', amountCents: 300 });
    expect(await api.cancel(before)).toMatchObject({ owedCents: TOTAL - 300 });
  });

  test('can be for a return of the order', async () => {
    const order = await shipped();
    const body = { refundId: 'r', amountCents: 100, returnId: 'ret-1' };
    expect(await refusal(order, body)).toMatchObject({ status: 422, code: 'return_not_found' });
    const items = [{ lineId: '2', quantity: 1 }];
    await api.send('return', order.orderId, { returnId: 'ret-1', items, reason: 'dry' });
    expect((await refund(order, body)).refunds).toMatchObject([{ returnId: 'ret-1' }]);
    expect((await lastEvent(order)).data).toMatchObject({ returnId: 'ret-1' });
  });

  test('is the same with recordOnly', async () => {
    const [one, other] = [await shipped(), await shipped()];
    const body = { refundId: 'r', amountCents: 100 };
    await refund(one, body);
    await refund(other, { ...body, recordOnly: true });
    expect(await lastEvent(other)).toEqual(await lastEvent(one));
  });

  test('again changes nothing, and another under its id is refused', async () => {
    const order = await shipped();
    const body = { refundId: 'r', amountCents: 100, reason: 'late' };
    const first = await refund(order, body);
    const before = await rowCounts(database);
    for (const same of [body, { refundId: 'r', amountCents: 100, paymentId: 'pay-1' }]) {
      expect(await refund(order, same)).toEqual(first);
    }
    expect(await rowCounts(database)).toEqual(before);
    for (const other of [{ amountCents: 101 }, { paymentId: 'pay-9' }]) {
      expect(await refusal(order, { ...body, ...other })).toMatchObject({
        status: 409,
        code: 'refund_id_taken',
      });
    }
  });

  test.each<[string, object]>([
    ['more than was captured', { amountCents: TOTAL + 401 }],
    ['more than was captured, in a small part of it', { amountCents: 401, paymentId: 'pay-2' }],
    ['a payment that the order does not have', { amountCents: 1, paymentId: 'pay-9' }],
  ])('of %s is refused with what is left', async (_, body) => {
    const order = await overpaid();
    expect(await refusal(order, { refundId: 'r', ...body })).toMatchObject({
      status: 409,
      code: 'refund_exceeds_captured',
      refundableCents: TOTAL + 400,
      current: { status: 'shipped', allowed: expect.arrayContaining(['refund']) },
    });
  });

  test('of an order that was never paid is refused', async () => {
    const order = await api.placeOrder();
    expect(await refusal(order, { refundId: 'r', amountCents: 1 })).toMatchObject({
      code: 'refund_exceeds_captured',
      refundableCents: 0,
      current: { allowed: expect.not.arrayContaining(['refund']) },
    });
  });

  test.each<[object, string]>([
    [{ amountCents: 0 }, '/amountCents'],
    [{ amountCents: 1.5 }, '/amountCents'],
    [{ refundId: '' }, '/refundId'],
    [{ refundId: 'r'.repeat(101) }, '/refundId'],
    [{ reason: '' }, '/reason'],
    [{ reason: 'r'.repeat(501) }, '/reason'],
    [{ returnId: '' }, '/returnId'],
    [{ recordOnly: 'yes' }, '/recordOnly'],
    [{ recordOnly: null }, '/recordOnly'],
    [{ sagaId: 's' }, '/sagaId'],
    [{ allowanceCents: 1 }, '/allowanceCents'],
  ])('with %j is refused, at %s', async (change, pointer) => {
    const problem = await refusal(await paid(), { refundId: 'r', amountCents: 1, ...change });
    expect(problem).toMatchObject({ status: 400, code: 'invalid_request' });
    expect(problem.errors!.map((error) => error.pointer)).toContain(pointer);
  });
});
