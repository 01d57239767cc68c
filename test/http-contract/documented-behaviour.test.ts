import { randomUUID } from 'node:crypto';
import { Client } from 'pg';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { z } from 'zod';
import type { HttpResponse, HttpClient, RequestOptions } from '#test/support/http-client.ts';
import { skipReason } from '#test/support/infra.ts';
import { eventually } from '#test/support/poll.ts';
import { personal } from '#test/support/personal-data.ts';
import { TWO_BOOKS, orderIn } from '#test/support/saga/api.ts';
import type { SagaApi } from '#test/support/saga/api.ts';
import { createSagaWorld, startReplica } from '#test/support/saga/world.ts';
import type { Replica, SagaWorld } from '#test/support/saga/world.ts';
import { startTcpProxy } from '#test/support/tcp-proxy.ts';
import { commandScenarios } from './command-scenarios.ts';
import type { Ready } from './command-scenarios.ts';
import { deliverable } from '#test/support/order-api.ts';

/*
 * The OpenAPI document describes what the service does: a walk through the service provokes every status and
 * code in the document, and no other.
 */

/** Provoked elsewhere: they take a race, an overload, a clock that is off or a fault of the service. */
const ELSEWHERE = new Set([
  'internal',
  'overloaded',
  'rate_limited',
  'outbox_full',
  'version_conflict',
  'clock_off',
]);
const ID = '01999e5c-7c1f-7d3a-9f52-3b6f0c9d2a11';

const operationShape = z.looseObject({
  operationId: z.string(),
  responses: z.record(
    z.string(),
    z.looseObject({ content: z.record(z.string(), z.unknown()).optional() }),
  ),
});
const problemContent = z.looseObject({
  schema: z.looseObject({
    allOf: z.tuple([
      z.unknown(),
      z.looseObject({
        properties: z.looseObject({ code: z.looseObject({ enum: z.array(z.string()) }) }),
      }),
    ]),
  }),
});

type Operation = Readonly<{ method: string; path: string; spec: z.infer<typeof operationShape> }>;

describe.skipIf(skipReason('postgres'))('the OpenAPI document', () => {
  let world: SagaWorld;
  let replica: Replica;
  let operations: readonly Operation[];
  const seen = new Set<string>();

  beforeAll(async () => {
    world = await createSagaWorld();
    await using handless = await startReplica(
      { ...world, env: {} },
      { env: { PAYMENT_URL: '', SHIPPING_URL: '' } },
    );
    replica = await startReplica(world);
    operations = await readOperations(replica.api);
    const walk = {
      world,
      able: recorded(replica.api),
      unable: recorded(handless.api),
      scenarios: commandScenarios(world, recorded(replica.api)),
    };
    await provokeFaultsOfRequests(walk);
    await provokeGuards(walk);
    await provokeRefusalsOfOrders(walk);
    await provokeRefusalsOfPersonalData(walk);
    await provokeRefusalsOfFulfilments(walk);
    await provokeRefusalsOfRefunds(walk);
    await provokeRefusalsOfStock(walk);
    await provokeReads(walk);
    await provokeOutages(walk);
  });
  afterAll(async () => {
    await replica[Symbol.asyncDispose]();
    await world[Symbol.asyncDispose]();
  });

  test('lists every status and code that occurred', () => {
    const named = new Set(operations.flatMap(namedBy));
    expect([...seen].filter((response) => !named.has(response))).toEqual([]);
  });

  test('lists no status or code that never occurs', () => {
    const never = operations.flatMap(namedBy).filter((response) => {
      const code = response.split(' ').at(-1)!;
      return !seen.has(response) && !ELSEWHERE.has(code);
    });
    expect(never).toEqual([]);
  });

  /** The same client, whose responses are noted down. */
  function recorded(api: SagaApi): SagaApi {
    const request: HttpClient['request'] = async (method, path, options) => {
      const response = await api.request(method, path, options);
      const operation = operations.find((each) => isAt(each, method, path));
      if (operation) seen.add(`${operation.spec.operationId} ${toldBy(response)}`);
      return response;
    };
    return {
      ...api,
      request,
      command: (name, orderId, body) =>
        request('POST', `/v1/orders/${orderId}/${name}`, {
          ...(body !== undefined && { body }),
          ...(name.endsWith('/resolve') && { headers: { 'if-match': '*' } }),
        }),
    };
  }

  type Walk = Readonly<{
    world: SagaWorld;
    able: SagaApi;
    /** Without providers. */
    unable: SagaApi;
    scenarios: ReturnType<typeof commandScenarios>;
  }>;

  const commands = () => operations.filter(({ method }) => method !== 'get');
  const addressOf = ({ path }: Operation) =>
    path
      .replace('{orderId}', ID)
      .replace('{sku}', 'none')
      .replace('{customerId}', 'none')
      .replace('{refundId}', 'none');
  const send = (api: SagaApi, { method, path, body }: Ready, headers = {}) =>
    api.request(method, path, {
      ...(body !== undefined && { rawBody: JSON.stringify(body) }),
      headers: { ...(body !== undefined && { 'content-type': 'application/json' }), ...headers },
    });

  async function provokeFaultsOfRequests({ able }: Walk): Promise<void> {
    for (const operation of operations) {
      const { method, path } = operation;
      const ask = (options: RequestOptions, address = addressOf(operation)) =>
        able.request(method.toUpperCase(), address, options);
      const needed = { 'if-match': '*' };
      await ask(
        { headers: path.endsWith('resolve') ? needed : {} },
        `${addressOf(operation)}?x=%ff`,
      );
      await ask(
        {
          ...(method !== 'get' && { body: { x: 1 } }),
          ...(path.endsWith('resolve') && {
            headers: { 'content-type': 'application/json', ...needed },
            rawBody: '{"x":1}',
          }),
        },
        `${addressOf(operation)}?x=1`,
      );
      if (path.includes('{')) await ask({}, path.replace(/\{\w+\}/, 'x'.repeat(201)));
      if (method === 'get') continue;
      await ask({ rawBody: '{' });
      await ask({ rawBody: ' '.repeat(300_000) });
      await ask({ rawBody: 'x', headers: { 'content-type': 'text/plain' } });
      await ask({ headers: { 'sec-fetch-site': 'cross-site' } });
      await ask({ headers: { 'if-match': '"a"', 'if-none-match': '"a"' } });
    }
  }

  async function provokeGuards({ able, scenarios, world: { database } }: Walk): Promise<void> {
    const blocker = new Client({ connectionString: database.url });
    await blocker.connect();
    for (const { spec } of commands()) {
      const name = spec.operationId;
      const ready = await scenarios[name]!();
      const needed = name.startsWith('resolve') ? { 'if-match': '*' } : {};
      for (const tag of ['"v999"', 'W/"v1"']) await send(able, ready, { 'if-match': tag });
      await send(able, ready);
      await send(able, ready, { ...needed, 'if-none-match': '*' });
      const headers = { ...needed, 'idempotency-key': randomUUID() };
      await blocker.query('begin; lock table idempotency_keys in access exclusive mode');
      const both = [1, 2].map(() => send(able, ready, headers));
      await Promise.race(both);
      await blocker.query('rollback');
      await Promise.all(both);
      await send(able, ready, { ...headers, prefer: 'return=minimal' });
      const other = { ...headers, 'idempotency-key': randomUUID() };
      const paid = await scenarios['payOrder']!();
      await send(able, paid, { 'idempotency-key': other['idempotency-key'] });
      await send(able, name === 'payOrder' ? { ...paid, body: paid.otherBody } : ready, other);
      await send(able, await scenarios[name]!(), needed);
    }
    await blocker.end();
  }

  async function provokeRefusalsOfOrders({ able, unable, scenarios, world }: Walk): Promise<void> {
    const { simulator, setStock } = world;
    const bodies = {
      pay: { paymentId: 'p', amountCents: 2500 },
      ship: { trackingNumber: 't', carrier: 'c' },
      cancel: { reason: 'r' },
      refund: { refundId: 'r', amountCents: 1 },
      fulfil: undefined,
    } as const;
    type Name = keyof typeof bodies;
    const command = (name: Name, orderId: string, change = {}) =>
      able.command(name, orderId, bodies[name] && { ...bodies[name], ...change });
    const all = async (orderId: string) => {
      for (const name of ['ship', 'refund', 'cancel', 'fulfil'] as const)
        await command(name, orderId);
    };
    const placed = () => able.placed(TWO_BOOKS, 'manual');
    await send(able, {
      ...(await scenarios['placeOrder']!()),
      body: {
        customerId: 'c',
        currency: 'EUR',
        items: [{ sku: 's', quantity: 100_000, priceCents: 1_000_000_000_000 }],
      },
    });
    await unable.place(TWO_BOOKS, { fulfilment: 'automatic' });
    await unable.request('POST', '/v1/orders', {
      body: {
        customerId: 'c',
        currency: 'EUR',
        items: TWO_BOOKS,
        ...deliverable,
        fulfilment: 'automatic',
      },
    });
    await unable.command('fulfil', await placed());
    for (const name of ['pay', 'ship', 'cancel', 'refund', 'fulfil'] as const)
      await command(name, ID);

    const shipped = await placed();
    await command('ship', shipped);
    await command('pay', shipped);
    await command('pay', shipped, { amountCents: 1 });
    await command('pay', shipped, { paymentId: 'q', amountCents: 0 });
    await command('fulfil', shipped);
    await command('refund', shipped);
    await command('ship', shipped);
    await command('ship', shipped, { trackingNumber: 'u' });
    await all(shipped);
    const cancelled = await placed();
    for (const name of ['pay', 'cancel', 'refund', 'ship', 'fulfil'] as const) {
      await command(name, cancelled);
    }
    await command('refund', cancelled, { amountCents: 9000, refundId: 'x' });
    await command('refund', cancelled, { amountCents: 2 });
    for (let part = 0; part <= 100; part += 1) {
      await command('pay', cancelled, { paymentId: `p-${part}`, amountCents: 100 });
      await command('refund', cancelled, { refundId: `r-${part}` });
    }

    await setStock('book', 1_000);
    for (const operation of ['capture', 'ship'] as const) {
      const orderId = await placed();
      await simulator.addFault({ operation, orderId, fault: 'hold', times: 1 });
      await command('fulfil', orderId);
      await simulator.nextCall({ operation, orderId });
      await all(orderId);
      await simulator.release();
    }
  }

  async function provokeRefusalsOfPersonalData({ able, world: { simulator } }: Walk) {
    const body = { ...personal.shippingAddress, city: 'Bonn' };
    const put = (id: string) => able.request('PUT', `/v1/orders/${id}/shipping-address`, { body });
    const erase = (id: string) => able.request('DELETE', `/v1/orders/${id}/personal-data`);
    const placed = async () => {
      const order = { customerId: 'c', currency: 'EUR', items: TWO_BOOKS, ...personal };
      return orderIn(await able.request('POST', '/v1/orders', { body: order })).orderId;
    };
    const parcel = { trackingNumber: 't', carrier: 'c' };
    for (const commands of [
      [['cancel', { reason: 'r' }]],
      [
        ['pay', { paymentId: 'p', amountCents: 2500 }],
        ['ship', { ...parcel, items: [{ lineId: '1', quantity: 1 }] }],
      ],
      [
        ['pay', { paymentId: 'p', amountCents: 2500 }],
        ['ship', parcel],
      ],
    ] as const) {
      const orderId = await placed();
      for (const [name, body] of commands) await able.command(name, orderId, body);
      await put(orderId);
    }
    await able.request('DELETE', '/v1/customers/c/personal-data', {
      headers: { prefer: 'return=minimal' },
    });
    const erased = await placed();
    for (const orderId of [ID, erased]) await erase(orderId);
    for (const orderId of [ID, erased]) await put(orderId);
    const running = await placed();
    await simulator.addFault({ operation: 'ship', orderId: running, fault: 'hold', times: 1 });
    await able.command('fulfil', running);
    await simulator.nextCall({ operation: 'ship', orderId: running });
    await put(running);
    await erase(running);
    await simulator.release();
  }

  async function provokeRefusalsOfFulfilments({ able, unable, scenarios }: Walk): Promise<void> {
    const word = { step: 'capture', outcome: 'notDone', reason: 'r' };
    const orderId = await able.placed();
    await eventually(async () => (await able.fulfilment(orderId)).state === 'completed');
    const { path } = await scenarios['retryFulfilment']!();
    const stuck = path.split('/')[3]!;
    await able.request('GET', `/v1/orders/${stuck}/fulfilment`);
    for (const id of [ID, orderId, stuck]) {
      await able.request('GET', `/v1/orders/${id}/fulfilment`);
      await able.command('fulfilment/resolve', id, word);
      if (id === stuck) {
        await unable.command('fulfilment/retry', id);
        await unable.command('fulfilment/resolve', id, { ...word, step: 'refund' });
      }
      await able.command('fulfilment/retry', id);
    }
  }

  async function provokeRefusalsOfRefunds({ able, unable, scenarios }: Walk): Promise<void> {
    const word = { step: 'capture', outcome: 'notDone', reason: 'r' };
    const { path } = await scenarios['retryRefund']!();
    const orderId = path.split('/')[3]!;
    const recorded = { refundId: 'ref-2', amountCents: 1, recordOnly: true };
    await able.command('refund', orderId, recorded);
    await unable.command('refund', orderId, { refundId: 'ref-3', amountCents: 1 });
    await unable.command('refunds/ref-1/retry', orderId);
    await unable.command('refunds/ref-1/resolve', orderId, { ...word, step: 'refund' });
    for (const refundId of ['none', 'ref-2', 'ref-1']) {
      await able.command(`refunds/${refundId}/resolve`, orderId, word);
      await able.command(`refunds/${refundId}/retry`, orderId);
    }
  }

  async function provokeRefusalsOfStock({
    able,
    scenarios,
    world: { database },
  }: Walk): Promise<void> {
    const { path, method } = await scenarios['setStock']!();
    const adjust = (delta: number, address = path) =>
      send(able, { method: 'POST', path: `${address}/adjust`, body: { delta } });
    await send(able, { method, path: `${path}-new`, body: { onHand: 1 } });
    await adjust(1_000_000_000);
    await adjust(1, '/v1/stock/nobody');
    await database.query('update stock set reserved = on_hand where on_hand > 0');
    await adjust(-1);
    await send(able, { method, path, body: { onHand: 0 } });
    await database.query('update stock set reserved = 0');
  }

  async function provokeReads({ able }: Walk): Promise<void> {
    const orderId = await able.placed(TWO_BOOKS, 'automatic');
    await able.request('GET', `/v1/orders/${orderId}?version=99`);
    await able.request('GET', `/v1/orders/${orderId}`, { headers: { accept: 'text/html' } });
    await able.request('GET', `/v1/orders?cursor=e30`);
    await eventually(async () => (await able.fulfilment(orderId)).state === 'completed');
    await able.command('refund', orderId, { refundId: 'ref-1', amountCents: 1 });
    await eventually(async () => (await able.refunds(orderId))[0]?.state === 'refunded');
    for (const operation of operations.filter(({ method }) => method === 'get')) {
      await able.request('GET', addressOf(operation));
      const address = operation.path
        .replace('{orderId}', orderId)
        .replace('{sku}', 'book')
        .replace('{refundId}', 'ref-1');
      const { headers } = await able.request('GET', address);
      await able.request('GET', address, { headers: { 'if-none-match': String(headers['etag']) } });
      await able.request('GET', address, { headers: { 'if-none-match': '*' } });
    }
  }

  async function provokeOutages({ scenarios, world: { database, env } }: Walk): Promise<void> {
    const proxy = await startTcpProxy(database.url);
    const cut = await startReplica({ database: { ...database, url: proxy.url }, env });
    const api = recorded(cut.api);
    const readies = new Map<string, Ready>();
    for (const { spec } of commands())
      readies.set(spec.operationId, await scenarios[spec.operationId]!());
    const needed = { 'if-match': '*' };
    const headersOf = (name: string) => (name.startsWith('resolve') ? needed : {});
    for (const [name, ready] of readies) {
      const words = name.endsWith('Stock') ? 'change_stock' : 'write_units';
      const isUnknown = async () => {
        proxy.trap(words, 'cutResponse');
        const { text } = await send(api, await scenarios[name]!(), headersOf(name));
        return text.includes('outcome_unknown');
      };
      await eventually(isUnknown);
      readies.set(name, ready);
    }
    await proxy[Symbol.asyncDispose]();
    for (const [name, ready] of readies) await send(api, ready, headersOf(name));
    for (const operation of operations.filter(({ method }) => method === 'get')) {
      await api.request('GET', addressOf(operation));
    }
    await cut[Symbol.asyncDispose]();
  }
});

async function readOperations(api: SagaApi): Promise<Operation[]> {
  const { paths } = z
    .looseObject({ paths: z.record(z.string(), z.record(z.string(), operationShape)) })
    .parse(JSON.parse((await api.request('GET', '/openapi.json')).text));
  return Object.entries(paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, spec]) => ({ method, path, spec })),
  );
}

/** "operationId status", and the code of each problem. */
function namedBy({ spec: { operationId, responses } }: Operation): string[] {
  return Object.entries(responses).flatMap(([status, { content = {} }]) => {
    const problem = content['application/problem+json'];
    const codes = problem ? problemContent.parse(problem).schema.allOf[1].properties.code.enum : [];
    const isPlain = problem === undefined || Object.keys(content).length > 1;
    const told = codes.map((code) => `${operationId} ${status} ${code}`);
    return isPlain ? told.concat(`${operationId} ${status}`) : told;
  });
}

function toldBy({ status, headers, text }: HttpResponse): string {
  if (headers['content-type']?.startsWith('application/problem+json') !== true) return `${status}`;
  return `${status} ${z.looseObject({ code: z.string() }).parse(JSON.parse(text)).code}`;
}

function isAt({ method, path }: Operation, asked: string, address: string): boolean {
  const pattern = new RegExp(
    `^${path.replaceAll(/\{\w+\}/g, '[^/]+').replaceAll('.', '\\.')}(\\?|$)`,
  );
  return method === asked.toLowerCase() && pattern.test(address);
}
