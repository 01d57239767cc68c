import { randomUUID } from 'node:crypto';
import { Client } from 'pg';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { z } from 'zod';
import type { HttpResponse, HttpClient, RequestOptions } from '#test/support/http-client.ts';
import { skipReason } from '#test/support/infra.ts';
import { eventually } from '#test/support/poll.ts';
import { TWO_BOOKS } from '#test/support/saga/api.ts';
import type { SagaApi } from '#test/support/saga/api.ts';
import { createSagaWorld, startReplica } from '#test/support/saga/world.ts';
import type { Replica, SagaWorld } from '#test/support/saga/world.ts';
import { startTcpProxy } from '#test/support/tcp-proxy.ts';
import { commandScenarios } from './command-scenarios.ts';
import type { Ready } from './command-scenarios.ts';
import { ID, provokeRefusals, send } from './refusals.ts';
import type { Walk } from './refusals.ts';

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
    await provokeRefusals(walk);
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

  const commands = () => operations.filter(({ method }) => method !== 'get');
  const addressOf = ({ path }: Operation) =>
    path
      .replace('{orderId}', ID)
      .replace('{sku}', 'none')
      .replace('{customerId}', 'none')
      .replace('{refundId}', 'none');
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
