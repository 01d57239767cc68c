import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { rowOf } from '#test/support/api-shapes.ts';
import type { Order } from '#test/support/api-shapes.ts';
import { checkHistory, historyViolations } from '#test/support/checker.ts';
import { createTestDatabase } from '#test/support/database.ts';
import type { TestDatabase } from '#test/support/database.ts';
import { skipReason } from '#test/support/infra.ts';
import { startLoad } from '#test/support/load.ts';
import type { CommandName, OrderApi } from '#test/support/order-api.ts';
import { createRandom } from '#test/support/random.ts';
import { createRecorder, orderIn } from '#test/support/recorder.ts';
import { startService } from '#test/support/service.ts';
import type { TestService } from '#test/support/service.ts';
import { readStored } from '#test/support/verify-database.ts';

/*
 * G4: what you wrote you can read: after a 2xx every GET shows it, the list too, on every replica.
 */
const ORDERS = 6;
const READERS = 4;

describe.skipIf(skipReason('postgres'))('after a 2xx', () => {
  const recorder = createRecorder();
  let database: TestDatabase;
  let replicas: readonly [TestService, TestService];

  beforeAll(async () => {
    database = await createTestDatabase();
    const options = { databaseUrl: database.url };
    replicas = await Promise.all([startService(options), startService(options)]);
  });
  afterAll(async () => {
    for (const replica of replicas) await replica[Symbol.asyncDispose]();
    expect(await checkHistory(recorder.calls, database.url, { relay: 'off' })).toEqual([]);
    await database[Symbol.asyncDispose]();
  });

  const roads: readonly CommandName[][] = [
    ['pay', 'ship'],
    ['pay', 'cancel', 'refund'],
    ['cancel'],
  ];

  test('order, list and history show it at once, on both replicas, under load', async () => {
    const apis = replicas.map(({ api }) => api);
    using load = startLoad(apis, { clients: 4, random: createRandom(), recorder });
    await load.acknowledged(20);
    const walk = async (index: number) => {
      const writer = apis[index % 2]!;
      let order = orderIn(await recorder.place(writer));
      await Promise.all(apis.map((api) => expectShown(api, order)));
      for (const name of roads[index % roads.length]!) {
        const before = order.status;
        order = orderIn(await recorder.send(writer, name, order));
        await Promise.all(apis.map((api) => expectShown(api, order, before)));
      }
    };
    await Promise.all(Array.from({ length: ORDERS }, (_, index) => walk(index)));
    await load.stop();
  });

  test('nobody reads an older state, whoever asks whom', async () => {
    const random = createRandom();
    const api = () => replicas[random.below(2)]!.api;
    for (const road of roads) {
      const order = orderIn(await recorder.place(api()));
      const done = new AbortController();
      const readers = Array.from({ length: READERS }, async () => {
        while (!done.signal.aborted) await recorder.read(api(), order.orderId);
      });
      for (const name of road) await recorder.send(api(), name, order, { key: randomUUID() });
      done.abort();
      await Promise.all(readers);
    }
    const reads = recorder.calls.filter(({ operation }) => operation === 'read');
    expect(reads.length).toBeGreaterThan(0);
    expect(historyViolations(recorder.calls, await readStored(database.url))).toEqual([]);
  });
});

/** In the order itself, in its history, and in every list whose filter it matches. */
async function expectShown(api: OrderApi, order: Order, statusBefore?: string): Promise<void> {
  const { orderId, customerId, status, version, placedAt } = order;
  expect(await api.get(orderId)).toEqual(order);
  const history = await api.history(orderId);
  expect(history.map(({ version }) => version)).toEqual(
    Array.from({ length: version }, (_, index) => index + 1),
  );
  const placedTo = new Date(Date.parse(placedAt) + 1).toISOString();
  const own = { customerId };
  const range = { placedFrom: placedAt, placedTo };
  for (const query of [
    own,
    { ...own, status },
    { ...own, ...range },
    { ...own, ...range, status },
  ]) {
    expect((await api.list(query)).data).toEqual([rowOf(order)]);
  }
  expect((await api.listAll(range)).map(({ orderId }) => orderId)).toContain(orderId);
  if (statusBefore !== undefined && statusBefore !== status) {
    expect((await api.list({ ...own, status: statusBefore })).data).toEqual([]);
  }
}
