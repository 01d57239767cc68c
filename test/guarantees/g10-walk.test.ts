import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { z } from 'zod';
import { createApiKey } from '#src/auth/api-key.ts';
import { SCOPES } from '#src/auth/principal.ts';
import type { Access } from '#src/auth/principal.ts';
import { bearer, createKey, keyIdOf, runKeys } from '#test/support/api-keys.ts';
import type { HttpResponse } from '#test/support/http-client.ts';
import {
  createSigningKey,
  publicKeyAsSecretToken,
  startIdentityProvider,
  unsignedToken,
} from '#test/support/identity-provider.ts';
import type { IdentityProvider, TokenOptions } from '#test/support/identity-provider.ts';
import { skipReason } from '#test/support/infra.ts';
import { personal } from '#test/support/personal-data.ts';
import { eventually } from '#test/support/poll.ts';
import { refusalOf } from '#test/support/saga/api.ts';
import { createSagaWorld, startReplica } from '#test/support/saga/world.ts';
import type { Replica, SagaWorld } from '#test/support/saga/world.ts';
import { ACCESS } from './access-of-operations.ts';
import { deliverable } from '#test/support/order-api.ts';

/*
 * G10: every operation of the OpenAPI document x every way of not being entitled to it, with the data that each needs, so
 * that nothing but the caller is a reason to refuse.
 */
const item = { sku: 'book', quantity: 2, priceCents: 1250 };
const BODIES: Readonly<Record<string, unknown>> = {
  placeOrder: { customerId: 'c-1', currency: 'EUR', items: [item] },
  cancelOrder: { reason: 'late' },
  payOrder: { paymentId: 'pay-1', amountCents: 2500 },
  shipOrder: { trackingNumber: 'T-1', carrier: 'post' },
  refundOrder: { refundId: 'ref-1', amountCents: 1000 },
  resolveFulfilment: { step: 'refund', outcome: 'notDone', reason: 'not there' },
  deliverParcel: { trackingNumber: 'T-1' },
  returnItems: {
    returnId: 'r-1',
    items: [{ lineId: '1', quantity: 1 }],
    reason: 'too small',
    restock: false,
  },
  changeShippingAddress: personal.shippingAddress,
  setStock: { onHand: 7 },
  adjustStock: { delta: -2 },
};
/** `personal-data:read` only adds to what a service may read. */
const REQUIRED = SCOPES.filter((scope) => scope !== 'personal-data:read');
const REFUND = 'ref-0';
const MISSING = '01999e5c-7c1f-7d3a-9f52-3b6f0c9d2a11';
const document = z.looseObject({
  paths: z.record(z.string(), z.record(z.string(), z.looseObject({ operationId: z.string() }))),
});

type Operation = Readonly<{ id: string; method: string; path: string; access: Access }>;
type Guarded = Operation & Readonly<{ access: Exclude<Access, 'public'> }>;
const isGuarded = (operation: Operation): operation is Guarded => operation.access !== 'public';

describe.skipIf(skipReason('postgres'))('every operation', () => {
  let world: SagaWorld;
  let provider: IdentityProvider;
  let replica: Replica;
  let operations: Operation[];
  /** An order of the customer c-1 that was fulfilled, and has a refund of the provider. */
  let orderId: string;
  const revoked = { key: '' };
  const expired = { key: '' };

  beforeAll(async () => {
    [world, provider] = await Promise.all([createSagaWorld(), startIdentityProvider()]);
    replica = await startReplica(world, { env: provider.env });
    await world.setStock('book', 100);
    const { paths } = document.parse(JSON.parse((await send('GET', '/openapi.json')).text));
    operations = Object.entries(paths).flatMap(([path, methods]) =>
      Object.entries(methods).map(([method, { operationId: id }]) => ({
        id,
        method: method.toUpperCase(),
        path,
        access: ACCESS[id] ?? 'public',
      })),
    );
    orderId = await placeFulfilled();
    const { url } = world.database;
    [revoked.key, expired.key] = await Promise.all([
      createKey(url, { scopes: SCOPES }),
      createKey(url, { scopes: SCOPES, expires: '2s' }),
    ]);
    await eventually(() => isAccepted(revoked.key));
    await runKeys(url, 'revoke', keyIdOf(revoked.key));
    for (const { key } of [revoked, expired])
      await eventually(async () => !(await isAccepted(key)));
  });
  afterAll(async () => {
    await replica[Symbol.asyncDispose]();
    await provider[Symbol.asyncDispose]();
    await world[Symbol.asyncDispose]();
  });

  /** Headers in the order in which they are sent, so that one can be sent twice. */
  const send = (
    method: string,
    path: string,
    headers: readonly string[] = [],
    body?: unknown,
  ): Promise<HttpResponse> => {
    const rawBody = body === undefined ? undefined : JSON.stringify(body);
    const length = String(Buffer.byteLength(rawBody ?? ''));
    const ofBody = ['content-type', 'application/json', 'content-length', length];
    const rawHeaders = ['host', 'orders', ...(rawBody === undefined ? [] : ofBody), ...headers];
    return replica.api.request(method, path, { rawHeaders, ...(rawBody && { rawBody }) });
  };
  const isAccepted = async (key: string) =>
    (await send('GET', '/v1/orders', authorization(key))).status === 200;
  const placeFulfilled = async () => {
    const headers = authorization(
      await token({ claims: { scope: SCOPES.join(' ') + ' orders:all' } }),
    );
    const placed = await send('POST', '/v1/orders', headers, {
      customerId: 'c-1',
      currency: 'EUR',
      items: [item],
      ...deliverable,
      fulfilment: 'automatic',
    });
    const order = z.looseObject({ orderId: z.string() }).parse(JSON.parse(placed.text));
    const path = `/v1/orders/${order.orderId}`;
    await eventually(async () =>
      (await send('GET', path, headers)).text.includes('"fulfilment":"completed"'),
    );
    const refund = { refundId: REFUND, amountCents: 500 };
    expect((await send('POST', `${path}/refund`, headers, refund)).status).toBe(202);
    await eventually(async () =>
      (await send('GET', `${path}/refunds/${REFUND}`, headers)).text.includes('"refunded"'),
    );
    return order.orderId;
  };
  const token = (options?: TokenOptions) => provider.token(options);
  const authorization = (...tokens: readonly string[]) =>
    tokens.flatMap((text) => ['authorization', bearer(text).authorization]);
  const withScopes = (scopes: readonly string[], claims = {}) =>
    token({ claims: { scope: scopes.join(' '), ...claims } });

  const pathOf = ({ path }: Operation, order = orderId) =>
    path
      .replace('{orderId}', order)
      .replace('{refundId}', REFUND)
      .replace('{sku}', 'book')
      .replace('{customerId}', 'c-1');
  const call = (operation: Guarded, headers: readonly string[], order?: string) =>
    send(operation.method, pathOf(operation, order), headers, BODIES[operation.id]);
  const guarded = () => operations.filter(isGuarded);
  /** A GET route has a HEAD route, which is guarded by itself. */
  const heads = () =>
    guarded()
      .filter(({ method }) => method === 'GET')
      .map(({ id, path, access }): Guarded => ({ id, path, access, method: 'HEAD' }));
  /** Everything that a command could change. */
  const written = async () => {
    const [row] = await world.database.query(
      `select (select count(*) from events) as events,
              (select count(*) from idempotency_keys) as keys,
              (select md5(string_agg(p::text, ',' order by order_id)) from order_personal_data p) as personal,
              (select md5(string_agg(s::text, ',' order by sku)) from stock s) as stock`,
    );
    return row;
  };
  /** Calls every operation, and returns those that respond in another way than `expected` says. */
  const walk = async (
    headersOf: (operation: Guarded) => Promise<readonly string[]> | readonly string[],
    expected: (operation: Guarded) => string,
    among = [...guarded(), ...heads()],
  ) => {
    const before = await written();
    const holes = await Promise.all(
      among.map(async (operation) => {
        const response = await call(operation, await headersOf(operation));
        const seen = describeRefusal(response);
        const wanted = expected(operation);
        const isSame = operation.method === 'HEAD' ? sameHead(seen, wanted) : seen === wanted;
        return isSame ? [] : `${operation.method} ${operation.path}: ${seen}, not ${wanted}`;
      }),
    );
    expect(holes.flat()).toEqual([]);
    expect(await written()).toEqual(before);
  };

  test('is in the table of operations', () => {
    expect(operations.map(({ id }) => id).toSorted()).toEqual(Object.keys(ACCESS).toSorted());
    expect(guarded().length).toBeGreaterThan(15);
  });

  test('that is public takes no token, and ignores one', async () => {
    for (const operation of operations.filter((each) => !isGuarded(each))) {
      for (const headers of [[], authorization('garbage')]) {
        const { status } = await send(operation.method, operation.path, headers);
        expect({ operation, status }).toEqual({ operation, status: 200 });
      }
    }
  });

  test('wants a token', () =>
    walk(
      () => [],
      () => '401 unauthenticated, Bearer realm="orders"',
    ));

  test('wants it before it looks at the rest of the request', async () => {
    for (const { method, path } of guarded()) {
      const url = `${path}?nonsense=1`;
      const headers = ['content-type', 'text/plain', 'if-match', 'nonsense'];
      expect(refusalOf(await send(method, url, headers))).toMatch(/^401/);
    }
  });

  test.each<[string, readonly string[]]>([
    ['Basic', ['authorization', 'Basic dXNlcjpwYXNzd29yZA==']],
    ['no scheme', ['authorization', 'garbage']],
    ['no token', ['authorization', 'Bearer']],
    ['an empty token', ['authorization', 'Bearer ']],
    ['a token that is not one', ['authorization', 'Bearer a b']],
  ])('refuses an Authorization with %s', async (_, headers) => {
    await walk(
      () => headers,
      () => '401 unauthenticated, Bearer realm="orders"',
    );
  });

  test.each<[string, () => Promise<string> | string]>([
    ['garbage', () => 'garbage'],
    ['three parts of garbage', () => 'garbage.garbage.garbage'],
    ['an unknown API key', () => createApiKey().text],
    ['a misspelt API key', () => `${revoked.key.slice(0, -1)}x`],
    ['a revoked API key', () => revoked.key],
    ['an expired API key', () => expired.key],
    ['an expired JWT', () => token({ claims: { exp: seconds() - 60 } })],
    ['a JWT that is not yet valid', () => token({ claims: { nbf: seconds() + 60 } })],
    ['a JWT of the future', () => token({ claims: { iat: seconds() + 60 } })],
    ['an old JWT', () => token({ claims: { iat: seconds() - 90_000 } })],
    ['a JWT without an expiry', () => token({ claims: { exp: undefined } })],
    ['a JWT for another audience', () => token({ claims: { aud: 'stock' } })],
    ['a JWT of another issuer', () => token({ claims: { iss: 'https://evil.example/' } })],
    ['a JWT without a subject', () => token({ claims: { sub: undefined } })],
    ['a JWT with an unusable customer', () => token({ claims: { sub: 'c\u0000' } })],
    ['a JWT with alg none', () => unsignedToken()],
    ['a JWT with HS256 and the public key', () => publicKeyAsSecretToken(provider.key())],
    ['a JWT with an unknown kid', () => token({ header: { kid: 'unknown' } })],
    ['a JWT signed by somebody else', async () => token({ key: await forgery() })],
    ['a JWT that brings its key', async () => bringsItsKey()],
    ['a token for a logout', () => token({ header: { typ: 'logout+jwt' } })],
    ['a JWT without its signature', async () => (await token()).replace(/[^.]*$/, '')],
  ])('refuses %s', async (_, make) => {
    const headers = authorization(await make());
    await walk(
      () => headers,
      () => '401 unauthenticated, Bearer realm="orders", error="invalid_token"',
    );
  });

  test('refuses two tokens, also if both are valid', async () => {
    const valid = await withScopes([...SCOPES, 'orders:all']);
    const headers = authorization(valid, valid);
    await walk(
      () => headers,
      () => '400 invalid_request',
    );
  });

  test.each(REQUIRED)('that requires the scope %s names it if it is missing', async (scope) => {
    const others = SCOPES.filter((each) => each !== scope);
    const claims = { sub: 'shop' };
    const headers = authorization(await withScopes([...others, 'orders:all'], claims));
    const key = authorization(await usableKey(others));
    const requiring = [...guarded(), ...heads()].filter(({ access }) => access.scope === scope);
    expect(requiring).not.toEqual([]);
    for (const token of [headers, key]) {
      await walk(
        () => token,
        () =>
          `403 insufficient_scope, Bearer realm="orders", error="insufficient_scope", scope="${scope}"`,
        requiring,
      );
    }
  });

  test.each([
    'orders:reader orders:writer',
    'orders:read orders:writ',
    'ORDERS:WRITE',
    'orders:*',
    '*',
    'orders:all',
    '',
  ])('takes a scope as it is written, and %j is none of them', async (scope) => {
    const headers = authorization(await withScopes([scope]));
    await walk(
      () => headers,
      ({ access }) =>
        `403 insufficient_scope, Bearer realm="orders", error="insufficient_scope", scope="${access.scope}"`,
      guarded().filter(({ access }) => !scope.split(' ').includes(access.scope)),
    );
  });

  test('lets a service in with the one scope that it requires', async () => {
    for (const scope of SCOPES) {
      const jwt = await withScopes([scope, 'orders:all'], { sub: 'shop' });
      const key = await usableKey([scope]);
      for (const operation of guarded().filter(({ access }) => access.scope === scope)) {
        for (const headers of [authorization(jwt), authorization(key)]) {
          const response = await call(operation, headers);
          expect([401, 403, 500], `${operation.id}: ${response.text}`).not.toContain(
            response.status,
          );
        }
      }
    }
  });

  describe('of a customer', () => {
    const ofServices = () => [...guarded(), ...heads()].filter(({ access }) => !access.customers);
    const onOrders = () =>
      [...guarded(), ...heads()].filter(
        ({ access, path }) => access.customers && path.includes('{orderId}'),
      );
    /** A JWT may have any scope. A key of a customer has those of customers only. */
    const tokensOf = async (customer: string) => [
      await withScopes(SCOPES, { sub: customer }),
      await usableKey(['orders:read', 'orders:write'], customer),
    ];

    test('is not one for services', async () => {
      const [jwt, key] = await tokensOf('c-1');
      await walk(
        () => authorization(jwt!),
        () => '403 services_only',
        ofServices(),
      );
      await walk(
        () => authorization(key!),
        ({ access: { scope } }) =>
          scope === 'orders:write'
            ? '403 services_only'
            : `403 insufficient_scope, Bearer realm="orders", error="insufficient_scope", scope="${scope}"`,
        ofServices(),
      );
    });

    test("cannot tell another customer's order from one that is missing", async () => {
      const before = await written();
      for (const text of await tokensOf('c-2')) {
        for (const operation of onOrders()) {
          const headers = authorization(text);
          const other = await call(operation, headers);
          const missing = await call(operation, headers, MISSING);
          expect(comparable(other)).toEqual(comparable(missing));
          expect(other.status, operation.id).toBe(404);
        }
      }
      expect(await written()).toEqual(before);
    });

    test('shows and makes none of another customer', async () => {
      for (const text of await tokensOf('c-2')) {
        const headers = authorization(text);
        for (const query of ['', '?customerId=c-1']) {
          const { text: page } = await send('GET', `/v1/orders${query}`, headers);
          expect(JSON.parse(page)).toEqual({ data: [], nextCursor: null });
        }
        const place = guarded().find(({ id }) => id === 'placeOrder')!;
        expect(refusalOf(await call(place, headers))).toBe('403 other_customer');
      }
    });

    test('works for its own order', async () => {
      for (const text of await tokensOf('c-1')) {
        for (const operation of onOrders()) {
          const { status } = await call(operation, authorization(text));
          expect([200, 409], operation.id).toContain(status);
        }
      }
    });
  });

  const forgery = () => createSigningKey(provider.key().kid);
  const bringsItsKey = async () => {
    const key = await createSigningKey(randomUUID());
    return token({ key, header: { jwk: key.jwk, jku: provider.url } });
  };
  /** Waits until the replica knows it. */
  const usableKey = async (scopes: readonly string[], customer?: string) => {
    const key = await createKey(world.database.url, { scopes, ...(customer && { customer }) });
    const headers = authorization(key);
    await eventually(async () => (await send('GET', '/v1/stock', headers)).status !== 401);
    return key;
  };
});

const seconds = () => Math.floor(Date.now() / 1000);

/** `401 unauthenticated, Bearer realm="orders"` */
function describeRefusal(response: HttpResponse): string {
  const { status, headers, text } = response;
  const challenge = headers['www-authenticate'];
  const what = status < 400 || text === '' ? String(status) : refusalOf(response);
  return challenge === undefined ? what : `${what}, ${challenge}`;
}

/** The response to HEAD has no body, so no code. */
function sameHead(seen: string, wanted: string): boolean {
  return seen === wanted.replace(/^(\d+) \w+/, '$1');
}

/** All of a response but its time and the ids of the request and the order. */
function comparable({ status, headers, text }: HttpResponse) {
  return {
    status,
    headers: { ...headers, date: '', 'x-request-id': '', 'content-length': '' },
    text: text.replaceAll(/[0-9a-f]{8}-[0-9a-f-]{27}/g, '<id>'),
  };
}
