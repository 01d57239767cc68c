import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { orderOf, problemOf } from '#test/support/api-shapes.ts';
import { bearer, createKey } from '#test/support/api-keys.ts';
import { createTestDatabase, rowCounts } from '#test/support/database.ts';
import type { TestDatabase } from '#test/support/database.ts';
import type { HttpResponse } from '#test/support/http-client.ts';
import { skipReason } from '#test/support/infra.ts';
import { createOrderApi, placeBody } from '#test/support/order-api.ts';
import type { OrderApi } from '#test/support/order-api.ts';
import { startService } from '#test/support/service.ts';
import type { TestService } from '#test/support/service.ts';
import { verifyDatabase } from '#test/support/verify-database.ts';

/*
 * A principal gives a reference to one order. Whoever sends it again is told which one.
 */
const WRITERS = 16;

describe.skipIf(skipReason('postgres'))('an externalReference', () => {
  let database: TestDatabase;
  let replicas: readonly TestService[];
  let one: readonly OrderApi[];
  let other: OrderApi;

  beforeAll(async () => {
    database = await createTestDatabase();
    const options = { databaseUrl: database.url, env: { AUTH: 'on' } };
    replicas = await Promise.all([startService(options), startService(options)]);
    const key = await createKey(database.url);
    one = replicas.map(({ url }) => createOrderApi(url, bearer(key)));
    other = createOrderApi(replicas[0]!.url, bearer(await createKey(database.url)));
  });
  afterAll(async () => {
    for (const api of [...one, other]) api.close();
    for (const replica of replicas) await replica[Symbol.asyncDispose]();
    expect(await verifyDatabase(database.url, { relay: 'off' })).toEqual([]);
    const orphans = await database.query(
      `select from external_references r full join orders_summary s using (order_id)
       where s.external_reference is distinct from r.reference`,
    );
    expect(orphans).toEqual([]);
    await database[Symbol.asyncDispose]();
  });

  const place = (api: OrderApi, externalReference: string, key?: string, change = {}) =>
    api.place({ ...placeBody, externalReference, ...change }, { ...(key && { key }) });
  const expectTaken = (response: HttpResponse, orderId: string) =>
    expect(problemOf(response)).toMatchObject({ status: 409, code: 'reference_taken', orderId });
  const orders = async () => (await rowCounts(database)).events;

  test('belongs to the first order that it was placed with, for its principal', async () => {
    const reference = `a ${randomUUID()}`;
    const [api, replica] = one;
    const first = orderOf(await place(api!, reference));
    expect(first.externalReference).toBe(reference);
    const before = await rowCounts(database);
    expectTaken(await place(api!, reference), first.orderId);
    expectTaken(await place(replica!, reference, undefined, { customerId: 'c-2' }), first.orderId);
    expect(await rowCounts(database)).toEqual(before);
    const theirs = orderOf(await place(other, reference));
    expect(theirs.orderId).not.toBe(first.orderId);
    expectTaken(await place(other, reference), theirs.orderId);
    orderOf(await place(api!, `${reference} `));
    // It stays taken, whatever becomes of the order.
    await api!.cancel(first);
    expectTaken(await place(api!, reference), first.orderId);
  });

  test('goes to one of those that send it at once, and the others are told which', async () => {
    for (let round = 0; round < 5; round += 1) {
      const reference = `race ${randomUUID()}`;
      const before = await orders();
      const responses = await Promise.all(
        Array.from({ length: WRITERS }, (_, index) => place(one[index % 2]!, reference)),
      );
      const won = responses.filter(({ status }) => status === 201);
      expect(won).toHaveLength(1);
      const { orderId } = orderOf(won[0]!);
      for (const response of responses) {
        if (response !== won[0]) expectTaken(response, orderId);
      }
      expect(await orders()).toBe(before + 1);
    }
  });

  test('with an idempotency key gets the first response again, and no refusal', async () => {
    const reference = `key ${randomUUID()}`;
    const key = randomUUID();
    const responses = await Promise.all(
      Array.from({ length: WRITERS }, (_, index) => place(one[index % 2]!, reference, key)),
    );
    const again = await place(one[0]!, reference, key);
    expect(again.headers['idempotency-replayed']).toBe('true');
    const { orderId } = orderOf(again);
    for (const response of responses) {
      if (response.status !== 201) {
        expect(problemOf(response).code).toBe('idempotency_key_in_use');
      } else expect(orderOf(response).orderId).toBe(orderId);
    }
    // Another key is another request; and it is not used up by the refusal.
    const otherKey = randomUUID();
    expectTaken(await place(one[1]!, reference, otherKey), orderId);
    expectTaken(await place(one[0]!, reference, otherKey), orderId);
    orderOf(await place(one[0]!, `${reference} 2`, otherKey));
  });

  test('is not used up by an order that was refused', async () => {
    const reference = `refused ${randomUUID()}`;
    const refused = await place(one[0]!, reference, undefined, { discountCents: 9_999 });
    expect(problemOf(refused).code).toBe('discount_exceeds_total');
    orderOf(await place(one[0]!, reference));
  });
});
