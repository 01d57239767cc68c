import { readFile } from 'node:fs/promises';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { z } from 'zod';
import { messageFrom } from '#src/outbox/outbox.ts';
import type { OutboxRow } from '#src/outbox/outbox.ts';
import { asyncApi, validatorOf } from '#test/support/asyncapi.ts';
import { createTestDatabase } from '#test/support/database.ts';
import type { TestDatabase } from '#test/support/database.ts';
import { skipReason } from '#test/support/infra.ts';
import { problemOf } from '#test/support/api-shapes.ts';
import { placeBody } from '#test/support/order-api.ts';
import type { OrderApi } from '#test/support/order-api.ts';
import { eventually } from '#test/support/poll.ts';
import { startService } from '#test/support/service.ts';
import type { TestService } from '#test/support/service.ts';

/*
 * What the service says of itself: the OpenAPI document, the pages for people, health and metrics.
 */
const operation = z.looseObject({
  operationId: z.string(),
  parameters: z.array(z.looseObject({ name: z.string(), in: z.string() })).optional(),
  requestBody: z.looseObject({ content: z.record(z.string(), z.unknown()) }).optional(),
  responses: z.record(z.string(), z.looseObject({ description: z.string() })),
});
const document = z.looseObject({
  openapi: z.string().regex(/^3\.1\./),
  paths: z.record(z.string(), z.record(z.string(), operation)),
  components: z.looseObject({ schemas: z.record(z.string(), z.looseObject({})) }),
});

describe.skipIf(skipReason('postgres'))('the service describes', () => {
  let database: TestDatabase;
  let service: TestService;
  let api: OrderApi;
  let openapi: z.infer<typeof document>;

  beforeAll(async () => {
    database = await createTestDatabase();
    service = await startService({ databaseUrl: database.url });
    ({ api } = service);
    openapi = document.parse(JSON.parse((await api.request('GET', '/openapi.json')).text));
  });
  afterAll(async () => {
    await service[Symbol.asyncDispose]();
    await database[Symbol.asyncDispose]();
  });

  const commands = ['pay', 'ship', 'cancel', 'refund'];
  const routes: ReadonlyArray<[string, string]> = [
    ['post', '/v1/orders'],
    ['get', '/v1/orders'],
    ['get', '/v1/orders/{orderId}'],
    ['get', '/v1/orders/{orderId}/events'],
    ...commands.map((name): [string, string] => ['post', `/v1/orders/{orderId}/${name}`]),
    ['get', '/livez'],
    ['get', '/readyz'],
    ['get', '/metrics'],
    ['get', '/asyncapi.json'],
  ];

  test.each(routes)('%s %s in OpenAPI: its parameters, its body, its responses', (method, path) => {
    const { parameters = [], requestBody, responses } = openapi.paths[path]![method]!;
    const names = parameters.map(({ name }) => name);
    if (path.includes('{orderId}')) expect(names).toContain('orderId');
    expect(Object.keys(responses)).toContainEqual(expect.stringMatching(/^20[01]$/));
    if (method === 'post') {
      expect(names).toContain('Idempotency-Key');
      expect(requestBody?.content).toHaveProperty('application/json');
      for (const status of ['400', '409', '413', '415', '422', '503']) {
        expect(responses).toHaveProperty(status);
      }
    }
    for (const [status, response] of Object.entries(responses)) {
      const isProblem = Number(status) >= 400 && path !== '/readyz';
      if (isProblem) expect(response['content']).toHaveProperty('application/problem+json');
    }
  });

  test('the schemas of its responses by name, for generated clients', () => {
    const { schemas } = openapi.components;
    const names = ['Order', 'OrderSummary', 'StockLevel', 'Fulfilment', 'Problem'];
    expect(Object.keys(schemas)).toEqual(expect.arrayContaining(names));
    const sent = (path: string, method: string, status: string) =>
      JSON.stringify(openapi.paths[path]![method]!.responses[status]);
    expect(sent('/v1/orders', 'post', '201')).toContain('#/components/schemas/Order"');
    expect(sent('/v1/orders/{orderId}', 'get', '200')).toContain(
      '#/components/schemas/OrderWithPersonalData"',
    );
    expect(sent('/v1/orders', 'get', '200')).toContain('#/components/schemas/OrderSummary"');
    expect(sent('/v1/stock/{sku}', 'get', '200')).toContain('#/components/schemas/StockLevel"');
    expect(sent('/v1/stock', 'get', '200')).toContain('#/components/schemas/StockLevel"');
    expect(sent('/v1/orders/{orderId}/fulfilment', 'get', '200')).toContain(
      '#/components/schemas/Fulfilment"',
    );
    for (const name of ['Order', 'OrderSummary']) {
      const [example] = z.array(z.unknown()).parse(schemas[name]!['examples']);
      expect(z.fromJSONSchema(schemas[name]!).safeParse(example).error).toBeUndefined();
    }
    expect(schemas['Order']).toMatchObject({ required: expect.arrayContaining(['orderId']) });
  });

  test('responses that may gain members in a later release', () => {
    const responses = Object.values(openapi.paths).flatMap((methods) =>
      Object.values(methods).map((of) => of.responses),
    );
    const described = JSON.stringify([responses, openapi.components.schemas]);
    expect(described).not.toContain('"additionalProperties":false');
  });

  test('only what exists: every operation responds, every reference resolves', async () => {
    const ids = new Set<string>();
    for (const [path, operations] of Object.entries(openapi.paths)) {
      for (const [method, { operationId }] of Object.entries(operations)) {
        expect(ids).not.toContain(operationId);
        ids.add(operationId);
        const filled = path.replaceAll(/\{\w+\}/g, '01999e5c-7c1f-7d3a-9f52-3b6f0c9d2a11');
        const response = await api.request(method.toUpperCase(), filled);
        if (response.status >= 400 && path !== '/readyz') {
          expect(problemOf(response).code).not.toMatch(
            /route_not_found|method_not_allowed|internal/,
          );
        }
      }
    }
    for (const [, pointer] of JSON.stringify(openapi).matchAll(/"\$ref":"#\/([^"]+)"/g)) {
      const target = pointer!
        .split('/')
        .reduce<unknown>((at, key) => Reflect.get(Object(at), key), openapi);
      expect(target, pointer).toBeTypeOf('object');
    }
  });

  test('pages that load nothing from another server', async () => {
    for (const path of ['/', '/docs', '/docs/problems', '/docs/events']) {
      const { status, text, headers } = await api.request('GET', path);
      expect(status).toBe(200);
      expect(headers['content-type']).toMatch(/^text\/html/);
      expect(headers['content-security-policy']).toContain("default-src 'none'");
      const sources = [...text.matchAll(/(?:src|href)="([^"]+)"/g)].map(([, source]) => source!);
      for (const source of sources.filter((source) => !source.startsWith('data:'))) {
        expect(source).toMatch(/^(#|\/(?!\/))/);
        if (source.startsWith('#')) continue;
        const loaded = await api.request('GET', source.replace(/#.*/, ''));
        expect(loaded.status, source).toBe(200);
      }
    }
  });

  test('each problem at the address of its type', async () => {
    const { text } = await api.request('GET', '/docs/problems');
    const problems = [
      await api.request('GET', '/nothing'),
      await api.request('GET', '/v1/orders/abc'),
      await api.request('POST', '/v1/orders', { rawBody: '{' }),
      await api.request('PUT', '/v1/orders'),
      await api.request('GET', '/v1/orders?cursor=x'),
    ].map(problemOf);
    for (const { type, code } of problems) {
      expect(type).toBe(`/docs/problems#${code}`);
      expect(text).toContain(`id="${code}"`);
    }
  });

  test('each problem and each message at an anchor of its page', async () => {
    const codes = [...JSON.stringify(openapi).matchAll(/"code":\{"enum":\["(.*?)"\]/g)].flatMap(
      ([, listed]) => listed!.split('","'),
    );
    expect(codes).toContain('order_already_shipped');
    const problems = (await api.request('GET', '/docs/problems')).text;
    for (const code of codes) expect(problems).toContain(`<section id="${code}">`);
    const { components } = asyncApi.parse(
      JSON.parse((await api.request('GET', '/asyncapi.json')).text),
    );
    const events = (await api.request('GET', '/docs/events')).text;
    for (const name of Object.keys(components.messages)) {
      expect(events).toContain(`<section id="${name}">`);
    }
  });

  test('its health', async () => {
    expect(await api.request('GET', '/livez')).toMatchObject({ status: 200 });
    const { status, text } = await api.request('GET', '/readyz');
    expect(status).toBe(200);
    expect(JSON.parse(text)).toMatchObject({ status: 'ready', outbox: { pendingRows: 0 } });
  });

  test('its work in metrics', async () => {
    const eventsLoaded = (text: string) =>
      Number(/^orders_stream_load_events_sum (\d+)$/m.exec(text)?.[1]);
    const before = eventsLoaded((await api.request('GET', '/metrics')).text);
    const order = await api.placeOrder();
    await api.ship(await api.pay(order));
    await api.send('cancel', order.orderId, { reason: 'late' });
    // What was read a moment ago is told again.
    const { text, headers } = await eventually(async () => {
      const latest = await api.request('GET', '/metrics');
      expect(latest.text).toContain('command="CancelOrder"');
      return latest;
    });
    expect(headers['content-type']).toMatch(/^text\/plain/);
    for (const name of [
      'http_server_request_duration_seconds_count',
      'orders_commands_total',
      'orders_append_batch_units_count',
      'orders_append_duration_seconds_count',
      'orders_command_queue_length',
      'orders_stream_load_events_count',
      'orders_db_oldest_transaction_age_seconds',
      'orders_outbox_pending',
      'orders_outbox_oldest_age_seconds',
      'orders_outbox_parked',
      'orders_lease_held',
      'orders_db_pool_in_use',
      'nodejs_eventloop_lag_seconds',
    ]) {
      expect(text).toMatch(new RegExp(`^${name}[ {]`, 'm'));
    }
    const operations = await readFile(new URL('../../docs/operations.md', import.meta.url), 'utf8');
    for (const [, name] of text.matchAll(/^# TYPE ((?:orders|http)_\w+)/gm)) {
      expect(operations).toContain(`\`${name}\``);
    }
    expect(text).toContain('orders_commands_total{command="PlaceOrder",outcome="ok"} 1');
    expect(text).toContain('orders_commands_total{command="CancelOrder",outcome="rejected"} 1');
    expect(eventsLoaded(text) - before, 'of an order with 1, 2 and 3 events').toBe(6);
    expect(text).toContain('orders_saga_instances{saga="fulfilment",state="stuck"} 0');
    expect(text).toMatch(/^orders_outbox_pending\{topic="order\.events"\} \d+$/m);
    expect(text).toMatch(/^orders_db_oldest_transaction_age_seconds \d/m);
    expect(text).not.toContain(order.orderId);
  });

  test('its failures in metrics: a batch that was refused and written one by one', async () => {
    await database.query(`
      create function refuse() returns trigger language plpgsql as
        $$ begin raise exception 'refused'; end $$;
      create trigger refuse before insert on orders_summary for each row
        when (new.customer_id = 'refused') execute function refuse()`);
    const metrics = await eventually(async () => {
      const places = Array.from({ length: 10 }, (_, index) =>
        api.place({ ...placeBody, customerId: index === 5 ? 'refused' : 'c-1' }),
      );
      const statuses = (await Promise.all(places)).map(({ status }) => status);
      expect(statuses.filter((status) => status !== 201)).toEqual([500]);
      const { text } = await api.request('GET', '/metrics');
      return text.includes('orders_db_retries_total{reason="batch_refused"}') && text;
    });
    expect(metrics).toMatch(/^orders_append_failures_total\{failure="refused"\} [1-9]/m);
  });

  test('its messages, as they wait in the outbox', async () => {
    const order = await api.placeOrder();
    await api.ship(await api.pay(order));
    const other = await api.placeOrder();
    await api.pay(other);
    await api.cancel(other);
    await api.send('refund', other.orderId, { refundId: 'ref-1', amountCents: 2500 });
    const { text } = await api.request('GET', '/asyncapi.json');
    const validate = validatorOf(asyncApi.parse(JSON.parse(text)));
    const rows = await database.query<OutboxRow>(
      'select * from outbox_events where message_key = any($1) order by id',
      [[order.orderId, other.orderId]],
    );
    expect(rows).toHaveLength(7);
    for (const row of rows) expect(validate(messageFrom(row)), row.ce_type).toStrictEqual([]);
  });
});
