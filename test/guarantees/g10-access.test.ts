import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { createApiKey } from '#src/auth/api-key.ts';
import { createAuthenticate } from '#src/auth/authentication.ts';
import { SCOPES } from '#src/auth/principal.ts';
import type { Access, Principal } from '#src/auth/principal.ts';
import { documentationRoutes } from '#src/http/documentation-routes.ts';
import { walkAccess } from '#test/support/access-walk.ts';
import type { Callers } from '#test/support/access-walk.ts';
import { bearer, createKey, keyIdOf, runKeys } from '#test/support/api-keys.ts';
import { createHttpClient } from '#test/support/http-client.ts';
import { skipReason } from '#test/support/infra.ts';
import { eventually } from '#test/support/poll.ts';
import { createSagaWorld, startReplica } from '#test/support/saga/world.ts';
import type { Replica, SagaWorld } from '#test/support/saga/world.ts';
import { ACCESS, everybody, services } from './access-of-operations.ts';
import { sampleChannel, sampleRoutes, sampleServer } from '../http/sample-server.ts';

const misspelt = (key: string) => key.slice(0, -1) + (key.endsWith('0') ? '1' : '0');
/** Callers without a valid token, whatever keys a service knows. */
const strangers = {
  nobody: {},
  'an empty header': { authorization: '' },
  'another scheme': { authorization: 'Basic b3NrXzE6' },
  'no token': { authorization: 'Bearer ' },
  'two tokens': { authorization: 'Bearer a b' },
  garbage: bearer('garbage'),
  'a token without a signature': bearer('eyJhbGciOiJub25lIn0.eyJzdWIiOiJhIn0.'),
  'an unknown key': bearer(createApiKey().text),
};

describe.skipIf(skipReason('postgres'))('an operation', () => {
  let world: SagaWorld;
  let replica: Replica;

  beforeAll(async () => {
    world = await createSagaWorld();
    replica = await startReplica(world, { env: { AUTH: 'on' } });
  });
  afterAll(async () => {
    await replica[Symbol.asyncDispose]();
    await world[Symbol.asyncDispose]();
  });

  test('lets in whom it names, and nobody else', async () => {
    const faults = await walkAccess(replica.api, ACCESS, await createCallers());
    expect(faults).toEqual([]);
  });

  test('takes a token from the header only', async () => {
    const key = await createKey(world.database.url);
    const { api } = replica;
    const asked = await Promise.all([
      api.request('GET', `/v1/orders?access_token=${key}`),
      api.request('GET', `/v1/orders?key=${key}`),
      api.request('GET', '/v1/orders', { headers: { cookie: `access_token=${key}` } }),
      api.request('GET', '/v1/orders', { headers: { 'x-api-key': key } }),
      api.request('GET', '/v1/orders', {
        rawHeaders: ['authorization', 'Bearer x', 'authorization', `Bearer ${key}`, 'host', 'h'],
      }),
    ]);
    expect(asked.map(({ status }) => status)).toEqual([401, 401, 401, 401, 400]);
    for (const { text } of asked) expect(text).not.toContain(key.slice(17));
  });

  test('is not done for a caller that is refused', async () => {
    const body = {
      customerId: 'c',
      currency: 'EUR',
      items: [{ sku: 's', quantity: 1, priceCents: 1 }],
    };
    const reader = await createKey(world.database.url, { scopes: ['orders:read'] });
    const key = { 'idempotency-key': 'refused' };
    for (const headers of [key, { ...key, ...bearer('x') }, { ...key, ...bearer(reader) }]) {
      await replica.api.request('POST', '/v1/orders', { body, headers });
    }
    const [written] = await world.database.query(
      'select (select count(*) from events) as events, (select count(*) from idempotency_keys) as keys',
    );
    expect(written).toEqual({ events: 0, keys: 0 });
  });

  /** API keys of every kind. */
  async function createCallers(): Promise<Callers> {
    const { url, query } = world.database;
    const create = async (scopes: readonly string[]) => bearer(await createKey(url, { scopes }));
    const only = new Map<string, Readonly<{ authorization: string }>>();
    const without = new Map<string, Readonly<{ authorization: string }>>();
    for (const scope of SCOPES) {
      only.set(scope, await create([scope]));
      without.set(scope, await create(SCOPES.filter((each) => each !== scope)));
    }
    const revoked = await createKey(url);
    await runKeys(url, 'revoke', keyIdOf(revoked));
    const expired = await createKey(url, { expires: '1s' });
    const customer = await createKey(url, { customer: 'c-9' });
    await query('update api_keys set scopes = $1 where key_id = $2', [SCOPES, keyIdOf(customer)]);
    await eventually(async () => {
      const { status } = await replica.api.request('GET', '/v1/orders', {
        headers: bearer(expired),
      });
      return status === 401;
    });
    return {
      invalid: {
        ...strangers,
        'a misspelt key': bearer(misspelt(expired)),
        'a revoked key': bearer(revoked),
        'an expired key': bearer(expired),
      },
      withOnly: (scope) => only.get(scope)!,
      without: (scope) => without.get(scope)!,
      customer: bearer(customer),
    };
  }
});

describe('the walk notices', () => {
  const access: Readonly<Record<string, Access>> = {
    makeThing: services('orders:read'),
    readThing: services('orders:read'),
    pokeThing: services('orders:read'),
    openapi: 'public',
    asyncapi: 'public',
  };
  const principals: Record<string, Principal> = {
    customer: { id: 'c', scopes: new Set(SCOPES), customerId: 'c' },
  };
  for (const scope of SCOPES) {
    principals[`only-${scope}`] = { id: 's', scopes: new Set([scope]) };
    principals[`without-${scope}`] = {
      id: 's',
      scopes: new Set(SCOPES.filter((each) => each !== scope)),
    };
  }
  const named = (name: string) => ({ authorization: name });
  const callers: Callers = {
    invalid: strangers,
    withOnly: (scope) => named(`only-${scope}`),
    without: (scope) => named(`without-${scope}`),
    customer: named('customer'),
  };
  const refuse = createAuthenticate([]);
  const authentication = async (headers: { authorization?: string | undefined }) =>
    principals[headers.authorization ?? ''] ?? refuse(headers);
  type Change = Parameters<typeof sampleServer>[0];

  /** The faults of a server with the sample routes, one of which may be changed. */
  async function faultsOf(change: Change = {}, changed?: Access) {
    await using server = sampleServer({
      authentication,
      ...change,
      routes: async (app) => {
        app.addHook('onRoute', (route) => {
          if (route.url.endsWith('/poke') && changed)
            route.config = { ...route.config, access: changed };
        });
        await app.register(sampleRoutes());
        await app.register(documentationRoutes, { channel: sampleChannel });
      },
    });
    const client = createHttpClient(`http://127.0.0.1:${await server.listen()}`);
    try {
      return await walkAccess(client, access, callers);
    } finally {
      client.close();
    }
  }

  test('nothing on a server that checks every route', async () => {
    expect(await faultsOf()).toEqual([]);
  });

  test('a route whose check is removed', async () => {
    const faults = await faultsOf({}, 'public');
    expect(faults).toContain(
      'pokeThing: nobody got 204 no refusal, not 401 unauthenticated Bearer',
    );
    expect(faults.every((fault) => fault.startsWith('pokeThing: '))).toBe(true);
  });

  test('a route that asks for another scope', async () => {
    expect(await faultsOf({}, services('stock:read'))).toContainEqual(
      expect.stringMatching(/^pokeThing: a service with orders:read only got 403/),
    );
  });

  test('a route that lets customers in', async () => {
    expect(await faultsOf({}, everybody('orders:read'))).toEqual([
      'pokeThing: a customer got 204 no refusal, not 403 services_only',
    ]);
  });

  test('a server that is open', async () => {
    const faults = await faultsOf({ authentication: 'off' });
    for (const name of ['makeThing', 'readThing', 'pokeThing']) {
      expect(faults).toContainEqual(
        expect.stringMatching(`^${name}: nobody got 2|^${name}: nobody got 4`),
      );
    }
  });

  test('a server that takes any token', async () => {
    const faults = await faultsOf({
      authentication: async () => principals['only-orders:read']!,
    });
    expect(faults).toContain(
      'readThing: garbage got 200 no refusal, not 401 unauthenticated Bearer',
    );
  });

  test('an operation that is not listed', async () => {
    await using server = sampleServer({
      authentication,
      routes: async (app) => {
        await app.register(sampleRoutes());
        await app.register(documentationRoutes, { channel: sampleChannel });
      },
    });
    const client = createHttpClient(`http://127.0.0.1:${await server.listen()}`);
    const { pokeThing: _, ...fewer } = access;
    expect(await walkAccess(client, fewer, callers)).toEqual([
      'pokeThing: nobody said who may call it',
    ]);
    client.close();
  });
});
