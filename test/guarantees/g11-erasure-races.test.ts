import { randomUUID } from 'node:crypto';
import { describe, expect, test } from 'vitest';
import { z } from 'zod';
import { createTestDatabase } from '#test/support/database.ts';
import type { Query } from '#test/support/database.ts';
import type { HttpClient, HttpResponse } from '#test/support/http-client.ts';
import { skipReason } from '#test/support/infra.ts';
import { personal, verifyPersonalData } from '#test/support/personal-data.ts';
import { eventually } from '#test/support/poll.ts';
import { orderIn } from '#test/support/saga/api.ts';
import { createSagaWorld, startReplica, untilAtRest } from '#test/support/saga/world.ts';
import { startService } from '#test/support/service.ts';

/*
 * G11: whatever races an erasure, an order has the personal data that its history says it has: none after
 * PersonalDataErased, and that event only where the data is gone.
 */
const items = [{ sku: 'book', quantity: 1, priceCents: 1250 }];
const { shippingAddress } = personal;
const page = z.looseObject({ left: z.int(), nextCursor: z.string().nullable() });

/** On a busy machine a command may be turned away, and repeats itself. */
async function place(api: HttpClient, customerId: string): Promise<HttpResponse> {
  const body = { customerId, currency: 'EUR', items, ...personal };
  const headers = { 'idempotency-key': randomUUID() };
  for (;;) {
    const response = await api.request('POST', '/v1/orders', { body, headers });
    if (response.status !== 503) return response;
  }
}
const eraseOrder = (api: HttpClient, orderId: string) =>
  api.request('DELETE', `/v1/orders/${orderId}/personal-data`);
/** Goes over all orders of the customer once. Returns how many are left. */
async function eraseCustomer(api: HttpClient, customerId: string): Promise<number> {
  for (let cursor = '', left = 0; ;) {
    const path = `/v1/customers/${customerId}/personal-data${cursor}`;
    const { status, text } = await api.request('DELETE', path);
    if (status === 503) continue;
    if (status !== 200) throw new Error(`got ${status}: ${text}`);
    const read = page.parse(JSON.parse(text));
    left = read.left;
    if (read.nextCursor === null) return left;
    cursor = `?cursor=${read.nextCursor}`;
  }
}
/** Orders that were erased more than once, or while a fulfilment ran. */
const wronglyErased = (query: Query) =>
  query(`
    with told as (
      select stream_id, count(*) filter (where type = 'PersonalDataErased') as times,
        min(version) filter (where type = 'PersonalDataErased') as erased,
        min(version) filter (where type = 'FulfilmentStarted') as started,
        min(version) filter (where type in ('OrderShipped', 'OrderCancelled')) as ended
      from events group by stream_id
    )
    select * from told where times > 1 or erased between started and coalesce(ended, 1000)`);
const count = async (query: Query, type: string) => {
  const [row] = await query<{ count: number }>('select count(*) from events where type = $1', [
    type,
  ]);
  return row!.count;
};
const countErased = (query: Query) => count(query, 'PersonalDataErased');

describe.skipIf(skipReason('postgres'))('an erasure', () => {
  test('that races everything else leaves no order in between', async () => {
    await using world = await createSagaWorld();
    await world.setStock('book', 1_000);
    await using one = await startReplica(world);
    await using two = await startReplica(world);
    const replicas = [one.api, two.api];
    const placed = await Promise.all(
      Array.from({ length: 120 }, () => place(one.api, 'c-1').then((it) => orderIn(it).orderId)),
    );
    const race = async (orderId: string, number: number): Promise<HttpResponse[]> => {
      const send = (name: string, body?: unknown, method = 'POST') =>
        replicas[(number + name.length) % 2]!.request(method, `/v1/orders/${orderId}/${name}`, {
          ...(body !== undefined && { body }),
          headers: { 'idempotency-key': randomUUID() },
        });
      // Of every third order a fulfilment is running.
      const started = number % 3 === 0 ? [await send('fulfil')] : [];
      const commands = [
        () => send('shipping-address', { ...shippingAddress, city: 'Bonn' }, 'PUT'),
        () => send('shipping-address', shippingAddress, 'PUT'),
        () => send('pay', { paymentId: 'p', amountCents: 1250 }),
        () => send('ship', { trackingNumber: 't', carrier: 'c' }),
        () => send('cancel', { reason: 'r' }),
        () => eraseOrder(one.api, orderId),
        () => eraseOrder(two.api, orderId),
      ];
      const from = number % commands.length;
      const turned = [...commands.slice(from), ...commands.slice(0, from)];
      return [...started, ...(await Promise.all(turned.map((command) => command())))];
    };
    const raced = await Promise.all([
      ...placed.map(race),
      ...replicas.map((api) =>
        api.request('DELETE', '/v1/customers/c-1/personal-data').then((response) => [response]),
      ),
    ]);
    const responses = raced.flat();
    expect(responses.some(({ text }) => text.includes('"fulfilment_running"'))).toBe(true);
    expect(responses.filter(({ status }) => status === 500)).toEqual([]);
    await untilAtRest(world, 0);
    const { query } = world.database;
    expect(await verifyPersonalData(query)).toEqual([]);
    expect(await wronglyErased(query)).toEqual([]);
    const erased = await countErased(query);
    expect(erased).toBeGreaterThan(0);
    await Promise.all(replicas.map((api) => eraseCustomer(api, 'c-1')));
    expect(await eraseCustomer(one.api, 'c-1')).toBe(0);
    expect(await wronglyErased(query)).toEqual([]);
    expect(await verifyPersonalData(query)).toEqual([]);
  });

  test('of a customer goes on until nothing is left, while orders come in', async () => {
    await using world = await createSagaWorld();
    await using one = await startReplica(world);
    await using two = await startReplica(world);
    const { query } = world.database;
    const shop = async (api: HttpClient) => {
      for (let number = 0; number < 60; number += 1) {
        expect((await place(api, 'c-1')).status).toBe(201);
      }
    };
    const erase = async (api: HttpClient) => {
      while ((await eraseCustomer(api, 'c-1')) > 0 || (await count(query, 'OrderPlaced')) < 240) {
        expect(await verifyPersonalData(query)).toEqual([]);
      }
    };
    await Promise.all([one.api, two.api].flatMap((api) => [shop(api), shop(api), erase(api)]));
    expect(await countErased(query)).toBe(240);
    expect(await query('select from order_personal_data')).toEqual([]);
    expect(await wronglyErased(query)).toEqual([]);
  });

  test('that kill -9 breaks off is complete for each order that it came to', async () => {
    await using database = await createTestDatabase();
    await using service = await startService({ databaseUrl: database.url });
    const total = 300;
    for (let number = 0; number < total; number += 50) {
      await Promise.all(Array.from({ length: 50 }, () => place(service.api, 'c-1')));
    }
    for (const wanted of [1, 90, 180]) {
      const erasing = eraseCustomer(service.api, 'c-1').catch(() => 'killed');
      await eventually(async () => (await countErased(database.query)) >= wanted, { everyMs: 1 });
      await service.kill();
      await erasing;
      expect(await verifyPersonalData(database.query)).toEqual([]);
      await service.restart();
    }
    expect(await eraseCustomer(service.api, 'c-1')).toBe(0);
    expect(await verifyPersonalData(database.query)).toEqual([]);
    expect(await countErased(database.query)).toBe(total);
    expect(await wronglyErased(database.query)).toEqual([]);
  });
});
