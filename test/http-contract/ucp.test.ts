import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { z } from 'zod';
import { bearer, createKey } from '#test/support/api-keys.ts';
import { problemOf } from '#test/support/api-shapes.ts';
import { createTestDatabase } from '#test/support/database.ts';
import type { TestDatabase } from '#test/support/database.ts';
import type { HttpResponse } from '#test/support/http-client.ts';
import { skipReason } from '#test/support/infra.ts';
import type { Order } from '#test/support/api-shapes.ts';
import { placeBody } from '#test/support/order-api.ts';
import { startService } from '#test/support/service.ts';
import type { TestService } from '#test/support/service.ts';

const UCP = 'application/ucp+json';
const shippingAddress = {
  name: 'Ada Example',
  line1: '1 Sample Street',
  postalCode: '10115',
  city: 'Berlin',
  country: 'DE',
};
const fulfillmentShape = z.looseObject({
  fulfillment: z.looseObject({
    expectations: z.array(z.looseObject({ destination: z.unknown() })).optional(),
  }),
});
const ucpShape = z.looseObject({ id: z.string(), permalink_url: z.string() });

describe.skipIf(skipReason('postgres'))("an order in UCP's form", () => {
  let database: TestDatabase;
  let service: TestService;
  let order: Order;
  const path = () => `/v1/orders/${order.orderId}`;
  const read = (accept: string, headers = {}, query = '') =>
    service.api.request('GET', `${path()}${query}`, { headers: { accept, ...headers } });

  beforeAll(async () => {
    database = await createTestDatabase();
    service = await startService({
      databaseUrl: database.url,
      env: {
        ORDER_PAGE_URL: 'https://shop.example/orders/{orderId}',
        CORS_ORIGINS: 'https://shop.example',
        // On a loopback address the names of other hosts are refused.
        HOST: '0.0.0.0',
        AUTH_OFF_ON_NETWORK: 'on',
      },
    });
    order = await service.api.placeOrder();
  });
  afterAll(async () => {
    await service[Symbol.asyncDispose]();
    await database[Symbol.asyncDispose]();
  });

  test('is sent to whoever prefers it, and JSON to all others', async () => {
    const forms = {
      'application/ucp+json': UCP,
      'application/ucp+json, application/json;q=0.5': UCP,
      'application/ucp+json;q=0.5, application/json': 'application/json',
      '*/*': 'application/json',
      'application/json; charset=utf-8': 'application/json',
    };
    for (const [accept, form] of Object.entries(forms)) {
      const { status, headers } = await read(accept);
      expect({ status, form: headers['content-type'] }).toEqual({
        status: 200,
        form: `${form}; charset=utf-8`,
      });
      expect(headers.vary).toContain('accept');
      expect(headers.vary).toContain('origin');
    }
    const { headers } = await service.api.request('GET', path());
    expect(headers['content-type']).toBe('application/json; charset=utf-8');
  });

  test('is refused to whoever accepts neither form, whether there is such an order or not', async () => {
    const missing = `/v1/orders/${order.orderId.replace(/.$/, (last) => (last === '0' ? '1' : '0'))}`;
    for (const at of [path(), missing]) {
      const options = { headers: { accept: 'text/html' } };
      const response = await service.api.request('GET', at, options);
      expect(problemOf(response)).toMatchObject({ status: 406, code: 'not_acceptable' });
      expect(response.headers.vary).toContain('accept');
    }
  });

  test('has the page of the setting, whatever host the request names', async () => {
    const forged = { host: 'evil.example', 'x-forwarded-host': 'evil.example' };
    for (const headers of [{}, forged]) {
      const { status, text } = await read(UCP, headers);
      expect(status).toBe(200);
      expect(ucpShape.parse(JSON.parse(text)).permalink_url).toBe(
        `https://shop.example/orders/${order.orderId}`,
      );
      expect(text).not.toContain('evil');
    }
    await using plain = await startService({ databaseUrl: database.url });
    const { text } = await plain.api.request('GET', path(), { headers: { accept: UCP } });
    expect(ucpShape.parse(JSON.parse(text)).permalink_url).toBe(`urn:uuid:${order.orderId}`);
  });

  test('has an ETag of its own, which is never mixed up with that of JSON', async () => {
    const json = (await read('application/json')).headers.etag ?? '';
    const ucp = (await read(UCP)).headers.etag ?? '';
    expect(ucp).toBe(json.replace(/"$/, '-ucp"'));
    const conditions = [
      { accept: UCP, tag: ucp, status: 304 },
      { accept: UCP, tag: json, status: 200 },
      { accept: 'application/json', tag: json, status: 304 },
      { accept: 'application/json', tag: ucp, status: 200 },
    ];
    for (const { accept, tag, status } of conditions) {
      const response = await read(accept, { 'if-none-match': tag });
      expect(response.status).toBe(status);
      expect(response.headers.vary).toContain('accept');
    }
  });

  test('is at a version that If-Match accepts', async () => {
    const { headers } = await read(UCP);
    const body = { paymentId: 'pay-1', amountCents: order.totalCents };
    const stale = await service.api.send('pay', order.orderId, body, { ifMatch: '"v7-ucp"' });
    expect(stale.status).toBe(412);
    const paid = await service.api.send('pay', order.orderId, body, { ifMatch: headers.etag! });
    expect(paid.status).toBe(200);
    const before = await read(UCP, {}, '?version=1');
    expect(before.headers.etag).toBe('"v1-ucp"');
    expect(ucpShape.parse(JSON.parse(before.text)).id).toBe(order.orderId);
  });

  test('is compressed if it is large', async () => {
    const items = Array.from({ length: 20 }, (_, i) => ({
      sku: `book-${i}`,
      quantity: 1,
      priceCents: 1,
    }));
    const large = await service.api.placeOrder({ items });
    const { headers } = await service.api.request('HEAD', `/v1/orders/${large.orderId}`, {
      headers: { accept: UCP, 'accept-encoding': 'gzip' },
    });
    expect(headers).toMatchObject({ 'content-encoding': 'gzip', etag: '"v1-ucp-gzip"' });
    const options = { ifMatch: '"v1-ucp-gzip"' };
    const cancelled = await service.api.send('cancel', large.orderId, { reason: 'r' }, options);
    expect(cancelled.status).toBe(200);
  });
});

describe.skipIf(skipReason('postgres'))("the address in UCP's form", () => {
  test('is shown to those who may read personal data, of the order as it is now, until it is erased', async () => {
    await using database = await createTestDatabase();
    await using service = await startService({ databaseUrl: database.url, env: { AUTH: 'on' } });
    const { request } = service.api;
    const callers = {
      all: bearer(await createKey(database.url)),
      plain: bearer(await createKey(database.url, { scopes: ['orders:read', 'orders:write'] })),
      owner: bearer(await createKey(database.url, { customer: 'c-1' })),
    };
    const body = { ...placeBody, shippingAddress, contact: { phone: '+49 30 1234567' } };
    const placed = await request('POST', '/v1/orders', { body, headers: callers.all });
    const { orderId } = z.looseObject({ orderId: z.string() }).parse(JSON.parse(placed.text));
    const read = (caller: keyof typeof callers, query = '') =>
      request('GET', `/v1/orders/${orderId}${query}`, {
        headers: { ...callers[caller], accept: UCP },
      });
    const addressIn = ({ status, text }: HttpResponse): unknown => {
      expect({ status, text }).toMatchObject({ status: 200 });
      return fulfillmentShape.parse(JSON.parse(text)).fulfillment.expectations?.[0]?.destination;
    };

    const destination = {
      street_address: '1 Sample Street',
      address_locality: 'Berlin',
      address_country: 'DE',
      postal_code: '10115',
      phone_number: '+49 30 1234567',
    };
    expect(addressIn(await read('all'))).toEqual(destination);
    expect(addressIn(await read('owner'))).toEqual(destination);
    for (const hidden of [
      await read('plain'),
      await read('all', '?version=1'),
      await read('owner', `?at=${new Date(Date.now() + 60_000).toISOString()}`),
    ]) {
      expect(addressIn(hidden)).toBeUndefined();
      expect(hidden.text).not.toContain('Sample');
    }
    expect((await read('all')).headers.etag).not.toBe((await read('plain')).headers.etag);

    const path = `/v1/orders/${orderId}/personal-data`;
    expect((await request('DELETE', path, { headers: callers.all })).status).toBe(200);
    expect(addressIn(await read('all'))).toBeUndefined();
  });
});
