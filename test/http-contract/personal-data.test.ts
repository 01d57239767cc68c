import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { z } from 'zod';
import { bearer, createKey } from '#test/support/api-keys.ts';
import { createHttpClient } from '#test/support/http-client.ts';
import type { HttpClient, HttpResponse } from '#test/support/http-client.ts';
import { skipReason } from '#test/support/infra.ts';
import { personal, verifyPersonalData } from '#test/support/personal-data.ts';
import { eventually } from '#test/support/poll.ts';
import { refusalOf } from '#test/support/saga/api.ts';
import { createSagaWorld, startReplica } from '#test/support/saga/world.ts';
import type { Replica, SagaWorld } from '#test/support/saga/world.ts';

/** A call that is held stays so until it is released. */
const HOLDING = { PROVIDER_TIMEOUT_MS: '120000' };
const MISSING = '01999e5c-7c1f-7d3a-9f52-3b6f0c9d2a11';
const PAYMENT = { paymentId: 'p', amountCents: 2500 };
const PARCEL = { trackingNumber: 't', carrier: 'c' };
const { shippingAddress, contact } = personal;
const shownShape = z.looseObject({
  orderId: z.string(),
  version: z.int(),
  shippingAddress: z.looseObject({ city: z.string() }).optional(),
});
const erasedShape = z.strictObject({
  erased: z.int(),
  refused: z.array(z.strictObject({ orderId: z.string(), code: z.string() })),
  left: z.int(),
  nextCursor: z.string().nullable(),
});

describe.skipIf(skipReason('postgres'))('personal data over HTTP', () => {
  let world: SagaWorld;
  let replica: Replica;
  /** A service with all scopes, one that may only read orders, and two customers. */
  let all: HttpClient;
  let plain: HttpClient;
  let ann: HttpClient;
  let bob: HttpClient;

  beforeAll(async () => {
    world = await createSagaWorld();
    await world.setStock('book', 1_000);
    replica = await startReplica(world, { env: { AUTH: 'on', ...HOLDING } });
    const client = async (options: Parameters<typeof createKey>[1]) =>
      createHttpClient(replica.url, bearer(await createKey(world.database.url, options)));
    all = await client({});
    plain = await client({ scopes: ['orders:read', 'orders:write'] });
    ann = await client({ customer: 'ann' });
    bob = await client({ customer: 'bob' });
  });
  afterAll(async () => {
    for (const api of [all, plain, ann, bob]) api.close();
    expect(await verifyPersonalData(world.database.query)).toEqual([]);
    await replica[Symbol.asyncDispose]();
    await world[Symbol.asyncDispose]();
  });

  const place = async (more: object = personal, customerId = 'ann') => {
    const items = [{ sku: 'book', quantity: 2, priceCents: 1250 }];
    const body = { customerId, currency: 'EUR', items, ...more };
    return shownIn(await all.request('POST', '/v1/orders', { body })).orderId;
  };
  const get = (api: HttpClient, orderId: string, rest = '', headers = {}) =>
    api.request('GET', `/v1/orders/${orderId}${rest}`, { headers });
  const command = (orderId: string, name: string, body?: unknown) =>
    all.request('POST', `/v1/orders/${orderId}/${name}`, body === undefined ? {} : { body });
  const put = (orderId: string, city: string, headers = {}, api = all) =>
    api.request('PUT', `/v1/orders/${orderId}/shipping-address`, {
      body: { ...shippingAddress, city },
      headers,
    });
  const erase = (orderId: string, headers = {}) =>
    all.request('DELETE', `/v1/orders/${orderId}/personal-data`, { headers });
  const eventsOf = async (orderId: string) => {
    const rows = await world.database.query<{ type: string }>(
      'select type from events where stream_id = $1 order by version',
      [orderId],
    );
    return rows.map(({ type }) => type);
  };
  /** Starts the fulfilment of an order and holds it at this call. */
  const held = async (operation: 'capture' | 'ship') => {
    const orderId = await place();
    await world.simulator.addFault({ operation, orderId, fault: 'hold', times: 1 });
    expect((await command(orderId, 'fulfil')).status).toBe(202);
    await world.simulator.nextCall({ operation, orderId });
    return {
      orderId,
      release: async () => {
        await world.simulator.release({ orderId });
        await eventually(async () => (await get(all, orderId)).text.includes('"completed"'));
      },
    };
  };

  describe('reading an order', () => {
    test('shows it to services with the scope and to the customer whose order it is', async () => {
      const orderId = await place();
      for (const api of [all, ann]) {
        const { text, headers } = await get(api, orderId);
        expect(JSON.parse(text)).toMatchObject({ shippingAddress, contact });
        expect(text).not.toContain(personal.payment.method);
        expect(headers).toMatchObject({
          etag: '"v1-personal"',
          'cache-control': 'no-store',
          vary: 'accept, authorization',
        });
      }
      const { text, headers } = await get(plain, orderId);
      expect(text).not.toMatch(/shippingAddress|contact|Ada/);
      expect(headers).toMatchObject({
        etag: '"v1"',
        'cache-control': 'private, no-cache',
        vary: 'accept, authorization',
      });
      expect(refusalOf(await get(bob, orderId))).toBe('404 order_not_found');
    });

    test('is the same for the order object of UCP', async () => {
      const orderId = await place();
      const accept = { accept: 'application/ucp+json' };
      const shown = await get(all, orderId, '', accept);
      expect(shown.text).toContain('Sample Street');
      expect(shown.text).not.toContain(personal.payment.method);
      expect(shown.headers).toMatchObject({
        etag: '"v1-personal-ucp"',
        'cache-control': 'no-store',
      });
      const hidden = await get(plain, orderId, '', accept);
      expect(hidden.text).not.toContain('Sample Street');
      expect(hidden.headers['etag']).toBe('"v1-ucp"');
      expect((await get(all, orderId, '?version=1', accept)).text).not.toContain('Sample Street');
    });

    test('shows only what there is', async () => {
      const some = await place({ contact: { phone: '110' } });
      const { text } = await get(all, some);
      expect(JSON.parse(text)).toMatchObject({ contact: { phone: '110' } });
      expect(text).not.toContain('shippingAddress');
      for (const more of [{}, { payment: personal.payment }]) {
        expect((await get(all, await place(more))).headers['etag']).toBe('"v1"');
      }
    });

    test('shows it as it is now only', async () => {
      const orderId = await place();
      for (const rest of ['?version=1', '?at=2099-01-01T00:00:00Z', '/events']) {
        const { status, text } = await get(all, orderId, rest);
        expect(status).toBe(200);
        expect(text).not.toContain('Ada');
      }
      expect((await all.request('GET', '/v1/orders')).text).not.toContain('Ada');
    });

    test('gets 304 only for what the caller may still see', async () => {
      const orderId = await place();
      const tagged = async (api: HttpClient, tag: string) =>
        (await get(api, orderId, '', { 'if-none-match': tag })).status;
      expect(await tagged(all, '"v1-personal"')).toBe(304);
      expect(await tagged(all, '"v1"')).toBe(200);
      expect(await tagged(plain, '"v1-personal"')).toBe(200);
      expect(await tagged(plain, '"v1"')).toBe(304);
    });

    test('has a tag that If-Match accepts, also compressed and while the fulfilment is stuck', async () => {
      for (const tag of [
        '"v1-personal"',
        '"v1-personal-gzip"',
        '"v1-stuck-personal-gzip"',
        '"v1"',
      ]) {
        const orderId = await place();
        expect((await put(orderId, 'Bonn', { 'if-match': tag })).status).toBe(200);
        expect(refusalOf(await put(orderId, 'Köln', { 'if-match': tag }))).toBe(
          '412 version_mismatch',
        );
      }
    });

    test('shows the address and the order of one moment, while both change', async () => {
      const orderId = await place({
        ...personal,
        shippingAddress: { ...shippingAddress, city: '1' },
      });
      const done = new AbortController();
      const change = async () => {
        for (let version = 2; version <= 60; version += 1) {
          expect((await put(orderId, String(version))).status).toBe(200);
        }
        done.abort();
      };
      const watch = async (api: HttpClient) => {
        while (!done.signal.aborted) {
          const { version, shippingAddress: shown } = shownIn(await get(api, orderId));
          expect(shown?.city).toBe(String(version));
        }
      };
      await Promise.all([change(), ...[all, ann, all, ann].map(watch)]);
    });
  });

  describe('PUT shipping-address', () => {
    test('sets another address, and the first one', async () => {
      for (const given of [personal, { contact }, {}]) {
        const orderId = await place(given);
        const changed = await put(orderId, 'Bonn');
        expect(changed.headers['etag']).toBe('"v2"');
        expect(changed.text).not.toMatch(/Bonn|Ada/);
        expect(JSON.parse((await get(all, orderId)).text)).toMatchObject({
          version: 2,
          shippingAddress: { city: 'Bonn' },
          ...('contact' in given && { contact }),
        });
        const [event] = await world.database.query(
          'select type, data from events where stream_id = $1 and version = 2',
          [orderId],
        );
        expect(event).toEqual({ type: 'ShippingAddressChanged', data: {} });
      }
    });

    test('changes nothing if the order has this address', async () => {
      const orderId = await place();
      for (const headers of [{}, { 'idempotency-key': randomUUID() }, { 'if-match': '"v9"' }]) {
        const same = await put(orderId, shippingAddress.city, headers);
        expect([same.status, same.headers['etag']]).toEqual([200, '"v1"']);
      }
      const both = await Promise.all(Array.from({ length: 10 }, () => put(orderId, 'Bonn')));
      expect(both.map(({ status }) => status)).toEqual(Array(10).fill(200));
      expect(await eventsOf(orderId)).toEqual(['OrderPlaced', 'ShippingAddressChanged']);
    });

    test('takes effect once for each key, and again after another change', async () => {
      const orderId = await place();
      const key = { 'idempotency-key': randomUUID() };
      expect((await put(orderId, 'Bonn', key)).status).toBe(200);
      expect((await put(orderId, 'Köln')).status).toBe(200);
      const replay = await put(orderId, 'Bonn', key);
      expect(replay.headers).toMatchObject({ etag: '"v2"', 'idempotency-replayed': 'true' });
      expect((await put(orderId, 'Bonn')).headers['etag']).toBe('"v4"');
      expect(refusalOf(await put(orderId, 'Ulm', key))).toBe('422 idempotency_key_reused');
    });

    test('is for the customer whose order it is', async () => {
      const orderId = await place();
      expect((await put(orderId, 'Bonn', {}, ann)).status).toBe(200);
      expect(refusalOf(await put(orderId, 'Ulm', {}, bob))).toBe('404 order_not_found');
      expect(refusalOf(await put(MISSING, 'Ulm', {}, bob))).toBe('404 order_not_found');
      expect(await eventsOf(orderId)).toHaveLength(2);
    });

    test('works until the parcel is about to leave', async () => {
      const paid = await place();
      await command(paid, 'pay', PAYMENT);
      expect((await put(paid, 'Bonn')).status).toBe(200);
      await command(paid, 'ship', PARCEL);
      expect(refusalOf(await put(paid, 'Ulm'))).toBe('409 order_already_shipped');
      const captured = await held('capture');
      expect((await put(captured.orderId, 'Bonn')).status).toBe(200);
      await captured.release();
      const requested = await held('ship');
      expect(refusalOf(await put(requested.orderId, 'Ulm'))).toBe('409 shipment_requested');
      await requested.release();
      const cancelled = await place();
      await command(cancelled, 'cancel', { reason: 'r' });
      expect(refusalOf(await put(cancelled, 'Ulm'))).toBe('409 order_cancelled');
      const erased = await place();
      await erase(erased);
      expect(refusalOf(await put(erased, 'Ulm'))).toBe('409 personal_data_erased');
    });
  });

  describe('DELETE personal-data of an order', () => {
    test('erases it once, and leaves the history as it was', async () => {
      const orderId = await place();
      const history = () =>
        world.database.query(
          `select e::text from events e where stream_id = $1 and type <> 'PersonalDataErased'`,
          [orderId],
        );
      const before = await history();
      const first = await erase(orderId);
      expect(first.headers['etag']).toBe('"v2"');
      expect(JSON.parse(first.text)).toHaveProperty('personalDataErasedAt');
      const again = await erase(orderId, { 'idempotency-key': randomUUID() });
      expect([again.status, again.text]).toEqual([200, first.text]);
      for (const api of [all, ann]) {
        const { text, headers } = await get(api, orderId);
        expect(text).toBe(first.text);
        expect(headers['etag']).toBe('"v2"');
      }
      expect(await history()).toEqual(before);
      expect(await eventsOf(orderId)).toEqual(['OrderPlaced', 'PersonalDataErased']);
    });

    test('changes nothing if there is none', async () => {
      const orderId = await place({});
      expect((await erase(orderId)).headers['etag']).toBe('"v1"');
      expect(refusalOf(await erase(MISSING))).toBe('404 order_not_found');
    });

    test('waits for a fulfilment, also a stuck one', async () => {
      const running = await held('capture');
      expect(refusalOf(await erase(running.orderId))).toBe('409 fulfilment_running');
      expect(JSON.parse((await get(all, running.orderId)).text)).toHaveProperty('contact');
      await running.release();
      expect((await erase(running.orderId)).status).toBe(200);

      const stuck = await place();
      for (const operation of ['ship', 'refund'] as const) {
        await world.simulator.addFault({ operation, orderId: stuck, fault: 'refuse', times: 1 });
      }
      await command(stuck, 'fulfil');
      await eventually(async () => (await get(all, stuck)).text.includes('"stuck"'));
      expect((await get(all, stuck)).headers['etag']).toMatch(/-stuck-personal"$/);
      expect(refusalOf(await erase(stuck))).toBe('409 fulfilment_running');
      expect((await command(stuck, 'fulfilment/retry')).status).toBe(202);
      await eventually(async () => (await get(all, stuck)).text.includes('"compensated"'));
      expect((await erase(stuck)).status).toBe(200);
    });
  });

  describe('DELETE personal-data of a customer', () => {
    const eraseAll = async (customerId: string, cursor?: string) => {
      const query = cursor === undefined ? '' : `?cursor=${cursor}`;
      const path = `/v1/customers/${encodeURIComponent(customerId)}/personal-data${query}`;
      const { status, text } = await all.request('DELETE', path);
      expect(status, text).toBe(200);
      return erasedShape.parse(JSON.parse(text));
    };
    const left = async (customerId: string) =>
      (
        await world.database.query('select from order_personal_data where customer_id = $1', [
          customerId,
        ])
      ).length;

    test('erases a hundred orders a call, and says what is left and why', async () => {
      const ids: string[] = [];
      for (let number = 0; number < 250; number += 50) {
        ids.push(...(await Promise.all(Array.from({ length: 50 }, () => place(personal, 'many')))));
      }
      const running = [ids[0]!, ids[120]!];
      for (const orderId of running) {
        await world.simulator.addFault({ operation: 'capture', orderId, fault: 'hold', times: 1 });
        await command(orderId, 'fulfil');
        await world.simulator.nextCall({ operation: 'capture', orderId });
      }
      await place({}, 'many');
      await place(personal, 'other');
      const refused = (orderId: string) => ({ orderId, code: 'fulfilment_running' });
      const sorted = ids.toSorted();
      const refusedIn = (from: number) =>
        sorted
          .slice(from, from + 100)
          .filter((id) => running.includes(id))
          .map(refused);

      const first = await eraseAll('many');
      expect(first.refused).toEqual(refusedIn(0));
      expect(first).toMatchObject({
        erased: 100 - first.refused.length,
        left: 150 + first.refused.length,
        nextCursor: sorted[99],
      });
      const second = await eraseAll('many', first.nextCursor!);
      expect(second.refused).toEqual(refusedIn(100));
      const third = await eraseAll('many', second.nextCursor!);
      expect(third.refused).toEqual(refusedIn(200));
      expect(third).toMatchObject({ left: 2, nextCursor: null });

      await world.simulator.release();
      await eventually(async () => (await eraseAll('many')).left === 0);
      expect(await eraseAll('many')).toEqual({ erased: 0, refused: [], left: 0, nextCursor: null });
      expect([await left('many'), await left('other')]).toEqual([0, 1]);
      const [counted] = await world.database.query(
        `select count(*) as events, count(distinct stream_id) as orders from events
         where type = 'PersonalDataErased' and stream_id = any($1)`,
        [ids],
      );
      expect(counted).toEqual({ events: 250, orders: 250 });
    });

    test('finds nothing of a customer who is not known', async () => {
      for (const name of ['nobody', "o'; drop table x --", 'ü%/?']) {
        expect(await eraseAll(name)).toMatchObject({ erased: 0, left: 0 });
      }
    });

    test('takes no Idempotency-Key, because each call goes on with what is left', async () => {
      const response = await all.request('DELETE', '/v1/customers/c/personal-data', {
        headers: { 'idempotency-key': 'k' },
      });
      expect(refusalOf(response)).toBe('400 header_not_honoured');
    });
  });
});

function shownIn({ status, text }: HttpResponse) {
  expect(status, text).toBeLessThan(300);
  return shownShape.parse(JSON.parse(text));
}
