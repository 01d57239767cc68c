import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { z } from 'zod';
import { freePort } from '#dev/ports.ts';
import { createTestDatabase } from '#test/support/database.ts';
import type { TestDatabase } from '#test/support/database.ts';
import { createOrderApi, placeBody } from '#test/support/order-api.ts';
import type { OrderApi } from '#test/support/order-api.ts';
import { skipReason } from '#test/support/infra.ts';
import { eventually } from '#test/support/poll.ts';
import { startService } from '#test/support/service.ts';
import type { TestService } from '#test/support/service.ts';

const ADMIN_ONLY = [
  '/metrics',
  '/openapi.json',
  '/asyncapi.json',
  '/',
  '/docs',
  '/docs/api.js',
  '/docs/events',
  '/docs/problems',
  '/docs/style.css',
  '/docs/swagger-ui-bundle.js',
];

describe.skipIf(skipReason('postgres'))('with ADMIN_PORT', () => {
  let database: TestDatabase;
  let service: TestService;
  let admin: OrderApi;

  beforeAll(async () => {
    database = await createTestDatabase();
    const port = await freePort();
    const env = { ADMIN_PORT: String(port), LOG_LEVEL: 'info' };
    service = await startService({ databaseUrl: database.url, env });
    admin = createOrderApi(`http://127.0.0.1:${port}`);
  });
  afterAll(async () => {
    admin.close();
    await service[Symbol.asyncDispose]();
    await database[Symbol.asyncDispose]();
  });

  test.each(ADMIN_ONLY)('%s is on that port only', async (path) => {
    expect((await admin.request('GET', path)).status).toBe(200);
    const { status, text } = await service.api.request('GET', path);
    expect({ status, text }).toMatchObject({
      status: 404,
      text: expect.stringContaining('route_not_found'),
    });
  });

  test.each(['/livez', '/readyz'])('%s is on both ports', async (path) => {
    for (const api of [admin, service.api])
      expect((await api.request('GET', path)).status).toBe(200);
  });

  test('/readyz says more than its status on that port only', async () => {
    const [main, own] = await Promise.all(
      [service.api, admin].map(async (api) => (await api.request('GET', '/readyz')).text),
    );
    expect(main).toBe('{"status":"ready"}');
    expect(own).toContain('"outbox":');
  });

  test('orders are on the main port only', async () => {
    const place = (api: OrderApi) => api.request('POST', '/v1/orders', { body: placeBody });
    expect((await place(service.api)).status).toBe(201);
    expect((await place(admin)).status).toBe(404);
  });

  test('the OpenAPI document describes the main port', async () => {
    const { text } = await admin.request('GET', '/openapi.json');
    const { paths } = z
      .looseObject({ paths: z.record(z.string(), z.unknown()) })
      .parse(JSON.parse(text));
    expect(Object.keys(paths)).toEqual(expect.arrayContaining(['/v1/orders', '/livez', '/readyz']));
    expect(Object.keys(paths).filter((path) => ADMIN_ONLY.includes(path))).toEqual([]);
  });

  test('the metrics count the requests of the main port', async () => {
    await service.api.request('GET', '/v1/orders');
    await eventually(async () =>
      (await admin.request('GET', '/metrics')).text.includes('http_route="/v1/orders"'),
    );
  });

  test('SIGTERM ends both', async () => {
    expect(await service.terminate()).toMatchObject({ code: 0 });
    await expect(admin.request('GET', '/livez')).rejects.toThrow();
  });
});
