import { describe, expect, test } from 'vitest';
import { createAuthenticate } from '#src/auth/authentication.ts';
import type { Principal } from '#src/auth/principal.ts';
import { unauthenticated } from '#src/http/access.ts';
import { goodThing, sampleRoutes, sampleServer, THING_ID } from './sample-server.ts';

const principals: Readonly<Record<string, Principal>> = {
  reader: { id: 'key:1', scopes: new Set(['orders:read']) },
  customer: { id: 'key:2', scopes: new Set(['orders:read']), customerId: 'c-1' },
  other: { id: 'key:3', scopes: new Set(['stock:read']) },
};
const authentication = createAuthenticate([
  {
    isMine: (token) => token in principals || token === 'stranger',
    authenticate: async (token) => {
      const principal = principals[token];
      if (!principal) throw unauthenticated('The key is unknown.', 'invalid_token');
      return principal;
    },
  },
]);
const path = `/v1/things/${THING_ID}`;

describe('a route that requires a scope', () => {
  test.each([
    [undefined, 'Bearer realm="orders"'],
    ['', 'Bearer realm="orders"'],
    ['reader', 'Bearer realm="orders"'],
    ['Basic reader', 'Bearer realm="orders"'],
    ['Bearer', 'Bearer realm="orders"'],
    ['Bearer a b', 'Bearer realm="orders"'],
    ['Bearer a\u00e9', 'Bearer realm="orders"'],
    ['Bearer stranger', 'Bearer realm="orders", error="invalid_token"'],
    ['Bearer of-no-kind', 'Bearer realm="orders", error="invalid_token"'],
  ])('refuses the Authorization %j, before the body is read', async (authorization, challenge) => {
    await using server = sampleServer({ authentication });
    const response = await server.app.inject({
      method: 'POST',
      url: '/v1/things',
      headers: {
        'content-type': 'text/plain',
        ...(authorization !== undefined && { authorization }),
      },
      body: 'not JSON',
    });
    expect(response.statusCode).toBe(401);
    expect(response.headers['www-authenticate']).toBe(challenge);
    expect(response.json().code).toBe('unauthenticated');
    expect(response.body).not.toMatch(/reader|stranger|of-no-kind/);
  });

  test.each(['Bearer reader', 'bearer reader', 'BEARER   reader'])(
    'admits a principal that has it: %s',
    async (authorization) => {
      await using server = sampleServer({ authentication });
      const response = await server.app.inject({ url: path, headers: { authorization } });
      expect(response.statusCode).toBe(200);
    },
  );

  test('names the scope to a principal that lacks it', async () => {
    await using server = sampleServer({ authentication });
    const headers = { authorization: 'Bearer other' };
    for (const url of [path, '/v1/things/not-even-an-id']) {
      const response = await server.app.inject({ url, headers });
      expect(response.statusCode).toBe(403);
      expect(response.json()).toMatchObject({
        code: 'insufficient_scope',
        detail: expect.stringContaining('orders:read'),
      });
      expect(response.headers['www-authenticate']).toBe(
        'Bearer realm="orders", error="insufficient_scope", scope="orders:read"',
      );
    }
  });

  test('refuses a customer if it is for services only', async () => {
    await using server = sampleServer({ authentication });
    const headers = { authorization: 'Bearer customer' };
    const response = await server.app.inject({ url: path, headers });
    expect(response.statusCode).toBe(403);
    expect(response.json().code).toBe('services_only');
  });

  test('checks HEAD like GET', async () => {
    await using server = sampleServer({ authentication });
    expect((await server.app.inject({ method: 'HEAD', url: path })).statusCode).toBe(401);
  });
});

describe('a principal', () => {
  test('has its own idempotency keys, and is known to the handler', async () => {
    const seen: unknown[] = [];
    const routes = sampleRoutes(async ({ keyed, metadata }) => {
      seen.push([keyed?.ref, metadata.actor]);
    });
    const both: Record<string, Principal> = {
      a: { id: 'key:a', scopes: new Set(['orders:read']) },
      b: { id: 'key:b', scopes: new Set(['orders:read']) },
    };
    await using server = sampleServer({
      routes,
      authentication: async ({ authorization }) => both[authorization ?? '']!,
    });
    for (const authorization of ['a', 'b']) {
      await server.app.inject({
        method: 'POST',
        url: '/v1/things',
        headers: { authorization, 'idempotency-key': 'k' },
        body: goodThing,
      });
    }
    expect(seen).toEqual([
      [{ principal: 'key:a', key: 'k' }, 'key:a'],
      [{ principal: 'key:b', key: 'k' }, 'key:b'],
    ]);
  });
});

describe('a route that does not say who may call it', () => {
  test('does not start', async () => {
    await using server = sampleServer({
      routes: async (app) => {
        app.get('/x', async () => {});
      },
    });
    await expect(server.app.ready()).rejects.toThrow('GET /x: config.access must say who may call');
  });
});
