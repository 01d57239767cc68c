import { randomUUID } from 'node:crypto';
import { describe, expect, test } from 'vitest';
import { z } from 'zod';
import { bearer, createKey } from '#test/support/api-keys.ts';
import type { Canaries } from '#test/support/canaries.ts';
import { createTestDatabase } from '#test/support/database.ts';
import type { TestDatabase } from '#test/support/database.ts';
import { createHttpClient } from '#test/support/http-client.ts';
import type { HttpClient, HttpResponse, RequestOptions } from '#test/support/http-client.ts';
import { skipReason } from '#test/support/infra.ts';
import { createTestTopic, readTopic } from '#test/support/kafka.ts';
import type { ReadMessage } from '#test/support/kafka.ts';
import {
  createPersonalCanaries,
  plantedData,
  textsOf,
  verifyPersonalData,
} from '#test/support/personal-data.ts';
import { eventually } from '#test/support/poll.ts';
import { startService } from '#test/support/service.ts';
import type { TestService } from '#test/support/service.ts';
import { startSimulator } from '#test/support/simulator.ts';
import { startTcpProxy } from '#test/support/tcp-proxy.ts';
import type { TcpProxy } from '#test/support/tcp-proxy.ts';

/*
 * G11: texts that occur nowhere else are planted in every personal field, of requests that succeed and of requests that
 * are refused in every way. Then every place but one table is searched for them; after the erasure, that one too.
 */

/** Data that the table has. Of `changed` that is the address, which was put in the place of `first`. */
const KEPT = ['byHand', 'automatic', 'changed'];
/** Data of requests that are refused, and of one whose outcome is unknown. */
const REFUSED = ['other', 'invalid', 'late', 'unmatched', 'refusedRow', 'reused', 'cut'];

describe.skipIf(skipReason('postgres') ?? skipReason('kafka'))('personal data', () => {
  test('is in one table and nowhere else, and after its erasure not even there', async () => {
    await using database = await createTestDatabase();
    await using topic = await createTestTopic();
    await using simulator = await startSimulator();
    await using proxy = await startTcpProxy(database.url);
    const key = await createKey(database.url);
    await using service = await startService({
      databaseUrl: proxy.url,
      brokers: topic.brokers,
      env: {
        AUTH: 'on',
        LOG_LEVEL: 'trace',
        KAFKA_TOPIC: topic.name,
        PAYMENT_URL: simulator.url,
        SHIPPING_URL: simulator.url,
        SAGA_RETRY_MS: '5',
      },
    });
    const canaries = createPersonalCanaries([...KEPT, 'first', ...REFUSED]);
    const api = createHttpClient(service.url, bearer(key));
    await database.query(`insert into stock (sku, on_hand) values ('book', 5)`);
    await simulator.control.addFault({ operation: 'capture', fault: 'html', times: 1 });

    const { orderIds, responses } = await sendAll(api, canaries, { database, proxy });
    await eventually(() => hasEvent(database, orderIds.automatic, 'OrderShipped'));
    const before = await historyOf(database);
    const reads = await readAll(api, orderIds);
    expect(canaries.foundIn(JSON.stringify([...responses, ...reads]))).toEqual([]);
    expect((await searched(database, canaries)).others).toEqual([]);
    const { own } = await searched(database, canaries);
    expect(own.filter((place) => !place.startsWith('cut-'))).toEqual(placesOf(canaries, KEPT));
    expect(await verifyPersonalData(database.query)).toEqual([]);
    await expectShown(api, canaries, orderIds);

    const erased = await eraseAll(api, orderIds);
    expect(await searched(database, canaries)).toEqual({ others: [], own: [] });
    const after = await historyOf(database);
    expect(after.filter((event) => !event.includes('PersonalDataErased'))).toEqual(before);
    expect(after.length).toBeGreaterThan(before.length);
    const isErased = ({ headers }: ReadMessage) =>
      headers['ce_type'] === 'order.personal_data_erased.v1';
    const erasures = after.length - before.length;
    const messages = await readTopic(topic.name, {
      until: (all) => all.filter(isErased).length >= erasures,
    });
    const metrics = await api.request('GET', '/metrics');
    api.close();
    await service.terminate();
    for (const text of [JSON.stringify(erased), JSON.stringify(messages), metrics.text]) {
      expect(canaries.foundIn(text)).toEqual([]);
    }
    expectSearchable(messages, service);
    expect(canaries.foundIn(service.log().join('\n'))).toEqual([]);
  });
});

type OrderIds = Readonly<Record<'byHand' | 'automatic' | 'shipped', string>>;
type Broken = Readonly<{ database: TestDatabase; proxy: TcpProxy }>;

/** Every request that has personal data in it. The responses are those that must show none. */
async function sendAll(api: HttpClient, canaries: Canaries, broken: Broken) {
  const responses: HttpResponse[] = [];
  const send = async (method: string, path: string, options: RequestOptions) => {
    const response = await api.request(method, path, options);
    responses.push(response);
    return response;
  };
  const placed = async (place: string, more: object = {}) => {
    const headers = { 'idempotency-key': randomUUID() };
    const body = { ...orderOf(canaries, place), ...more };
    const first = await send('POST', '/v1/orders', { body, headers });
    const replay = await send('POST', '/v1/orders', { body, headers });
    expect([first.status, replay.headers['idempotency-replayed']], first.text).toEqual([
      201,
      'true',
    ]);
    const reused = { ...body, ...plantedData(canaries, 'reused') };
    expect((await send('POST', '/v1/orders', { body: reused, headers })).status).toBe(422);
    return idIn(first);
  };
  const byHand = await placed('byHand');
  const shipped = await placed('first', { contact: undefined, payment: undefined });
  const automatic = await placed('automatic', { fulfilment: 'automatic' });
  const address = { body: plantedData(canaries, 'changed').shippingAddress };
  const path = `/v1/orders/${shipped}`;
  for (const headers of [{ 'idempotency-key': 'put' }, { 'idempotency-key': 'put' }, {}]) {
    const { status, text } = await send('PUT', `${path}/shipping-address`, { ...address, headers });
    expect(status, text).toBe(200);
  }
  await refusedAddresses(send, canaries, path);
  for (const [name, body] of [
    ['pay', { paymentId: 'p', amountCents: 1250 }],
    ['ship', { trackingNumber: 't', carrier: 'c' }],
  ] as const) {
    expect((await send('POST', `${path}/${name}`, { body })).status).toBe(200);
  }
  const late = { body: plantedData(canaries, 'late').shippingAddress };
  expect((await send('PUT', `${path}/shipping-address`, late)).status).toBe(409);
  await invalidOrders(send, canaries);
  await faults(send, canaries, broken);
  return { orderIds: { byHand, automatic, shipped }, responses };
}

type Send = (method: string, path: string, options: RequestOptions) => Promise<HttpResponse>;

async function refusedAddresses(send: Send, canaries: Canaries, path: string): Promise<void> {
  const { shippingAddress, contact } = plantedData(canaries, 'unmatched');
  const put = (body: unknown, headers: Readonly<Record<string, string>> = {}, at = path) =>
    send('PUT', `${at}/shipping-address`, { body, headers });
  const missing = `/v1/orders/${randomUUID()}`;
  const refused = [
    await put(shippingAddress, { 'if-match': '"v99"' }),
    await put(shippingAddress, { 'if-match': 'W/"v1"' }),
    await put(shippingAddress, { 'if-none-match': '*' }),
    await put(shippingAddress, {}, missing),
    await put(shippingAddress, bearer('wrong')),
    await put({ shippingAddress }),
    await put({ ...shippingAddress, ...contact }),
    await put({ ...shippingAddress, country: contact.phone }),
    await put(shippingAddress, { 'content-type': 'text/plain' }),
  ];
  expect(refused.map(({ status }) => status)).toEqual([
    412, 412, 400, 404, 401, 400, 400, 400, 415,
  ]);
}

/** Orders that are refused for what they hold. */
async function invalidOrders(send: Send, canaries: Canaries): Promise<void> {
  const { at } = canaries;
  const { shippingAddress: address, contact, payment } = plantedData(canaries, 'invalid');
  const order = orderOf(canaries, 'other');
  const json = { 'content-type': 'application/json' };
  const text = JSON.stringify(order);
  const bodies: unknown[] = [
    { ...order, shippingAddress: address.name },
    { ...order, shippingAddress: [address] },
    { ...order, shippingAddress: { ...address, name: { first: address.name } } },
    { ...order, shippingAddress: { ...address, line1: `${address.line1}\n` } },
    { ...order, shippingAddress: { ...address, city: address.city.repeat(10) } },
    { ...order, shippingAddress: { ...address, country: address.region } },
    { ...order, shippingAddress: { ...address, title: at('invalid-title') } },
    { ...order, contact: contact.email },
    { ...order, contact: { email: contact.email.replace('@', ' at ') } },
    { ...order, contact: { phone: `tel:${contact.phone}` } },
    { ...order, contact: { phone: Number(contact.phone.slice(0, 12)) } },
    { ...order, contact: { ...contact, fax: at('invalid-fax') } },
    { ...order, payment: payment.method },
    { ...order, payment: { method: [payment.method] } },
    { ...order, payment: { method: payment.method.repeat(10) } },
    { ...order, payment: { ...payment, cvc: at('invalid-cvc') } },
    { ...order, email: at('invalid-email2') },
    { ...order, items: [] },
    { ...order, currency: at('invalid-currency') },
  ];
  const refused = await Promise.all([
    ...bodies.map((body) => send('POST', '/v1/orders', { body })),
    send('POST', '/v1/orders', { rawBody: text.slice(0, -20), headers: json }),
    send('POST', '/v1/orders', {
      rawBody: `${text.slice(0, -1)},"contact":{"phone":"${at('invalid-second')}"}}`,
      headers: json,
    }),
    send('POST', '/v1/orders', { rawBody: text, headers: { 'content-type': 'text/plain' } }),
    send('POST', '/v1/orders', { body: order, headers: { 'if-match': '"v1"' } }),
    send('POST', '/v1/orders', { body: order, headers: bearer('wrong') }),
  ]);
  for (const { status, text } of refused) expect(status, text).toBeGreaterThanOrEqual(400);
}

/** Errors of Postgres that quote a row, and a commit whose outcome is unknown. */
async function faults(send: Send, canaries: Canaries, { database, proxy }: Broken): Promise<void> {
  const place = (name: string) =>
    send('POST', '/v1/orders', {
      body: orderOf(canaries, name),
      headers: { 'idempotency-key': randomUUID() },
    });
  const trap = proxy.trap(canaries.at('cut-name'), 'cutResponse');
  const cut = await place('cut');
  await trap.sprung;
  expect(cut.status).toBe(503);
  await database.query(
    `alter table order_personal_data add constraint canary
     check (shipping_address ->> 'name' <> '${canaries.at('refusedRow-name')}') not valid`,
  );
  expect((await place('refusedRow')).status).toBeGreaterThanOrEqual(500);
  await database.query('alter table order_personal_data drop constraint canary');
}

/** Reads that show no personal data, whoever asks. */
function readAll(api: HttpClient, { automatic, shipped }: OrderIds): Promise<HttpResponse[]> {
  const paths = [automatic, shipped].flatMap((id) =>
    ['?version=1', '?at=2099-01-01T00:00:00Z', '/events'].map((rest) => `${id}${rest}`),
  );
  return Promise.all([
    api.request('GET', '/v1/orders'),
    api.request('GET', `/v1/orders/${automatic}/fulfilment`),
    ...paths.map((path) => api.request('GET', `/v1/orders/${path}`)),
  ]);
}

/** The order of today shows it, and no payment method. */
async function expectShown(api: HttpClient, canaries: Canaries, ids: OrderIds): Promise<void> {
  const shown = async (id: string) =>
    canaries.foundIn((await api.request('GET', `/v1/orders/${id}`)).text).toSorted();
  const isShown = (place: string) => !place.endsWith('-method');
  expect(await shown(ids.byHand)).toEqual(placesOf(canaries, ['byHand']).filter(isShown));
  expect(await shown(ids.shipped)).toEqual(placesOf(canaries, ['changed']));
}

async function eraseAll(api: HttpClient, { byHand, automatic }: OrderIds): Promise<HttpResponse[]> {
  const responses: HttpResponse[] = [];
  for (const path of [
    `orders/${byHand}`,
    `orders/${byHand}`,
    `orders/${automatic}`,
    'customers/c-1',
  ]) {
    responses.push(await api.request('DELETE', `/v1/${path}/personal-data`));
  }
  expect(responses.map(({ status }) => status)).toEqual([200, 200, 200, 200]);
  expect(JSON.parse(responses[3]!.text)).toMatchObject({ refused: [], left: 0, nextCursor: null });
  responses.push(await api.request('GET', `/v1/orders/${byHand}`));
  return responses;
}

/** The search works: what is no personal data is found. */
function expectSearchable(messages: readonly ReadMessage[], service: TestService): void {
  const types = new Set(messages.map(({ headers }) => headers['ce_type']));
  expect(types).toContain('order.shipping_address_changed.v1');
  expect(types).toContain('order.personal_data_erased.v1');
  const log = service.log().join('\n');
  for (const level of [20, 30, 50]) expect(log).toContain(`"level":${level},`);
}

async function searched({ query }: TestDatabase, canaries: Canaries) {
  const { others, own } = await textsOf(query);
  expect(others).toContain('OrderPlaced');
  return { others: canaries.foundIn(others), own: canaries.foundIn(own).toSorted() };
}

/** Every event as it is stored, byte for byte. */
async function historyOf({ query }: TestDatabase): Promise<string[]> {
  const rows = await query<{ event: string }>(
    'select e::text as event from events e order by position',
  );
  return rows.map(({ event }) => event);
}

async function hasEvent({ query }: TestDatabase, orderId: string, type: string): Promise<boolean> {
  const found = await query('select from events where stream_id = $1 and type = $2', [
    orderId,
    type,
  ]);
  return found.length > 0;
}

/** The places that are kept of these. */
function placesOf(canaries: Canaries, names: readonly string[]): string[] {
  const places = names.flatMap((name) => {
    const { shippingAddress, ...more } = plantedData(canaries, name);
    return canaries.foundIn(
      JSON.stringify(name === 'changed' ? shippingAddress : { shippingAddress, ...more }),
    );
  });
  return places.toSorted();
}

function orderOf(canaries: Canaries, place: string) {
  return {
    customerId: 'c-1',
    currency: 'EUR',
    items: [{ sku: 'book', quantity: 1, priceCents: 1250 }],
    ...plantedData(canaries, place),
  };
}

function idIn({ text }: HttpResponse): string {
  return z.looseObject({ orderId: z.string() }).parse(JSON.parse(text)).orderId;
}
