import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { orderOf, problemOf } from '#test/support/api-shapes.ts';
import type { ApiProblem, Order } from '#test/support/api-shapes.ts';
import { createTestDatabase } from '#test/support/database.ts';
import type { TestDatabase } from '#test/support/database.ts';
import type { HttpResponse } from '#test/support/http-client.ts';
import { skipReason } from '#test/support/infra.ts';
import type { CommandName } from '#test/support/order-api.ts';
import { createRandom } from '#test/support/random.ts';
import { startService } from '#test/support/service.ts';
import type { TestService } from '#test/support/service.ts';
import { verifyDatabase } from '#test/support/verify-database.ts';

/*
 * G3 for what can be used up: pieces of a line, what was shipped of it, money. However many ask at once, through two
 * replicas, no more is given out than there is, and each loser is told what is left.
 */
const WRITERS = 12;
const ROUNDS = 6;

/** A command, and the body of the writer with this number. */
type Writer = readonly [CommandName, (writer: string) => unknown];

describe.skipIf(skipReason('postgres'))('12 writers on one order, through two replicas', () => {
  const random = createRandom();
  let database: TestDatabase;
  let replicas: readonly TestService[];

  beforeAll(async () => {
    database = await createTestDatabase();
    const options = { databaseUrl: database.url };
    replicas = await Promise.all([startService(options), startService(options)]);
  });
  afterAll(async () => {
    for (const replica of replicas) await replica[Symbol.asyncDispose]();
    // Among others: no line is shipped or returned too often, and no money comes back twice.
    expect(await verifyDatabase(database.url, { relay: 'off' })).toEqual([]);
    await database[Symbol.asyncDispose]();
  });

  const api = () => replicas[random.below(replicas.length)]!.api;
  const paid = async () => api().pay(await api().placeOrder());
  const shipped = async () => api().ship(await paid());

  const parcel: Writer[1] = (id) => ({ trackingNumber: id, carrier: 'post' });
  const ship = (lineId: string, quantity: number): Writer => [
    'ship',
    (id) => ({ ...Object(parcel(id)), items: [{ lineId, quantity }] }),
  ];
  const giveBack = (lineId: string, quantity: number): Writer => [
    'return',
    (returnId) => ({ returnId, items: [{ lineId, quantity }], reason: 'torn', restock: true }),
  ];
  const refund = (amountCents: number): Writer => [
    'refund',
    (refundId) => ({ refundId, amountCents }),
  ];
  const cancel: Writer = ['cancel', (reason) => ({ reason })];

  /** Sends the commands all at once, each with an id of its own. */
  async function race({ orderId }: Order, ...writers: readonly Writer[]) {
    const responses = await Promise.all(
      Array.from({ length: WRITERS }, async (_, index) => {
        const [name, body] = writers[index % writers.length]!;
        const response = await api().send(name, orderId, body(randomUUID()));
        return { name, response };
      }),
    );
    const isWon = ({ response }: Readonly<{ response: HttpResponse }>) => response.status < 300;
    const history = await api().history(orderId);
    return {
      won: responses
        .filter(isWon)
        .map(({ name, response }) => ({ name, order: orderOf(response) })),
      lost: responses
        .filter((each) => !isWon(each))
        .map(({ name, response }) => ({ name, problem: problemOf(response) }))
        .filter(({ problem }) => problem.code !== 'version_conflict'),
      types: history.map(({ type }) => type),
      now: await api().get(orderId),
    };
  }

  const codes = (lost: ReadonlyArray<Readonly<{ problem: ApiProblem }>>) =>
    new Set(lost.map(({ problem }) => `${problem.status} ${problem.code}`));

  test('that ship the last piece of a line: one parcel, and the others hear that none is left', async () => {
    for (let round = 0; round < ROUNDS; round += 1) {
      const order = await paid();
      const [line] = order.items;
      await api().send('ship', order.orderId, {
        ...Object(parcel('first')),
        items: [{ lineId: line!.lineId, quantity: 1 }],
      });
      const { won, lost, types, now } = await race(order, ship(line!.lineId, 1));
      expect(won).toHaveLength(1);
      expect(types.filter((type) => type === 'ParcelShipped')).toHaveLength(2);
      expect(now.items[0]).toMatchObject({ quantity: 2, shippedQuantity: 2 });
      expect(now.shipmentStatus).toBe('partially_shipped');
      for (const { problem } of lost) {
        expect(problem).toMatchObject({
          status: 409,
          code: 'shipment_exceeds_ordered',
          lines: expect.arrayContaining([{ lineId: line!.lineId, left: 0 }]),
        });
      }
    }
  });

  test('that each ship one of five pieces: five parcels, the last of which ships the order', async () => {
    for (let round = 0; round < ROUNDS; round += 1) {
      const order = await api().pay(
        await api().placeOrder({ items: [{ sku: 'pen', quantity: 5, priceCents: 500 }] }),
      );
      const { won, lost, types, now } = await race(order, ship(order.items[0]!.lineId, 1));
      const parcels = types.slice(2);
      // Whoever lost too many races did not ship, so there may be fewer.
      expect(won).toHaveLength(parcels.length);
      expect(now.items[0]!.shippedQuantity).toBe(parcels.length);
      const isAll = parcels.length === 5;
      expect(parcels.slice(0, 4)).toEqual(parcels.slice(0, 4).map(() => 'ParcelShipped'));
      expect(now.status).toBe(isAll ? 'shipped' : 'paid');
      expect(parcels.slice(4)).toEqual(isAll ? ['OrderShipped'] : []);
      if (isAll) expect([...codes(lost)]).toEqual(['409 order_already_shipped']);
    }
  });

  test('that return the same pieces: they come back once', async () => {
    for (let round = 0; round < ROUNDS; round += 1) {
      const order = await shipped();
      const { lineId } = order.items[1]!;
      const { won, lost, types, now } = await race(order, giveBack(lineId, 3));
      expect(won).toHaveLength(1);
      expect(types.slice(3)).toEqual(['ItemsReturned']);
      expect(now.items[1]).toMatchObject({ quantity: 5, returnedQuantity: 3 });
      for (const { problem } of lost) {
        expect(problem).toMatchObject({
          status: 409,
          code: 'return_exceeds_shipped',
          lines: expect.arrayContaining([{ lineId, left: 2 }]),
        });
      }
    }
  });

  test('that ship a part and cancel: a parcel leaves or the order ends, never both', async () => {
    const ends = new Set<string>();
    for (let round = 0; round < ROUNDS || (ends.size < 2 && round < ROUNDS * 5); round += 1) {
      const order = await paid();
      const { lost, types, now } = await race(order, ship(order.items[1]!.lineId, 5), cancel);
      const [end, ...more] = types.slice(2);
      expect(more).toEqual([]);
      ends.add(end!);
      const isCancelled = end === 'OrderCancelled';
      expect(now.status).toBe(isCancelled ? 'cancelled' : 'paid');
      expect(now.parcels).toHaveLength(isCancelled ? 0 : 1);
      const expected = isCancelled
        ? { ship: '409 order_cancelled' }
        : { ship: '409 shipment_exceeds_ordered', cancel: '409 order_partly_shipped' };
      for (const { name, problem } of lost) {
        expect(`${problem.status} ${problem.code}`).toBe(
          new Map(Object.entries(expected)).get(name),
        );
      }
    }
    expect([...ends].toSorted()).toEqual(['OrderCancelled', 'ParcelShipped']);
  });

  test('that refund the same money: it goes back once', async () => {
    for (let round = 0; round < ROUNDS; round += 1) {
      const order = await (round % 2 === 0 ? shipped() : paid());
      const { won, lost, types, now } = await race(order, refund(2000));
      expect(won).toHaveLength(1);
      expect(types.filter((type) => type === 'PaymentRefunded')).toHaveLength(1);
      expect(now).toMatchObject({
        refundedCents: 2000,
        owedCents: 0,
        paymentStatus: 'partially_refunded',
      });
      for (const { problem } of lost) {
        expect(problem).toMatchObject({
          status: 409,
          code: 'refund_exceeds_captured',
          refundableCents: 500,
        });
      }
    }
  });

  test('that return and refund at once: both count, each within its own limit', async () => {
    for (let round = 0; round < ROUNDS; round += 1) {
      const order = await shipped();
      const { now } = await race(order, giveBack(order.items[0]!.lineId, 1), refund(1250));
      expect(now.items[0]!.returnedQuantity).toBeLessThanOrEqual(2);
      expect(now.refundedCents).toBeLessThanOrEqual(2500);
      expect(now.items[0]!.returnedQuantity + now.refundedCents).toBeGreaterThan(0);
      expect(now.returns.length).toBe(now.items[0]!.returnedQuantity);
    }
  });
});
