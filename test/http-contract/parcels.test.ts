import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { orderOf, problemOf } from '#test/support/api-shapes.ts';
import type { Order } from '#test/support/api-shapes.ts';
import { createTestDatabase, rowCounts } from '#test/support/database.ts';
import type { TestDatabase } from '#test/support/database.ts';
import { skipReason } from '#test/support/infra.ts';
import type { CommandName, OrderApi } from '#test/support/order-api.ts';
import { startService } from '#test/support/service.ts';
import type { TestService } from '#test/support/service.ts';
import { verifyDatabase } from '#test/support/verify-database.ts';

/*
 * Parcels with a part of the order, their delivery, and what comes back.
 */
const ITEMS = [
  { sku: 'book', quantity: 2, priceCents: 1000 },
  { sku: 'pen', quantity: 5, priceCents: 100 },
];

describe.skipIf(skipReason('postgres'))('parcels and returns of an order', () => {
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

  const placed = () => api.placeOrder({ items: ITEMS });
  const paid = async () => api.pay(await placed());
  const send = async (name: CommandName, { orderId }: Order, body: unknown) => {
    const response = await api.send(name, orderId, body);
    expect(response.status, response.text).toBe(200);
    const order = orderOf(response);
    expect(response.headers['etag']).toBe(`"v${order.version}"`);
    expect(await api.get(orderId)).toEqual(order);
    return order;
  };
  /** The problem of a command that must have changed nothing. */
  const refusal = async (name: CommandName, { orderId }: Order, body: unknown) => {
    const now = await api.get(orderId);
    const before = await rowCounts(database);
    const problem = problemOf(await api.send(name, orderId, body));
    expect(await rowCounts(database)).toEqual(before);
    expect(await api.get(orderId)).toEqual(now);
    return problem;
  };
  const parcel = (trackingNumber: string, ...items: ReadonlyArray<readonly [string, number]>) => ({
    trackingNumber,
    carrier: 'post',
    ...(items.length > 0 && { items: partsOf(items) }),
  });
  const comingBack = (returnId: string, ...items: ReadonlyArray<readonly [string, number]>) => ({
    returnId,
    items: partsOf(items),
    reason: 'torn',
    restock: false,
  });
  const partsOf = (items: ReadonlyArray<readonly [string, number]>) =>
    items.map(([lineId, quantity]) => ({ lineId, quantity }));
  const partly = async () => send('ship', await paid(), parcel('T-1', ['1', 1], ['2', 2]));
  const shipped = async () => send('ship', await paid(), parcel('T-1'));

  test('go from unshipped to returned, step by step', async () => {
    const order = await paid();
    expect(order).toMatchObject({ shipmentStatus: 'unshipped', parcels: [], returns: [] });
    expect(order.items.map(({ lineId }) => lineId)).toEqual(['1', '2']);

    const first = await send('ship', order, parcel('T-1', ['1', 1], ['2', 5]));
    expect(first).toMatchObject({
      status: 'paid',
      shipmentStatus: 'partially_shipped',
      items: [{ shippedQuantity: 1 }, { shippedQuantity: 5 }],
      parcels: [
        {
          trackingNumber: 'T-1',
          carrier: 'post',
          items: partsOf([
            ['1', 1],
            ['2', 5],
          ]),
        },
      ],
    });
    for (const name of ['shippedAt', 'trackingNumber', 'carrier']) {
      expect(first).not.toHaveProperty(name);
    }
    const arrivedFirst = await send('deliver', order, { trackingNumber: 'T-1' });
    expect(arrivedFirst.shipmentStatus).toBe('partially_shipped');
    expect(arrivedFirst.parcels[0]!.deliveredAt).toBeDefined();

    const all = await send('ship', order, { trackingNumber: 'T-2', carrier: 'bike' });
    expect(all).toMatchObject({
      status: 'shipped',
      shipmentStatus: 'shipped',
      trackingNumber: 'T-2',
      carrier: 'bike',
      shippedAt: all.parcels[1]!.shippedAt,
      items: [{ shippedQuantity: 2 }, { shippedQuantity: 5 }],
    });
    expect(all.parcels[1]!.items).toEqual(partsOf([['1', 1]]));

    expect(await send('deliver', order, { trackingNumber: 'T-2' })).toMatchObject({
      status: 'shipped',
      shipmentStatus: 'delivered',
    });
    const back = await send('return', order, comingBack('R-1', ['2', 5], ['1', 1]));
    expect(back).toMatchObject({ shipmentStatus: 'delivered', owedCents: 0 });
    expect(back.returns).toMatchObject([comingBack('R-1', ['2', 5], ['1', 1])]);
    expect(await send('return', order, comingBack('R-2', ['1', 1]))).toMatchObject({
      status: 'shipped',
      shipmentStatus: 'returned',
      items: [{ returnedQuantity: 2 }, { returnedQuantity: 5 }],
    });
    const types = (await api.history(order.orderId)).map(({ type }) => type);
    expect(types.slice(2)).toEqual([
      'ParcelShipped',
      'ParcelDelivered',
      'OrderShipped',
      'ParcelDelivered',
      'ItemsReturned',
      'ItemsReturned',
    ]);
    const row = (await api.listAll({ customerId: 'c-1' })).find(
      ({ orderId }) => orderId === order.orderId,
    );
    expect(row).toMatchObject({ status: 'shipped', shipmentStatus: 'returned' });
  });

  test('that name all that is left ship the order, as those that name nothing', async () => {
    const order = await send('ship', await partly(), parcel('T-2', ['2', 3], ['1', 1]));
    expect(order).toMatchObject({ status: 'shipped', trackingNumber: 'T-2' });
    const whole = await send('ship', await paid(), parcel('T-1', ['1', 2], ['2', 5]));
    const types = (await api.history(whole.orderId)).map(({ type }) => type);
    expect(types).toEqual(['OrderPlaced', 'PaymentCaptured', 'OrderShipped']);
  });

  test('are the same if they are reported again, and change nothing', async () => {
    const part = parcel('T-1', ['1', 1], ['2', 2]);
    const order = await partly();
    const again = async (name: CommandName, body: unknown) => {
      const now = await api.get(order.orderId);
      const before = await rowCounts(database);
      expect(await send(name, order, body)).toEqual(now);
      expect(await rowCounts(database)).toEqual(before);
    };
    await again('ship', part);
    await send('deliver', order, { trackingNumber: 'T-1' });
    await again('deliver', { trackingNumber: 'T-1' });
    const back = comingBack('R-1', ['2', 1]);
    await send('return', order, back);
    await again('return', back);
    await send('ship', order, parcel('T-2'));
    for (const [name, body] of [
      ['ship', part],
      ['ship', parcel('T-2')],
      ['deliver', { trackingNumber: 'T-1' }],
      ['return', back],
    ] as const) {
      await again(name, body);
    }
  });

  test('with another content under a known number are refused, not taken for the same', async () => {
    const order = await partly();
    const taken = { status: 409, code: 'tracking_number_taken', current: { status: 'paid' } };
    expect(await refusal('ship', order, parcel('T-1', ['1', 1]))).toMatchObject(taken);
    // All that is left is not what the parcel holds.
    expect(await refusal('ship', order, parcel('T-1'))).toMatchObject(taken);
    await send('return', order, comingBack('R-1', ['1', 1]));
    for (const other of [{ restock: true }, { reason: 'x' }, { items: partsOf([['2', 1]]) }]) {
      const body = { ...comingBack('R-1', ['1', 1]), ...other };
      expect(await refusal('return', order, body)).toMatchObject({
        status: 409,
        code: 'return_id_taken',
      });
    }
  });

  describe('beyond what there is', () => {
    type Parts = ReadonlyArray<readonly [string, number]>;
    /** What is said to be left of each line of the order. */
    type Left = readonly [number, number];
    const lines = (left: Left) =>
      left.map((count, index) => ({ lineId: `${index + 1}`, left: count }));

    test.each<[string, () => Promise<Order>, Parts, Left]>([
      ['more than was ordered', paid, [['1', 3]], [2, 5]],
      [
        'more than is left',
        partly,
        [
          ['1', 1],
          ['2', 4],
        ],
        [1, 3],
      ],
      [
        'too much of every line',
        partly,
        [
          ['2', 4],
          ['1', 2],
        ],
        [1, 3],
      ],
    ])('a parcel with %s is refused, line by line', async (_, reach, items, left) => {
      const order = await reach();
      expect(await refusal('ship', order, parcel('T-9', ...items))).toMatchObject({
        status: 409,
        code: 'shipment_exceeds_ordered',
        lines: lines(left),
        current: { status: 'paid', version: order.version },
      });
    });

    test.each<[string, () => Promise<Order>, Parts, Left]>([
      ['of what has not left', paid, [['1', 1]], [0, 0]],
      [
        'of more than has left',
        partly,
        [
          ['1', 1],
          ['2', 3],
        ],
        [1, 2],
      ],
      ['of more than was ordered', shipped, [['2', 6]], [2, 5]],
    ])('a return %s is refused, line by line', async (_, reach, items, left) => {
      const order = await reach();
      expect(await refusal('return', order, comingBack('R-9', ...items))).toMatchObject({
        status: 409,
        code: 'return_exceeds_shipped',
        lines: lines(left),
        current: { version: order.version },
      });
    });

    test('a line that the order does not have is refused', async () => {
      const problem = { status: 422, code: 'line_not_found' };
      expect(await refusal('ship', await paid(), parcel('T-9', ['3', 1]))).toMatchObject(problem);
      expect(
        await refusal('return', await shipped(), comingBack('R-9', ['1', 1], ['book', 1])),
      ).toMatchObject(problem);
    });

    test('a parcel that the order does not have is not found', async () => {
      for (const order of [await placed(), await paid(), await partly()]) {
        expect(await refusal('deliver', order, { trackingNumber: 'T-9' })).toMatchObject({
          status: 404,
          code: 'parcel_not_found',
        });
      }
    });
  });

  test.each<[string, () => Promise<Order>, CommandName, unknown, string]>([
    ['pending', placed, 'ship', parcel('T-9', ['1', 1]), 'order_not_paid'],
    ['shipped', shipped, 'ship', parcel('T-9', ['1', 1]), 'order_already_shipped'],
    ['partly shipped', partly, 'cancel', { reason: 'late' }, 'order_partly_shipped'],
    [
      'cancelled',
      async () => api.cancel(await paid()),
      'ship',
      parcel('T-9', ['1', 1]),
      'order_cancelled',
    ],
  ])('of a %s order: %s... is refused', async (_, reach, name, body, code) => {
    const order = await reach();
    expect(await refusal(name, order, body)).toMatchObject({ status: 409, code });
  });

  describe('with a body that is not as documented', () => {
    const many = Array.from({ length: 201 }, (_, index) => ({ lineId: `${index}`, quantity: 1 }));
    test.each<[CommandName, unknown, string]>([
      ['ship', { ...parcel('T-1'), items: [] }, '/items'],
      ['ship', { ...parcel('T-1'), items: many }, '/items'],
      ['ship', { ...parcel('T-1'), items: null }, '/items'],
      ['ship', parcel('T-1', ['1', 0]), '/items/0/quantity'],
      ['ship', parcel('T-1', ['1', 1], ['2', -1]), '/items/1/quantity'],
      ['ship', parcel('T-1', ['1', 1.5]), '/items/0/quantity'],
      ['ship', parcel('T-1', ['', 1]), '/items/0/lineId'],
      ['ship', { ...parcel('T-1'), items: [{ lineId: '1' }] }, '/items/0/quantity'],
      [
        'ship',
        { ...parcel('T-1'), items: [{ lineId: '1', quantity: 1, sku: 'book' }] },
        '/items/0/sku',
      ],
      ['ship', parcel('T-1', ['1', 1], ['2', 1], ['1', 1]), '/items'],
      ['deliver', {}, '/trackingNumber'],
      ['deliver', { trackingNumber: '' }, '/trackingNumber'],
      ['deliver', { trackingNumber: 't'.repeat(101) }, '/trackingNumber'],
      ['return', { ...comingBack('R-1'), items: [] }, '/items'],
      ['return', { ...comingBack('R-1', ['1', 1]), returnId: 'r'.repeat(101) }, '/returnId'],
      ['return', { ...comingBack('R-1', ['1', 1]), reason: '' }, '/reason'],
      ['return', { ...comingBack('R-1', ['1', 1]), reason: 'r'.repeat(501) }, '/reason'],
      ['return', { ...comingBack('R-1', ['1', 1]), restock: 'yes' }, '/restock'],
      ['return', comingBack('R-1', ['1', 1], ['1', 1]), '/items'],
    ])('%s %j points at %s', async (name, body, pointer) => {
      const problem = problemOf(await api.send(name, (await placed()).orderId, body));
      expect(problem).toMatchObject({ status: 400, code: 'invalid_request' });
      expect(problem.errors!.map((error) => error.pointer)).toContain(pointer);
    });
  });

  describe('that are restocked', () => {
    const onHand = async (sku: string) => {
      const response = await api.request('GET', `/v1/stock/${encodeURIComponent(sku)}`);
      return response.status === 404 ? undefined : JSON.parse(response.text).onHand;
    };
    const sent = async (...goods: ReadonlyArray<readonly [sku: string, quantity: number]>) => {
      const items = goods.map(([sku, quantity]) => ({ sku, quantity, priceCents: 100 }));
      return send('ship', await api.pay(await api.placeOrder({ items })), parcel('T-1'));
    };

    test('come back to their skus, and only if it is asked for', async () => {
      const order = await sent(['cup', 3], ['jug', 2], ['cup', 4]);
      await api.request('PUT', '/v1/stock/cup', { body: { onHand: 10 } });
      await send('return', order, comingBack('R-1', ['1', 1]));
      expect(await onHand('cup')).toBe(10);
      const restocked = { ...comingBack('R-2', ['1', 2], ['3', 3], ['2', 1]), restock: true };
      await send('return', order, restocked);
      expect(await onHand('cup')).toBe(15);
      expect(await onHand('jug')).toBe(1);
      await send('return', order, restocked);
      expect(await refusal('return', order, { ...restocked, returnId: 'R-3' })).toMatchObject({
        code: 'return_exceeds_shipped',
        lines: expect.arrayContaining([{ lineId: '1', left: 0 }]),
      });
      expect([await onHand('cup'), await onHand('jug')]).toEqual([15, 1]);
    });

    test('come back exactly, however many orders return at once', async () => {
      await using replica = await startService({ databaseUrl: database.url });
      const apis = [api, replica.api];
      const orders = await Promise.all(
        Array.from({ length: 20 }, () => sent(['new sku', 3], ['plate', 2])),
      );
      await Promise.all(
        orders.flatMap((order, index) =>
          ['R-1', 'R-1', 'R-2'].map((returnId, turn) =>
            apis[(index + turn) % 2]!.send('return', order.orderId, {
              ...comingBack(returnId, ['1', 1], ['2', 1]),
              restock: true,
            }),
          ),
        ),
      );
      const returned = await Promise.all(orders.map(({ orderId }) => api.get(orderId)));
      const pieces = (line: number) =>
        returned.reduce((sum, { items }) => sum + items[line]!.returnedQuantity, 0);
      expect(await onHand('new sku')).toBe(pieces(0));
      expect(await onHand('plate')).toBe(pieces(1));
      expect(pieces(0)).toBeGreaterThan(20);
    });
  });
});
