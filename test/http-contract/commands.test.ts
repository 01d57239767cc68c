import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { orderOf, problemOf, rowOf } from '#test/support/api-shapes.ts';
import type { Order } from '#test/support/api-shapes.ts';
import { createTestDatabase, rowCounts } from '#test/support/database.ts';
import type { TestDatabase } from '#test/support/database.ts';
import type { HttpResponse } from '#test/support/http-client.ts';
import { skipReason } from '#test/support/infra.ts';
import { placeBody } from '#test/support/order-api.ts';
import type { CommandName, OrderApi } from '#test/support/order-api.ts';
import { startService } from '#test/support/service.ts';
import type { TestService } from '#test/support/service.ts';
import { verifyDatabase } from '#test/support/verify-database.ts';

/*
 * What each command responds with, in each state of an order.
 */
const TOTAL = 2500;

describe.skipIf(skipReason('postgres'))('the commands of an order', () => {
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

  describe('from placed to shipped', () => {
    test('respond with the order after each: placed, paid, shipped', async () => {
      const response = await api.place(placeBody);
      const placed = orderOf(response);
      const { orderId, placedAt } = placed;
      expect(response.status).toBe(201);
      expect(response.headers).toMatchObject({
        location: `/v1/orders/${orderId}`,
        etag: '"v1"',
        'content-type': 'application/json; charset=utf-8',
      });
      const expected = {
        orderId,
        ...placeBody,
        items: placeBody.items.map((item, index) =>
          Object.assign(
            { lineId: String(index + 1), shippedQuantity: 0, returnedQuantity: 0 },
            item,
          ),
        ),
        status: 'pending',
        paymentStatus: 'unpaid',
        shipmentStatus: 'unshipped',
        shippingCents: 0,
        taxCents: 0,
        discountCents: 0,
        payments: [],
        refunds: [],
        parcels: [],
        returns: [],
        itemCount: 2,
        totalCents: TOTAL,
        version: 1,
        placedAt,
        capturedCents: 0,
        refundedCents: 0,
        owedCents: 0,
      };
      expect(placed).toEqual(expected);

      const payment = { paymentId: 'pay-1', amountCents: TOTAL };
      const paid = await sent(200, 'pay', placed, payment);
      const { paidAt } = paid;
      expect(paid).toEqual({
        ...expected,
        status: 'paid',
        paymentStatus: 'paid',
        version: 2,
        paymentId: 'pay-1',
        paidAt,
        capturedCents: TOTAL,
        payments: [{ ...payment, source: 'reported', capturedAt: paidAt }],
      });

      const parcel = { trackingNumber: 'T-1', carrier: 'post' };
      const shipped = await sent(200, 'ship', paid, parcel);
      const { shippedAt } = shipped;
      const all = paid.items.map(({ lineId, quantity }) => ({ lineId, quantity }));
      expect(shipped).toEqual({
        ...paid,
        status: 'shipped',
        shipmentStatus: 'shipped',
        version: 3,
        ...parcel,
        shippedAt,
        items: paid.items.map((item) =>
          Object.assign({}, item, { shippedQuantity: item.quantity }),
        ),
        parcels: [{ ...parcel, items: all, shippedAt }],
      });
      const instants = [placedAt, paidAt!, shippedAt!];
      expect(instants.toSorted()).toEqual(instants);
      expect(Math.abs(Date.parse(placedAt) - Date.now())).toBeLessThan(60_000);
    });

    test('show what is owed after a cancellation, and what was refunded', async () => {
      const paid = await api.pay(await api.placeOrder());
      const cancelled = await sent(200, 'cancel', paid, { reason: 'wrong size' });
      const { cancelledAt } = cancelled;
      expect(cancelled).toEqual({
        ...paid,
        status: 'cancelled',
        version: 3,
        reason: 'wrong size',
        refundAmountCents: TOTAL,
        owedCents: TOTAL,
        cancelledAt,
      });
      const part = await sent(200, 'refund', paid, { refundId: 'ref-1', amountCents: 1000 });
      expect(part).toMatchObject({
        status: 'cancelled',
        paymentStatus: 'partially_refunded',
        version: 4,
        refundedCents: 1000,
        owedCents: 1500,
      });
      const rest = await sent(200, 'refund', paid, { refundId: 'ref-2', amountCents: 1500 });
      expect(rest).toEqual({
        ...cancelled,
        paymentStatus: 'refunded',
        version: 5,
        refundedCents: TOTAL,
        owedCents: 0,
        refunds: [
          {
            refundId: 'ref-1',
            amountCents: 1000,
            paymentId: 'pay-1',
            state: 'refunded',
            refundedAt: part.refunds[0]!.refundedAt,
          },
          {
            refundId: 'ref-2',
            amountCents: 1500,
            paymentId: 'pay-1',
            state: 'refunded',
            refundedAt: rest.refunds[1]!.refundedAt,
          },
        ],
      });
    });

    test('owe nothing for an order that was not paid', async () => {
      const cancelled = await api.cancel(await api.placeOrder());
      expect(cancelled).toMatchObject({ refundAmountCents: 0, capturedCents: 0, version: 2 });
      expect(cancelled).not.toHaveProperty('paidAt');
    });
  });

  /** An order in each state, and what may be done with it. */
  const states: Readonly<Record<string, [() => Promise<Order>, string[]]>> = {
    pending: [() => api.placeOrder(), ['cancel', 'pay']],
    paid: [async () => api.pay(await api.placeOrder()), ['cancel', 'refund', 'ship']],
    shipped: [
      async () => api.ship(await api.pay(await api.placeOrder())),
      ['deliver', 'refund', 'return'],
    ],
    cancelled: [async () => api.cancel(await api.placeOrder()), []],
    owing: [async () => api.cancel(await api.pay(await api.placeOrder())), ['refund']],
  };
  const bodies = {
    pay: { paymentId: 'pay-9', amountCents: TOTAL },
    ship: { trackingNumber: 'T-9', carrier: 'ship' },
    deliver: { trackingNumber: 'T-9' },
    return: { returnId: 'ret-9', items: [{ lineId: '1', quantity: 1 }], reason: 'too small' },
    cancel: { reason: 'late' },
    refund: { refundId: 'ref-9', amountCents: 1 },
  } as const;

  test.each<[string, CommandName, number, string]>([
    ['pending', 'ship', 409, 'order_not_paid'],
    ['pending', 'refund', 409, 'refund_exceeds_captured'],
    ['pending', 'return', 409, 'return_exceeds_shipped'],
    ['paid', 'return', 409, 'return_exceeds_shipped'],
    ['paid', 'deliver', 404, 'parcel_not_found'],
    ['shipped', 'ship', 409, 'order_already_shipped'],
    ['shipped', 'cancel', 409, 'order_already_shipped'],
    ['shipped', 'deliver', 404, 'parcel_not_found'],
    ['cancelled', 'ship', 409, 'order_cancelled'],
    ['cancelled', 'refund', 409, 'refund_exceeds_captured'],
    ['owing', 'ship', 409, 'order_cancelled'],
  ])('%s: %s is refused with %i %s and what is allowed', async (state, name, status, code) => {
    const [reach, allowed] = states[state]!;
    const order = await reach();
    const before = await rowCounts(database);
    const problem = problemOf(await api.send(name, order.orderId, bodies[name]));
    expect(problem).toMatchObject({
      status,
      code,
      current: { status: order.status, version: order.version },
    });
    expect(withoutFulfilment(problem.current!.allowed)).toEqual(allowed);
    expect(await rowCounts(database)).toEqual(before);
    expect(await api.get(order.orderId)).toEqual(order);
  });

  test.each<[CommandName, string, unknown, string, number?]>([
    ['pay', 'pending', { paymentId: 'p', amountCents: 0 }, 'payment_amount_mismatch'],
    ['pay', 'cancelled', { paymentId: 'p', amountCents: 0 }, 'payment_amount_mismatch'],
    ['refund', 'owing', { refundId: 'r', amountCents: TOTAL + 1 }, 'refund_exceeds_captured', 409],
    [
      'refund',
      'owing',
      { refundId: 'r', amountCents: 1, paymentId: 'x' },
      'refund_exceeds_captured',
      409,
    ],
  ])(
    '%s of an amount that cannot be on a %s order is refused: %o',
    async (name, state, body, code, status = 422) => {
      const order = await states[state]![0]();
      const problem = problemOf(await api.send(name, order.orderId, body));
      expect(problem).toMatchObject({ status, code, current: { version: order.version } });
    },
  );

  test.each<[string, Partial<Order>]>([
    ['paid', { status: 'paid', capturedCents: 2 * TOTAL, owedCents: TOTAL }],
    ['shipped', { status: 'shipped', capturedCents: 2 * TOTAL, owedCents: TOTAL }],
    ['cancelled', { status: 'cancelled', capturedCents: TOTAL, owedCents: TOTAL }],
    ['owing', { status: 'cancelled', capturedCents: 2 * TOTAL, owedCents: 2 * TOTAL }],
  ])(
    'a payment that comes when the order is %s is recorded, told as owed, and given back',
    async (state, expected) => {
      const { orderId, version, owedCents } = await states[state]![0]();
      const response = await api.send('pay', orderId, bodies.pay);
      expect(response.status).toBe(200);
      const recorded = orderOf(response);
      expect(recorded).toMatchObject({ ...expected, version: version + 1 });
      expect(orderOf(await api.send('pay', orderId, bodies.pay))).toEqual(recorded);
      expect(await api.get(orderId)).toEqual(recorded);
      const { type, data } = (await api.history(orderId)).at(-1)!;
      expect({ type, data }).toEqual({ type: 'PaymentCaptured', data: bodies.pay });
      const listed = await api.listAll({ status: recorded.status });
      expect(listed.find((row) => row.orderId === orderId)).toEqual(rowOf(recorded));

      const refund = { refundId: 'ref-9', amountCents: TOTAL, paymentId: 'pay-9' };
      const above = { ...refund, amountCents: recorded.capturedCents + 1 };
      expect(problemOf(await api.send('refund', orderId, above))).toMatchObject({
        status: 409,
        code: 'refund_exceeds_captured',
        refundableCents: recorded.capturedCents,
        current: { allowed: expect.arrayContaining(['refund']) },
      });
      const refunded = await sent(200, 'refund', recorded, refund);
      expect(refunded).toMatchObject({ status: recorded.status, refundedCents: TOTAL, owedCents });
    },
  );

  test('payments of other amounts add up: the order is paid when they cover its total', async () => {
    const order = await api.placeOrder();
    const pay = (paymentId: string, amountCents: number) =>
      sent(200, 'pay', order, { paymentId, amountCents });
    const part = await pay('a', TOTAL - 1);
    expect(part).toMatchObject({ status: 'pending', capturedCents: TOTAL - 1, owedCents: 0 });
    expect(part).not.toHaveProperty('paidAt');
    expect(problemOf(await api.send('ship', order.orderId, bodies.ship)).code).toBe(
      'order_not_paid',
    );
    const paid = await pay('b', 101);
    expect(paid).toMatchObject({ status: 'paid', paymentId: 'b', owedCents: 100 });
    const known = { paymentId: 'a', amountCents: TOTAL };
    expect(problemOf(await api.send('pay', order.orderId, known))).toMatchObject({
      status: 409,
      code: 'payment_id_taken',
      current: { version: 3 },
    });
    const cancelled = await api.cancel(order);
    expect(cancelled).toMatchObject({ refundAmountCents: TOTAL + 100, owedCents: TOTAL + 100 });
  });

  test('no more is refunded than was captured, in any number of parts', async () => {
    const { orderId } = await states['owing']![0]();
    const refund = (refundId: string, amountCents: number) =>
      api.send('refund', orderId, { refundId, amountCents });
    const first = orderOf(await refund('a', 2000));
    expect(problemOf(await refund('b', 501))).toMatchObject({ code: 'refund_exceeds_captured' });
    expect(problemOf(await refund('a', 500))).toMatchObject({
      status: 409,
      code: 'refund_id_taken',
    });
    expect(orderOf(await refund('a', 2000))).toEqual(first);
    expect(orderOf(await refund('b', 500))).toMatchObject({ refundedCents: TOTAL, version: 5 });
    expect(problemOf(await refund('c', 1))).toMatchObject({ code: 'refund_exceeds_captured' });
  });

  test('an order has at most a hundred refunds', async () => {
    const { orderId } = await states['owing']![0]();
    const refund = (number: number) =>
      api.send('refund', orderId, { refundId: `part-${number}`, amountCents: 1 });
    for (let number = 1; number <= 100; number += 1) orderOf(await refund(number));
    const before = await rowCounts(database);
    expect(problemOf(await refund(101))).toMatchObject({
      status: 409,
      code: 'too_many_refunds',
      current: { status: 'cancelled', version: 103, allowed: [] },
    });
    expect(orderOf(await refund(100))).toMatchObject({ refundedCents: 100, version: 103 });
    expect(await rowCounts(database)).toEqual(before);
  });

  test('a duplicate changes nothing, and the response shows the order as it is now', async () => {
    const order = await api.placeOrder();
    const { orderId } = order;
    const payment = { paymentId: 'pay-1', amountCents: TOTAL };
    const parcel = { trackingNumber: 'T-1', carrier: 'post' };
    const repeats = async (now: Order, ...commands: ReadonlyArray<[CommandName, unknown]>) => {
      const before = await rowCounts(database);
      for (const [name, body] of commands) {
        // A repeat is no longer asked for its version either.
        const response = await api.send(name, orderId, body, { ifMatch: '"v1"' });
        expect(orderOf(response)).toEqual(now);
        expect(response.headers['etag']).toBe(`"v${now.version}"`);
      }
      expect(await rowCounts(database)).toEqual(before);
    };
    await repeats(await sent(200, 'pay', order, payment), ['pay', payment]);
    await repeats(await sent(200, 'ship', order, parcel), ['pay', payment], ['ship', parcel]);

    const other = await api.pay(await api.placeOrder());
    const cancelled = await api.cancel(other);
    expect(await sent(200, 'cancel', other, { reason: 'another' })).toEqual(cancelled);
    expect(await sent(200, 'pay', other, payment)).toEqual(cancelled);
  });

  describe('with If-Match', () => {
    test.each(['"v1"', '*', '"v7", "v1"', '"v1" , "v2"'])(
      '%s of a new order are taken',
      async (tag) => {
        const { orderId } = await api.placeOrder();
        const response = await api.send('cancel', orderId, bodies.cancel, { ifMatch: tag });
        expect(orderOf(response).version).toBe(2);
      },
    );

    test.each([
      ['"v2"', 'version_mismatch'],
      ['"v0"', 'version_mismatch'],
      ['"1"', 'version_mismatch'],
      ['W/"v1", "v2"', 'version_mismatch'],
      ['"v01"', 'version_mismatch'],
      ['"V1"', 'version_mismatch'],
      ['W/"v1"', 'if_match_weak'],
    ])('%s are not', async (tag, code) => {
      const { orderId } = await api.placeOrder();
      const before = await rowCounts(database);
      const problem = problemOf(await api.send('cancel', orderId, bodies.cancel, { ifMatch: tag }));
      expect(problem).toMatchObject({
        status: 412,
        code,
        current: { status: 'pending', version: 1 },
      });
      expect(withoutFulfilment(problem.current!.allowed)).toEqual(states['pending']![1]);
      expect(await rowCounts(database)).toEqual(before);
    });

    test.each([
      [['"v7"', '"v1"'], 200],
      [['"v7"', '', '"v8"'], 412],
      [['"v1"', '*'], 400],
    ])('sent in several lines is one list: %j', async (lines, status) => {
      const { orderId } = await api.placeOrder();
      const rawBody = JSON.stringify(bodies.cancel);
      const response = await api.request('POST', `/v1/orders/${orderId}/cancel`, {
        rawBody,
        rawHeaders: [
          ...Object.entries({ host: 'a', 'content-type': 'application/json' }).flat(),
          ...lines.flatMap((line) => ['if-match', line]),
          'content-length',
          String(rawBody.length),
        ],
      });
      expect(response.status).toBe(status);
    });

    test('the version is checked before the rules', async () => {
      const { orderId } = await api.placeOrder();
      const response = await api.send('ship', orderId, bodies.ship, { ifMatch: '"v2"' });
      expect(problemOf(response).status).toBe(412);
    });
  });

  describe('at their limits', () => {
    test('the largest possible order is placed, paid, cancelled and refunded', async () => {
      const items = [
        { sku: 's'.repeat(64), quantity: 9007, priceCents: 1_000_000_000_000 },
        { sku: '🎁'.repeat(64), quantity: 1, priceCents: 199_254_740_991 },
        { sku: 's'.repeat(64), quantity: 100_000, priceCents: 0 },
        ...Array.from({ length: 197 }, () => ({ sku: 'x', quantity: 1, priceCents: 0 })),
      ];
      const body = { customerId: 'ü'.repeat(64), currency: 'JPY', items };
      const placed = orderOf(await api.place(body));
      const totalCents = Number.MAX_SAFE_INTEGER;
      expect(placed).toMatchObject({ ...body, totalCents, itemCount: 200 });
      const ids = { paymentId: 'ä'.repeat(100), refundId: '🎁'.repeat(100) };
      await sent(200, 'pay', placed, { paymentId: ids.paymentId, amountCents: totalCents });
      await sent(200, 'cancel', placed, { reason: '🎁'.repeat(500) });
      const refund = { refundId: ids.refundId, amountCents: totalCents };
      const refunded = await sent(200, 'refund', placed, refund);
      expect(refunded).toMatchObject({
        capturedCents: totalCents,
        refundedCents: totalCents,
        refundAmountCents: totalCents,
        paymentId: ids.paymentId,
        reason: '🎁'.repeat(500),
      });
      expect(await api.get(placed.orderId)).toEqual(refunded);

      const above = items.with(1, { ...items[1]!, priceCents: 199_254_740_992 });
      const problem = problemOf(await api.place({ ...body, items: above }));
      expect(problem).toMatchObject({ status: 400, code: 'total_too_large' });
    });

    test('the smallest possible order is placed and paid with nothing, and owes nothing', async () => {
      const items = [{ sku: 's', quantity: 1, priceCents: 0 }];
      const placed = await api.placeOrder({ customerId: 'c', currency: 'XXX', items });
      expect(placed).toMatchObject({ totalCents: 0, itemCount: 1 });
      const paid = await sent(200, 'pay', placed, { paymentId: 'p', amountCents: 0 });
      expect(paid).toMatchObject({ status: 'paid', capturedCents: 0 });
      const cancelled = await sent(200, 'cancel', placed, { reason: 'r' });
      expect(cancelled).toMatchObject({ status: 'cancelled', refundAmountCents: 0 });
    });

    test('text comes back exactly as it was sent', async () => {
      for (const customerId of [
        '"\\/\b\f\n\r\t',
        'null',
        '<b>&amp;',
        'e\u0301é',
        '\u2028\uFEFF',
        ' ',
      ]) {
        const { orderId } = await api.placeOrder({ customerId });
        expect(await api.get(orderId)).toMatchObject({ customerId });
        const { data } = await api.list({ customerId });
        expect(data.map((row) => row.orderId)).toEqual([orderId]);
      }
    });
  });

  async function sent(status: number, name: CommandName, { orderId }: Order, body: unknown) {
    const response: HttpResponse = await api.send(name, orderId, body);
    const order = orderOf(response);
    expect(response.status).toBe(status);
    expect(response.headers['etag']).toBe(`"v${order.version}"`);
    return order;
  }
});

/** Whether an order may be handed to a fulfilment is told elsewhere. */
function withoutFulfilment(allowed: readonly string[]): string[] {
  return allowed.filter((name) => name !== 'fulfil').toSorted();
}
