import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { bearer, createKey } from '#test/support/api-keys.ts';
import { createCanaries } from '#test/support/canaries.ts';
import type { Canaries } from '#test/support/canaries.ts';
import { createTestDatabase } from '#test/support/database.ts';
import type { TestDatabase } from '#test/support/database.ts';
import { createHttpClient, exchangeRaw } from '#test/support/http-client.ts';
import type { HttpClient, HttpResponse, RequestOptions } from '#test/support/http-client.ts';
import { skipReason } from '#test/support/infra.ts';
import { createTestTopic, readTopic, testBrokers } from '#test/support/kafka.ts';
import type { ReadMessage } from '#test/support/kafka.ts';
import { eventually } from '#test/support/poll.ts';
import { startService } from '#test/support/service.ts';
import { startSimulator } from '#test/support/simulator.ts';
import { startTcpProxy } from '#test/support/tcp-proxy.ts';
import type { TcpProxy } from '#test/support/tcp-proxy.ts';
import { deliverable } from '#test/support/order-api.ts';

/*
 * Secrets and personal data go into every input. Then every place where they do not belong is searched: the log of
 * all levels, problems, metrics, and Kafka. Not planted: the path, which is logged, and a usable X-Request-Id.
 */

const MAIN = fileURLToPath(new URL('../../src/main.ts', import.meta.url));
/** What an order is about. It belongs into events, and nowhere else. */
const BUSINESS = ['customer', 'payment', 'reason', 'sku'];

describe.skipIf(skipReason('postgres') ?? skipReason('kafka'))('what a caller sends', () => {
  test('is in no log line, problem, metric or header of a message', async () => {
    await using database = await createTestDatabase();
    await using topic = await createTestTopic();
    await using simulator = await startSimulator();
    const key = await createKey(database.url);
    const canaries = createCanaries({ apiKey: key.slice(17) });
    await using role = await createRole(database, canaries.at('databasePassword'));
    await using proxy = await startTcpProxy(role.url);
    await using service = await startService({
      databaseUrl: proxy.url,
      brokers: topic.brokers,
      env: {
        AUTH: 'on',
        LOG_LEVEL: 'trace',
        KAFKA_TOPIC: topic.name,
        PAYMENT_URL: simulator.url,
        SHIPPING_URL: simulator.url,
        PAYMENT_API_KEY: canaries.at('paymentKey'),
        SHIPPING_API_KEY: canaries.at('shippingKey'),
        CORS_ORIGINS: 'https://shop.example',
      },
    });
    const api = createHttpClient(service.url, bearer(key));
    await simulator.control.addFault({ operation: 'capture', fault: 'html', times: 1 });
    // Not by a request, because the path of a request is logged.
    await database.query('insert into stock (sku, on_hand) values ($1, 5)', [canaries.at('sku')]);
    const responses = [
      ...(await sendCommands(api, canaries)),
      ...(await sendInvalid(api, canaries)),
      ...(await sendUnreadable(service.url, canaries)),
      ...(await provokeFaults(api, canaries, { database, proxy })),
    ];
    const messages = await readTopic(topic.name, { until: isShipped });
    const metrics = await api.request('GET', '/metrics');
    api.close();
    await service.terminate();

    const problems = responses.filter(({ status }) => status >= 400);
    expect(problems.length).toBeGreaterThan(30);
    expect(canaries.foundIn(JSON.stringify(problems))).toEqual([]);
    expect(metrics.text).toContain('orders_commands_total');
    expect(canaries.foundIn(metrics.text)).toEqual([]);
    const log = service.log().join('\n');
    for (const level of [20, 30, 50]) expect(log).toContain(`"level":${level},`);
    expect(canaries.foundIn(log)).toEqual([]);
    expect(canaries.foundIn(JSON.stringify(messages.map(({ headers }) => headers)))).toEqual([]);
    // The search works: what belongs into a message is found.
    const values = canaries.foundIn(messages.map(({ value }) => value).join('\n'));
    // The order whose response was lost may come later.
    expect(values.filter((place) => place !== 'cutCustomer').toSorted()).toEqual(BUSINESS);
    expect(secretsIn(canaries.foundIn(await textOf(database)))).toEqual([]);
  });
});

describe.skipIf(skipReason('postgres') ?? skipReason('kafka'))('a secret of the settings', () => {
  test.each(['kafkajs', 'platformatic'])(
    'is not shown by a service that cannot log in to Kafka: %s',
    async (KAFKA_CLIENT) => {
      await using database = await createTestDatabase();
      const canaries = createCanaries();
      // Without TLS, the password is sent on this machine only. The broker may be on another one.
      await using proxy = await startTcpProxy(`kafka://${(await testBrokers())[0]}`);
      await using service = await startService({
        databaseUrl: database.url,
        brokers: [new URL(proxy.url).host],
        env: {
          LOG_LEVEL: 'trace',
          KAFKA_CLIENT,
          KAFKA_SASL_MECHANISM: 'plain',
          KAFKA_SASL_USERNAME: 'orders',
          KAFKA_SASL_PASSWORD: canaries.at('kafkaPassword'),
        },
      });
      await service.api.placeOrder();
      await eventually(() =>
        service.log().some((line) => /"level":[45]0.*(kafka|sasl)/i.test(line)),
      );
      const health = await service.api.request('GET', '/readyz');
      await service.terminate();
      expect(canaries.foundIn(service.log().join('\n') + health.text)).toEqual([]);
    },
  );

  test('is not printed by a command, whether it works or fails', async () => {
    await using database = await createTestDatabase();
    const canaries = createCanaries();
    const unknown = { username: 'nobody_here', password: canaries.at('password') };
    const env = {
      DATABASE_URL: Object.assign(new URL(database.url), unknown).href,
      PAYMENT_API_KEY: canaries.at('paymentKey'),
      KAFKA_SASL_PASSWORD: canaries.at('kafkaPassword'),
      LOG_LEVEL: 'trace',
    };
    const malformed = { ...env, DATABASE_URL: `postgres://a:${canaries.at('password')}@[/b` };
    const runs = [
      run(['config'], env),
      run(['config'], malformed),
      run(['outbox', 'status'], { ...env, KAFKA_SASL_PASSWORD: '' }),
      run([], { ...env, KAFKA_SASL_PASSWORD: '' }),
      run([], malformed),
    ];
    for (const output of await Promise.all(runs)) {
      expect(output).toContain('DATABASE_URL');
      expect(canaries.foundIn(output), output).toEqual([]);
    }
  });
});

test('a canary is found as it is, in another case, and encoded', () => {
  const canaries = createCanaries();
  const text = canaries.at('somewhere');
  canaries.at('elsewhere');
  for (const haystack of [
    `{"a":"${text}"}`,
    text.toUpperCase(),
    Buffer.from(text).toString('hex'),
    ...['', 'a', 'ab', 'abc:'].map((before) => Buffer.from(`${before}${text}!`).toString('base64')),
  ]) {
    expect(canaries.foundIn(haystack), haystack).toEqual(['somewhere']);
  }
  expect(canaries.foundIn('canary')).toEqual([]);
});

/** Commands and reads that succeed, and refusals by the rules. */
async function sendCommands(api: HttpClient, { at }: Canaries): Promise<HttpResponse[]> {
  const headers = {
    'idempotency-key': at('idempotencyKey'),
    'user-agent': at('userAgent'),
    'x-request-id': `${at('requestId')}@example.com`,
    'x-custom': at('customHeader'),
    cookie: `session=${at('cookie')}`,
    referer: `https://shop.example/?q=${at('referer')}`,
    baggage: `user=${at('baggage')}`,
    traceparent: at('traceparent'),
    tracestate: `a=${at('tracestate')}`,
    prefer: at('prefer'),
    'accept-language': at('language'),
  };
  const send = (path: string, body: unknown, more = {}) =>
    api.request('POST', path, { body, headers: { ...headers, ...more } });
  const items = [{ sku: at('sku'), quantity: 1, priceCents: 1250 }];
  const order = { customerId: at('customer'), currency: 'EUR', items };
  const placed = await send('/v1/orders', order);
  expect(placed.status).toBe(201);
  const path = `/v1/orders/${JSON.parse(placed.text).orderId}`;
  const next = (name: string, body: unknown) =>
    send(`${path}/${name}`, body, { 'idempotency-key': `${at('idempotencyKey')}-${name}` });
  return [
    await send('/v1/orders', order),
    await send('/v1/orders', { ...order, currency: 'USD' }),
    await next('pay', { paymentId: at('payment'), amountCents: 1250 }),
    await next('pay', { paymentId: at('payment'), amountCents: 1 }),
    await next('cancel', { reason: at('reason') }),
    await next('ship', { trackingNumber: at('tracking'), carrier: at('carrier') }),
    await next('refund', { refundId: at('refund'), amountCents: 99_999 }),
    await api.request('GET', `/v1/orders?customerId=${at('customer')}`, { headers }),
    await api.request('GET', `/v1/orders?customerId=${at('listed')}&limit=1`, { headers }),
    await send(
      '/v1/orders',
      { ...order, ...deliverable, fulfilment: 'automatic' },
      { 'idempotency-key': at('automatic') },
    ),
  ];
}

/** Requests that are refused for what they hold. */
async function sendInvalid(api: HttpClient, { at }: Canaries): Promise<HttpResponse[]> {
  const body = { customerId: 'c', currency: 'EUR', items: [] };
  const json = { 'content-type': 'application/json' };
  const post = (options: RequestOptions) => api.request('POST', '/v1/orders', options);
  const refused = [
    post({ body: { ...body, customerId: [at('badCustomer')], currency: at('badCurrency') } }),
    post({ body: { ...body, items: at('badItems') } }),
    post({
      body: {
        ...body,
        items: [{ sku: 1, quantity: at('badQuantity'), priceCents: at('badPrice') }],
      },
    }),
    post({ body: { ...body, fulfilment: at('badFulfilment'), unknown: at('unknownField') } }),
    post({ body: at('bareString') }),
    post({ rawBody: `{"customerId":"${at('malformed')}`, headers: json }),
    post({ rawBody: `{"customerId": ${at('malformedToken')}}`, headers: json }),
    post({ rawBody: `{"a":"${at('duplicateOne')}","a":"${at('duplicateTwo')}"}`, headers: json }),
    post({ rawBody: at('wrongType'), headers: { 'content-type': `text/${at('contentType')}` } }),
    post({ rawBody: '{}', headers: { ...json, 'content-encoding': at('contentEncoding') } }),
    post({ body, headers: { 'idempotency-key': `"${at('badKey')} ` } }),
    post({ body, headers: { 'if-match': `"${at('notHonoured')}"` } }),
    post({ body, headers: { expect: at('expect') } }),
    post({ headers: { origin: `https://${at('origin')}.example` } }),
    post({ body, headers: bearer(at('wrongToken')) }),
    post({ body, headers: bearer(`osk_${at('wrongKey')}`) }),
    post({ body, headers: { authorization: `Basic ${btoa(`user:${at('basic')}`)}` } }),
    post({ body, headers: { host: `${at('host')} x` } }),
    ...['limit', 'cursor', 'status', 'placedFrom', 'placedTo', 'unknown'].map((name) =>
      api.request('GET', `/v1/orders?${name}=${at(`query-${name}`)}`),
    ),
    api.request('GET', `/v1/orders?customerId=%ff${at('badEncoding')}`),
    api.request('GET', `/nowhere?token=${at('lostToken')}`),
    api.request('DELETE', `/v1/orders?token=${at('deleteToken')}`),
    api.request('GET', '/v1/orders', { headers: { 'if-none-match': at('badTag') } }),
  ];
  const responses = await Promise.all(refused);
  for (const { status, text } of responses) expect(status, text).toBeGreaterThanOrEqual(400);
  return responses;
}

/** What is not HTTP, or breaks off. */
async function sendUnreadable(url: string, { at }: Canaries): Promise<HttpResponse[]> {
  const token = `authorization: Bearer ${at('rawToken')}`;
  const start = `POST /v1/orders?q=${at('rawQuery')} HTTP/1.1\r\nhost: x\r\n${token}\r\n`;
  const requests = [
    `${at('rubbish')}\r\n\r\n`,
    `GET /${at('rawPath')} HTTP/9.9\r\n\r\n`,
    `${start}${at('rawHeader')} without a colon\r\n\r\n`,
    `${start}x-large: ${at('largeHeader').repeat(1000)}\r\n\r\n`,
    `${start}transfer-encoding: ${at('transferCoding')}\r\n\r\n`,
    `${start}content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n${at('rawChunk')}\r\n`,
    `${start}authorization: Bearer ${at('secondToken')}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n`,
  ];
  const responses = await Promise.all(requests.map((request) => exchangeRaw(url, request)));
  for (const { status, text } of responses) expect(status, text).toBeGreaterThanOrEqual(400);
  return responses;
}

/** A commit whose outcome is unknown, and errors of Postgres that quote a row. */
async function provokeFaults(
  api: HttpClient,
  { at }: Canaries,
  { database, proxy }: Readonly<{ database: TestDatabase; proxy: TcpProxy }>,
): Promise<HttpResponse[]> {
  const place = (customerId: string) =>
    api.request('POST', '/v1/orders', {
      body: {
        customerId,
        currency: 'EUR',
        items: [{ sku: 'book', quantity: 1, priceCents: 1 }],
      },
      headers: { 'idempotency-key': at('faultKey') + customerId.slice(-5) },
    });
  const trap = proxy.trap(at('cutCustomer'), 'cutResponse');
  const cut = await place(at('cutCustomer'));
  await trap.sprung;
  expect(cut.status).toBe(503);
  await database.query(
    `alter table orders_summary add constraint canary check (customer_id <> '${at('refusedRow')}') not valid`,
  );
  const refused = await place(at('refusedRow'));
  expect(refused.status).toBeGreaterThanOrEqual(500);
  return [cut, refused];
}

/** The order with an automatic fulfilment has shipped. */
function isShipped(messages: readonly ReadMessage[]): boolean {
  return messages.some(({ headers }) => headers['ce_type'] === 'order.shipped.v1');
}

/** All rows of all tables, as text. */
async function textOf(database: TestDatabase): Promise<string> {
  const tables = await database.query<{ name: string }>(
    `select relname as name from pg_class where relkind = 'r' and relnamespace = 'public'::regnamespace`,
  );
  const texts = await Promise.all(
    tables.map(({ name }) => database.query(`select row::text from "${name}" as row`)),
  );
  return JSON.stringify(texts);
}

/** The places of secrets, which are stored nowhere. */
function secretsIn(places: readonly string[]): string[] {
  return places.filter(
    (place) =>
      /(password|token|key|cookie|basic)$/i.test(place) && !/idempotency|fault/.test(place),
  );
}

/** A login of its own with this password. */
async function createRole(database: TestDatabase, password: string) {
  const name = `canary_${password.slice(-8)}`;
  await database.query(`create role ${name} login superuser password '${password}'`);
  const url = Object.assign(new URL(database.url), { username: name, password }).href;
  return {
    url,
    [Symbol.asyncDispose]: async () => void (await database.query(`drop role ${name}`)),
  };
}

function run(args: readonly string[], env: Readonly<Record<string, string>>): Promise<string> {
  return new Promise((resolve) => {
    const options = { env: { PATH: process.env['PATH'], ...env } };
    execFile(process.execPath, [MAIN, ...args], options, (_, stdout, stderr) =>
      resolve(stdout + stderr),
    );
  });
}
