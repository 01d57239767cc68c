import { setImmediate } from 'node:timers/promises';
import { describe, expect, test } from 'vitest';
import { createMetrics } from '#src/http/metrics.ts';
import { prefersMinimal } from '#src/http/preferences.ts';
import { Problem } from '#src/http/problem.ts';
import { eventually } from '#test/support/poll.ts';
import { rawClient, requestText } from './raw-client.ts';
import {
  THING_ID,
  busy,
  goodThing,
  sampleRoutes,
  sampleServer,
  thingBusy,
} from './sample-server.ts';

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/;
const REQUEST_FIELDS = ['requestId', 'method', 'route', 'path', 'status', 'durationMs', 'msg'];

/** A server whose handlers fail with `error`. */
const failing = (error: unknown) =>
  sampleServer({
    routes: sampleRoutes(async () => {
      throw error;
    }),
  });

describe('an unknown path', () => {
  test.each([
    '/',
    '/nope',
    '//v1/things',
    '/v1//things',
    '/V1/things',
    '/v1/things/a/b/c',
    '/v1/things%2F',
  ])('(%s) gets a 404 problem', async (url) => {
    await using server = sampleServer();
    const client = await rawClient(await server.listen());
    client.socket.write(requestText('GET', url, ['connection: close']));
    await client.ended;
    expect(client.received()).toMatch(/^HTTP\/1.1 404 /);
    expect(client.received()).toContain('content-type: application/problem+json');
    expect(client.received()).toContain('"code":"route_not_found"');
  });

  test('gets 404 even with a body that is not JSON', async () => {
    await using server = sampleServer();
    const headers = { 'content-type': 'application/json' };
    const response = await server.app.inject({
      method: 'POST',
      url: '/nope',
      headers,
      payload: '{',
    });
    expect(response.json()).toMatchObject({ status: 404, code: 'route_not_found' });
  });
});

describe('a path with an invalid part', () => {
  test.each([
    ['/v1/things/%zz', 400, 'malformed_request'],
    ['/%', 400, 'malformed_request'],
    ['/v1/things/%ff', 400, 'malformed_request'],
    [`/v1/things/${'x'.repeat(300)}`, 414, 'uri_too_long'],
    ['/v1/things/%2e%2e', 400, 'invalid_request'],
    ['/v1/things/%2e', 400, 'invalid_request'],
    ['/v1/things/..', 400, 'invalid_request'],
    ['/v1/things/', 400, 'invalid_request'],
    ['/v1/things/a%2Fb', 400, 'invalid_request'],
    ['/v1/things/a%00b', 400, 'invalid_request'],
  ])('(%s) gets %i', async (url, status, code) => {
    await using server = sampleServer();
    const client = await rawClient(await server.listen());
    client.socket.write(requestText('GET', url, ['connection: close']));
    await client.ended;
    expect(client.received()).toMatch(new RegExp(`^HTTP/1.1 ${status} `));
    expect(client.received()).toContain(`"code":"${code}"`);
    expect(client.received()).toContain('x-content-type-options: nosniff');
    expect(server.lines).toHaveLength(1);
    expect(server.lines[0]).toMatchObject({ msg: 'request', status });
  });
});

describe('a method that a path does not support', () => {
  test.each([
    ['DELETE', '/v1/things', 'POST'],
    ['GET', '/v1/things', 'POST'],
    ['OPTIONS', '/v1/things', 'POST'],
    ['PUT', `/v1/things/${THING_ID}`, 'GET, HEAD'],
  ] as const)('(%s %s) gets 405 with the methods that it supports', async (method, url, allow) => {
    await using server = sampleServer();
    const response = await server.app.inject({ method, url });
    expect(response.headers['allow']).toBe(allow);
    expect(response.json()).toMatchObject({ status: 405, code: 'method_not_allowed' });
  });
});

describe('every response', () => {
  test.each([
    ['POST', '/v1/things', 201, 'no-store'],
    ['GET', `/v1/things/${THING_ID}`, 200, 'private, no-cache'],
    ['GET', '/v1/things/x', 400, 'no-store'],
    ['GET', '/nope', 404, 'no-store'],
  ] as const)('to %s %s has the common headers', async (method, url, status, cache) => {
    await using server = sampleServer();
    const payload = method === 'POST' ? { payload: goodThing } : {};
    const response = await server.app.inject({ method, url, ...payload });
    expect(response.statusCode).toBe(status);
    expect(response.headers).toMatchObject({
      'cache-control': cache,
      'content-security-policy': "default-src 'none'; frame-ancestors 'none'",
      'x-content-type-options': 'nosniff',
      'x-request-id': expect.stringMatching(UUID),
    });
    expect(response.headers['x-powered-by']).toBeUndefined();
  });

  test.each(['b7ff5a3e-1c9f-4a7c-8e0f-6a5a1f0e2d11', 'Root.1-67891233_abc', 'x'.repeat(128)])(
    'has the request id that its caller sent: %s',
    async (id) => {
      await using server = sampleServer();
      const headers = { 'x-request-id': id };
      const made = await server.app.inject({
        method: 'POST',
        url: '/v1/things',
        payload: goodThing,
        headers,
      });
      const lost = await server.app.inject({ url: '/nope', headers });
      expect([made.headers['x-request-id'], lost.headers['x-request-id']]).toEqual([id, id]);
      expect(lost.json()).toMatchObject({ requestId: id });
      expect(server.lines).toMatchObject([{ requestId: id }, { requestId: id }]);
    },
  );

  test.each([
    'mine',
    'x'.repeat(129),
    'a b c d e f',
    'mallory@example.com',
    'one-id-1,one-id-2',
    'ünsichtbar',
    '"quoted-1"',
    '{"level":60}',
    '',
  ])('has a request id of the server if that of its caller is not usable: %j', async (id) => {
    await using server = sampleServer();
    const headers = { 'x-request-id': id, 'request-id': 'another-one' };
    const first = await server.app.inject({ url: '/nope', headers });
    const second = await server.app.inject({ url: '/nope', headers });
    expect(first.headers['x-request-id']).toMatch(UUID);
    expect(first.headers['x-request-id']).not.toBe(second.headers['x-request-id']);
    expect(first.json()).toMatchObject({ requestId: first.headers['x-request-id'] });
  });

  test('to a request that breaks off has the request id that its caller sent', async () => {
    await using server = sampleServer();
    const client = await rawClient(await server.listen());
    const headers = ['x-request-id: my-id-0815', 'content-type: application/json'];
    client.socket.write(
      requestText('POST', '/v1/things', [...headers, 'transfer-encoding: chunked'], 'rubbish\r\n'),
    );
    expect(await client.until(/"requestId":"[^"]+"/)).toContain('"requestId":"my-id-0815"');
    await client.ended;
  });
});

describe('a service for this host only', () => {
  const statusFor = async (host: string, isLocalOnly: boolean) => {
    await using server = sampleServer({ isLocalOnly });
    return (await server.app.inject({ url: `/v1/things/${THING_ID}`, headers: { host } }))
      .statusCode;
  };

  test.each(['rebound.example', 'rebound.example:3000', '127.0.0.1.example', 'localhost.example'])(
    'refuses the page of a site whose name leads here: %s',
    async (host) => {
      expect(await statusFor(host, true)).toBe(400);
      expect(await statusFor(host, false)).toBe(200);
    },
  );

  test.each([
    '127.0.0.1:3000',
    '[::1]:3000',
    'localhost',
    'LOCALHOST:80',
    'api.localhost',
    'orders:3000',
  ])('takes %s', async (host) => {
    expect(await statusFor(host, true)).toBe(200);
  });
});

describe('a caller that prefers return=minimal', () => {
  const make = { method: 'POST', url: '/v1/things' } as const;

  test.each([
    'return=minimal',
    'respond-async, Return = Minimal; foo="a,b", wait=10',
    'return="minimal"',
    'return=minimal, return=representation',
    'x="a, return=representation", return=minimal',
  ])('gets the headers of a command without a body: %s', async (prefer) => {
    await using server = sampleServer();
    const response = await server.app.inject({ ...make, payload: goodThing, headers: { prefer } });
    expect(response.statusCode).toBe(201);
    expect(response.body).toBe('');
    expect(response.headers).toMatchObject({
      'preference-applied': 'return=minimal',
      etag: '"v1"',
      location: `/v1/things/${THING_ID}`,
      'content-length': '0',
    });
    expect(response.headers['content-type']).toBeUndefined();
  });

  test.each([
    'return=representation',
    'return',
    'minimal',
    'return=minimal2',
    'xreturn=minimal',
    'return=representation, return=minimal',
    'x="return=minimal"',
    'x="a, return=minimal"',
    'wait=10;return=minimal',
    'return="minimal',
    'return="minimal\\',
    '"',
    ',,=;',
  ])('must say so: %s is ignored', async (prefer) => {
    await using server = sampleServer();
    const response = await server.app.inject({ ...make, payload: goodThing, headers: { prefer } });
    expect(response.json()).toMatchObject({ thingId: THING_ID });
    expect(response.headers['preference-applied']).toBeUndefined();
  });

  test('cannot keep the process busy with a header that is hard to read', async () => {
    // It took a second where each quote is tried as the beginning of a text that does not end.
    const prefer = `"${String.raw`\"`.repeat(7_500)}`;
    for (let times = 0; times < 100; times += 1) {
      expect(prefersMinimal({ prefer })).toBe(false);
      expect(prefersMinimal({ prefer: `${prefer}\\` })).toBe(false);
      await setImmediate(); // so that the time of the test can run out
    }
  }, 10_000);

  test('gets reads and problems with their bodies', async () => {
    await using server = sampleServer();
    const headers = { prefer: 'return=minimal' };
    const read = await server.app.inject({ url: `/v1/things/${THING_ID}`, headers });
    expect(read.json()).toMatchObject({ thingId: THING_ID });
    const refused = await server.app.inject({ ...make, payload: {}, headers });
    expect(refused.json()).toMatchObject({ code: 'invalid_request' });
  });
});

describe('a failure of a handler', () => {
  test('that is a Problem is sent as it is', async () => {
    await using server = failing(
      new Problem(thingBusy, {
        detail: 'Wait.',
        current: { status: 'paid', version: 2, allowed: ['ship'] },
        extra: { thingId: THING_ID, status: 'cannot be overridden' },
        retryAfterSeconds: 2.2,
        headers: { 'x-more': '1' },
      }),
    );
    const response = await server.app.inject(`/v1/things/${THING_ID}`);
    expect(response.statusCode).toBe(503);
    expect(response.headers).toMatchObject({ 'retry-after': '3', 'x-more': '1' });
    expect(response.json()).toStrictEqual({
      type: '/docs/problems#thing_busy',
      title: 'Thing busy',
      status: 503,
      detail: 'Wait.',
      code: 'thing_busy',
      requestId: response.headers['x-request-id'],
      thingId: THING_ID,
      current: { status: 'paid', version: 2, allowed: ['ship'] },
    });
    expect(server.lines.map(({ msg }) => msg)).toStrictEqual(['request']);
  });

  test.each([
    [new Error('select * from secrets')],
    [Object.assign(new Error('duplicate key'), { code: '23505', statusCode: 418 })],
    [new TypeError('x is not a function')],
    [Object.assign(new Error('read ECONNRESET'), { code: 'ECONNRESET' })],
    ['a string'],
    [null],
    [undefined],
  ])('that is unexpected (%s) is a 500 without details', async (error) => {
    await using server = failing(error);
    const response = await server.app.inject(`/v1/things/${THING_ID}`);
    expect(response.statusCode).toBe(500);
    expect(response.json()).toStrictEqual({
      type: '/docs/problems#internal',
      title: 'Internal error',
      status: 500,
      detail: expect.any(String),
      code: 'internal',
      requestId: response.headers['x-request-id'],
    });
    expect(response.body).not.toMatch(/secrets|duplicate|function|\.ts/);
  });

  test('that is unexpected is logged once, with its stack', async () => {
    await using server = failing(new Error('boom'));
    const response = await server.app.inject(`/v1/things/${THING_ID}`);
    const failures = server.lines.filter(({ msg }) => msg === 'request failed');
    expect(failures).toHaveLength(1);
    expect(failures[0]).toMatchObject({
      level: 50,
      requestId: response.headers['x-request-id'],
      err: { message: 'boom', stack: expect.stringContaining('server.test.ts') },
    });
    expect(server.lines).toHaveLength(2);
  });
});

describe('the log', () => {
  test('has one line per request, with known fields only', async () => {
    await using server = sampleServer();
    const response = await server.app.inject({
      method: 'POST',
      url: '/v1/things',
      headers: { authorization: 'Bearer CANARY', 'idempotency-key': 'CANARY', 'x-any': 'CANARY' },
      payload: { ...goodThing, name: 'CANARY' },
    });
    expect(response.statusCode).toBe(201);
    await server.app.inject({ url: '/nope?token=CANARY#CANARY' });
    await server.app.inject({ method: 'POST', url: '/v1/things?q=CANARY', payload: { CANARY: 1 } });
    expect(server.lines).toHaveLength(3);
    expect(server.lines[0]).toMatchObject({
      level: 30,
      msg: 'request',
      method: 'POST',
      route: '/v1/things',
      path: '/v1/things',
      status: 201,
      requestId: response.headers['x-request-id'],
      durationMs: expect.any(Number),
    });
    for (const line of server.lines) {
      const known = new Set([...REQUEST_FIELDS, 'level', 'time', 'pid', 'hostname']);
      expect(Object.keys(line).filter((field) => !known.has(field))).toStrictEqual([]);
    }
    expect(server.raw.join('')).not.toContain('CANARY');
  });

  test('shows quiet routes at debug only', async () => {
    const routes = sampleRoutes(undefined, { quiet: true });
    await using usual = sampleServer({ routes });
    await usual.app.inject(`/v1/things/${THING_ID}`);
    expect(usual.lines).toHaveLength(0);
    await using thorough = sampleServer({ routes, level: 'debug' });
    await thorough.app.inject(`/v1/things/${THING_ID}`);
    expect(thorough.lines).toMatchObject([{ level: 20, status: 200 }]);
  });

  test('shortens a long path', async () => {
    await using server = sampleServer();
    await server.app.inject(`/${'x/'.repeat(1000)}`);
    expect(String(server.lines[0]?.['path'])).toHaveLength(200);
  });
});

describe('a caller that leaves before the response', () => {
  test('is logged and counted with 499', async () => {
    const reached = Promise.withResolvers<void>();
    const left = Promise.withResolvers<void>();
    const metrics = createMetrics();
    const routes = sampleRoutes(() => {
      reached.resolve();
      return left.promise;
    });
    await using server = sampleServer({ metrics, routes });
    const client = await rawClient(await server.listen());
    client.socket.write(requestText('GET', `/v1/things/${THING_ID}`, []));
    await reached.promise;
    client.socket.destroy();
    await eventually(() => server.lines.length > 0);
    left.resolve();
    expect(server.lines).toMatchObject([{ msg: 'request', status: 499, aborted: true }]);
    expect(await metrics.text()).toMatch(/response_status_code="499"\} 1/);
  });
});

describe('the metrics', () => {
  test('count requests by method, route and status', async () => {
    const metrics = createMetrics();
    await using server = sampleServer({ metrics });
    await server.app.inject(`/v1/things/${THING_ID}`);
    await server.app.inject('/v1/things/x');
    await server.app.inject('/nope/CANARY');
    const text = await metrics.text();
    const count = 'http_server_request_duration_seconds_count';
    const labels = (route: string, status: number) =>
      `http_request_method="GET",http_route="${route}",http_response_status_code="${status}"`;
    expect(text).toContain(`${count}{${labels('/v1/things/{thingId}', 200)}} 1`);
    expect(text).toContain(`${count}{${labels('/v1/things/{thingId}', 400)}} 1`);
    expect(text).toContain(`${count}{${labels('', 404)}} 1`);
    expect(text).not.toContain('CANARY');
  });
});

describe('a server that is stopping', () => {
  test('still responds, and asks callers to close their connections', async () => {
    let draining = false;
    await using server = sampleServer({ isDraining: () => draining });
    const before = await server.app.inject(`/v1/things/${THING_ID}`);
    draining = true;
    const after = await server.app.inject(`/v1/things/${THING_ID}`);
    const problem = await server.app.inject('/nope');
    expect(before.headers['connection']).not.toBe('close');
    expect(after.headers['connection']).toBe('close');
    expect(after.statusCode).toBe(200);
    expect(problem.headers['connection']).toBe('close');
  });
});

test('a Problem rounds its Retry-After up', async () => {
  await using server = failing(busy());
  const response = await server.app.inject(`/v1/things/${THING_ID}`);
  expect(response.headers['retry-after']).toBe('3');
});
