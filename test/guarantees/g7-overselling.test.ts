import { describe, expect, test } from 'vitest';
import { skipReason } from '#test/support/infra.ts';
import { createSagaApi, orderIn } from '#test/support/saga/api.ts';
import { verifySagas } from '#test/support/saga/verify-sagas.ts';
import { createSagaWorld, untilAtRest } from '#test/support/saga/world.ts';
import { startService } from '#test/support/service.ts';

const ONE_BOOK = [{ sku: 'book', quantity: 1, priceCents: 1250 }];
const BOTH = [
  { sku: 'book', quantity: 1, priceCents: 1250 },
  { sku: 'pen', quantity: 1, priceCents: 100 },
];
/** The same, its lines the other way round: whoever locked goods by lines would wait in a circle. */
const BOTH_BACKWARDS = BOTH.toReversed();

describe.skipIf(skipReason('postgres'))('G7 with three replicas and more orders than goods', () => {
  test('sells what there is, and not one more', async () => {
    await using world = await createSagaWorld();
    await world.setStock('book', 50);
    const { database, env } = world;
    const options = { databaseUrl: database.url, env: { ...env, PROVIDER_TIMEOUT_MS: '5000' } };
    const [first, second, third] = [1, 2, 3].map(() => startService(options));
    await using one = await first!;
    await using two = await second!;
    await using three = await third!;
    const apis = [one, two, three].map(({ url }) => createSagaApi(url));
    const placed = Array.from({ length: 200 }, (_, index) =>
      apis[index % 3]!.place(ONE_BOOK, { fulfilment: 'automatic' }),
    );
    const orders = (await Promise.all(placed)).map(orderIn);
    await untilAtRest(world, 200);

    expect(await verifySagas(world, { stock: { book: 50 } })).toEqual([]);
    const after = await Promise.all(
      orders.map(({ orderId }, index) => apis[(index + 1) % 3]!.order(orderId)),
    );
    const of = (status: string) => after.filter((order) => order.status === status);
    expect(of('shipped')).toHaveLength(50);
    expect(of('cancelled')).toHaveLength(150);
    expect(new Set(of('cancelled').map((order) => order['reason']))).toEqual(
      new Set(['reserve refused: out of stock']),
    );
    const { text } = await apis[0]!.request('GET', '/v1/stock/book');
    expect(JSON.parse(text)).toMatchObject({ onHand: 0, reserved: 0, available: 0 });
    for (const api of apis) api.close();
  });

  test('reserves all of an order or nothing of it, in whatever order its lines are', async () => {
    await using world = await createSagaWorld();
    const stock = { book: 20, pen: 30 };
    for (const [sku, onHand] of Object.entries(stock)) await world.setStock(sku, onHand);
    const { database, env } = world;
    const options = { databaseUrl: database.url, env: { ...env, PROVIDER_TIMEOUT_MS: '5000' } };
    const [first, second] = [1, 2].map(() => startService(options));
    await using one = await first!;
    await using two = await second!;
    const apis = [one, two].map(({ url }) => createSagaApi(url));
    const baskets = [BOTH, BOTH_BACKWARDS, BOTH.slice(1)];
    await Promise.all(
      Array.from({ length: 90 }, (_, index) => apis[index % 2]!.placed(baskets[index % 3])),
    );
    await untilAtRest(world, 90);
    expect(await verifySagas(world, { stock })).toEqual([]);
    const [row] = await database.query('select on_hand from stock where sku = $1', ['pen']);
    expect(row).toEqual({ on_hand: 0 }); // 60 orders want one with a book, 30 want one alone
    for (const api of apis) api.close();
  });
});
