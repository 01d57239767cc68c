import { describe, expect, test } from 'vitest';
import { z } from 'zod';
import { response } from '#src/http/openapi.ts';
import { sendText } from '#src/http/responses.ts';
import { THING_ID, goodThing, sampleRoutes, sampleServer } from './sample-server.ts';
import type { SeenRequest } from './sample-server.ts';

const path = '/v1/things';

describe('a request', () => {
  test('that is valid reaches its handler, parsed', async () => {
    const seen: SeenRequest[] = [];
    const traceparent = '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01';
    await using server = sampleServer({
      routes: sampleRoutes(async (request) => void seen.push(request)),
    });
    const response = await server.app.inject({
      method: 'POST',
      url: path,
      headers: { 'idempotency-key': '"k-1"', traceparent },
      payload: goodThing,
    });
    expect(response.statusCode).toBe(201);
    expect(response.body).toBe(`{"thingId":"${THING_ID}","version":1}`);
    expect(response.headers).toMatchObject({
      'content-type': 'application/json; charset=utf-8',
      etag: '"v1"',
      location: `${path}/${THING_ID}`,
    });
    expect(seen).toMatchObject([
      {
        body: goodThing,
        keyed: { ref: { principal: 'anonymous', key: 'k-1' } },
        metadata: { traceparent, correlationId: response.headers['x-request-id'] },
      },
    ]);
  });

  test('has its path and query parsed', async () => {
    await using server = sampleServer();
    const url = `${path}/${THING_ID.toUpperCase()}`;
    const response = await server.app.inject(`${url}?version=12`);
    expect(response.json()).toStrictEqual({ thingId: THING_ID, version: 12 });
    expect((await server.app.inject(url)).json()).toMatchObject({ version: 7 });
  });

  test.each([
    [{ ...goodThing, extra: 1 }, ['/extra is not a known field']],
    [{ name: 'a' }, ['/items is required']],
    [{ ...goodThing, name: 5 }, ['/name must be a string']],
    [{ ...goodThing, name: '' }, ['/name must not be empty']],
    [{ ...goodThing, name: 'x'.repeat(65) }, ['/name must have at most 64 characters']],
    [{ ...goodThing, items: [] }, ['/items must have at least 1 item']],
    [
      { ...goodThing, items: Array(201).fill(goodThing.items[0]) },
      ['/items must have at most 200 items'],
    ],
    [{ ...goodThing, items: {} }, ['/items must be a list']],
    [
      { ...goodThing, items: [{ sku: 'a', quantity: '5' }] },
      ['/items/0/quantity must be a number'],
    ],
    [
      { ...goodThing, items: [{ sku: 'a', quantity: true }] },
      ['/items/0/quantity must be a number'],
    ],
    [
      { ...goodThing, items: [{ sku: 'a', quantity: null }] },
      ['/items/0/quantity must be a number'],
    ],
    [
      { ...goodThing, items: [{ sku: 'a', quantity: 1.5 }] },
      ['/items/0/quantity must be a whole number'],
    ],
    [
      { ...goodThing, items: [{ sku: 'a', quantity: 0 }] },
      ['/items/0/quantity must be at least 1'],
    ],
    [
      { ...goodThing, items: [{ sku: 'a', quantity: 2 ** 53 }] },
      [
        '/items/0/quantity must be at most 9007199254740991',
        '/items/0/quantity must be at most 100000',
      ],
    ],
    [
      { ...goodThing, items: [{ sku: 'a', quantity: 1, '~/': 1 }, { quantity: 1 }] },
      ['/items/0/~0~1 is not a known field', '/items/1/sku is required'],
    ],
    [{ ...goodThing, note: null }, ['/note must be a string']],
    [[goodThing], [' must be an object']],
    ['text', [' must be an object']],
    [null, [' must be an object']],
  ])('with the body %j is refused', async (payload, errors) => {
    const reached: unknown[] = [];
    await using server = sampleServer({
      routes: sampleRoutes(async (request) => void reached.push(request)),
    });
    const response = await server.app.inject({
      method: 'POST',
      url: path,
      headers: { 'content-type': 'application/json' },
      payload: JSON.stringify(payload),
    });
    expect(response.statusCode).toBe(400);
    expect(response.headers['content-type']).toContain('application/problem+json');
    const problem = problemShape.parse(response.json());
    expect(problem.code).toBe('invalid_request');
    expect(problem.errors?.map(({ pointer, message }) => `${pointer} ${message}`)).toStrictEqual(
      errors,
    );
    expect(reached).toStrictEqual([]);
  });

  test.each([
    ['{"name":"a","name":"b","items":[{"sku":"a","quantity":1}]}', '/name'],
    ['{"name":"a\\u0000","items":[{"sku":"a","quantity":1}]}', '/name'],
    ['{"name":"\\ud800","items":[{"sku":"a","quantity":1}]}', '/name'],
    ['{"name":"a","items":[{"sku":"a","quantity":-0}]}', '/items/0/quantity'],
    ['{"name":"a","items":[{"sku":"a","quantity":9007199254740993}]}', '/items/0/quantity'],
    ['{"name":"a","__proto__":{},"items":[]}', '/__proto__'],
  ])('with the JSON %s is refused', async (payload, pointer) => {
    await using server = sampleServer();
    const headers = { 'content-type': 'application/json' };
    const response = await server.app.inject({ method: 'POST', url: path, headers, payload });
    expect(response.statusCode).toBe(400);
    expect(response.json()).toMatchObject({ code: 'invalid_request', errors: [{ pointer }] });
  });

  test.each([
    ['{"name":', 'malformed_json'],
    ['', 'malformed_json'],
    [Buffer.from([0xff, 0xfe]), 'malformed_json'],
  ])('with the body %j is malformed', async (payload, code) => {
    await using server = sampleServer();
    const headers = { 'content-type': 'application/json' };
    const response = await server.app.inject({ method: 'POST', url: path, headers, payload });
    expect(response.json()).toMatchObject({ status: 400, code });
  });

  test('without a body gets a problem that says so', async () => {
    await using server = sampleServer();
    const response = await server.app.inject({ method: 'POST', url: path });
    expect(response.json()).toMatchObject({
      code: 'malformed_json',
      detail: expect.stringContaining('empty'),
    });
  });

  test.each([
    ['text/plain'],
    ['application/xml'],
    ['application/x-www-form-urlencoded'],
    ['application/json; charset=latin1'],
    ['application/json-patch+json'],
    ['application/problem+json'],
    ['json'],
    [''],
    ['application/json, text/plain'],
    ['\tapplication/json\tx'],
  ])('of the media type %j is refused', async (contentType) => {
    await using server = sampleServer();
    const response = await server.app.inject({
      method: 'POST',
      url: path,
      headers: { 'content-type': contentType },
      payload: JSON.stringify(goodThing),
    });
    expect(response.json()).toMatchObject({ status: 415, code: 'unsupported_media_type' });
  });

  test.each([
    'application/json',
    'Application/JSON',
    'application/json; charset=utf-8',
    'application/json;charset="UTF-8"',
  ])('of the media type %j is accepted', async (contentType) => {
    await using server = sampleServer();
    const headers = { 'content-type': contentType };
    const payload = JSON.stringify(goodThing);
    const response = await server.app.inject({ method: 'POST', url: path, headers, payload });
    expect(response.statusCode).toBe(201);
  });

  test('in a content encoding is refused', async () => {
    await using server = sampleServer();
    const headers = { 'content-type': 'application/json', 'content-encoding': 'gzip' };
    const payload = JSON.stringify(goodThing);
    const response = await server.app.inject({ method: 'POST', url: path, headers, payload });
    expect(response.json()).toMatchObject({ code: 'unsupported_media_type' });
  });

  test.each([
    ['?version=0', 'query/version', 'must be a whole number from 1 to 1000'],
    ['?version=1e2', 'query/version', 'must be a whole number from 1 to 1000'],
    ['?version=', 'query/version', 'must be a whole number from 1 to 1000'],
    ['?version=1&version=2', 'query/version', 'must be given once only'],
    ['?Version=1', 'query/Version', 'is not a known parameter'],
    ['?version=1&__proto__=1', 'query/__proto__', 'is not a known parameter'],
    ['?version[]=1', 'query/version[]', 'is not a known parameter'],
  ])('with the query %s is refused', async (query, pointer, message) => {
    await using server = sampleServer();
    const response = await server.app.inject(`${path}/${THING_ID}${query}`);
    expect(response.json()).toMatchObject({
      code: 'invalid_request',
      errors: [{ pointer, message }],
    });
  });

  test('with a query is refused if the route has none', async () => {
    await using server = sampleServer();
    const response = await server.app.inject({
      method: 'POST',
      url: `${path}?dry=1`,
      payload: goodThing,
    });
    expect(response.json()).toMatchObject({ errors: [{ pointer: 'query/dry' }] });
  });

  test.each(['nope', '%00', `${THING_ID}x`])('for the id %s is refused', async (id) => {
    await using server = sampleServer();
    const response = await server.app.inject(`${path}/${id}`);
    expect(response.json()).toMatchObject({
      status: 400,
      errors: [{ pointer: 'path/thingId', message: 'must be a UUID' }],
    });
  });

  test.each([
    [{ 'if-none-match': 'v1' }, 'header/If-None-Match'],
    [{ 'if-none-match': '' }, 'header/If-None-Match'],
  ])('with the headers %j is refused', async (headers, pointer) => {
    await using server = sampleServer();
    const response = await server.app.inject({ url: `${path}/${THING_ID}`, headers });
    expect(response.json()).toMatchObject({ status: 400, errors: [{ pointer }] });
  });

  test.each(['', 'a b', 'k'.repeat(256), '"open'])(
    'with the Idempotency-Key %j is refused',
    async (key) => {
      await using server = sampleServer();
      const headers = { 'idempotency-key': key };
      const response = await server.app.inject({
        method: 'POST',
        url: path,
        headers,
        payload: goodThing,
      });
      expect(response.json()).toMatchObject({
        status: 400,
        errors: [{ pointer: 'header/Idempotency-Key' }],
      });
    },
  );

  test('with a body is refused if the route has none', async () => {
    await using server = sampleServer();
    const url = `${path}/${THING_ID}/poke`;
    const send = (payload: unknown) =>
      server.app.inject({
        method: 'POST',
        url,
        headers: { 'content-type': 'application/json' },
        payload: JSON.stringify(payload),
      });
    for (const payload of [[], 'x', 5]) {
      expect((await send(payload)).json()).toMatchObject({
        errors: [{ pointer: '', message: 'must be empty: this request takes no body' }],
      });
    }
    expect((await send({ note: 1 })).json()).toMatchObject({ errors: [{ pointer: '/note' }] });
    expect((await server.app.inject({ method: 'POST', url })).statusCode).toBe(204);
  });

  test('without fields may have an empty object or an empty form as its body', async () => {
    await using server = sampleServer();
    const url = `${path}/${THING_ID}/poke`;
    const object = await server.app.inject({ method: 'POST', url, payload: {} });
    expect(object.statusCode).toBe(204);
    // As curl -d '' does.
    const headers = { 'content-type': 'application/x-www-form-urlencoded' };
    const empty = { ...headers, 'content-length': '0' };
    const nothing = await server.app.inject({ method: 'POST', url, headers: empty });
    expect(nothing.statusCode).toBe(204);
    const form = await server.app.inject({ method: 'POST', url, headers, payload: 'a=b' });
    expect(form.statusCode).toBe(415);
  });

  test.each([
    ['cross-site', { 'sec-fetch-site': 'cross-site' }, 403],
    ['same-site', { 'sec-fetch-site': 'same-site' }, 403],
    ['same-origin', { 'sec-fetch-site': 'same-origin', origin: 'http://other' }, 204],
    ['by hand', { 'sec-fetch-site': 'none' }, 204],
    ['an old browser, other origin', { origin: 'http://evil.example' }, 403],
    ['an old browser, no origin to name', { origin: 'null' }, 403],
    ['an old browser, this origin', { origin: 'http://here:80', host: 'here' }, 204],
    ['no browser', {}, 204],
  ])(
    'without a body that a browser sends for a page is checked for its origin: %s',
    async (_, headers, status) => {
      await using server = sampleServer();
      const url = `${path}/${THING_ID}/poke`;
      const response = await server.app.inject({ method: 'POST', url, headers });
      expect(response.statusCode).toBe(status);
      if (status === 403) expect(response.json()).toMatchObject({ code: 'cross_origin' });
      // A browser asks before it sends JSON (CORS preflight), and nobody here says yes.
      const json = await server.app.inject({ method: 'POST', url, headers, payload: {} });
      expect(json.statusCode).toBe(204);
      const read = await server.app.inject({ url: `${path}/${THING_ID}`, headers });
      expect(read.statusCode).toBe(200);
    },
  );

  test('with several faults gets all of them, and none of its values', async () => {
    await using server = sampleServer();
    const payload = {
      name: 'SECRET'.repeat(20),
      items: [{ sku: 'SECRET-SECRET', quantity: 'SECRET' }],
    };
    const response = await server.app.inject({ method: 'POST', url: `${path}?a=SECRET`, payload });
    const { errors, detail } = problemShape.parse(response.json());
    expect(errors?.map(({ pointer }) => pointer)).toStrictEqual([
      'query/a',
      '/name',
      '/items/0/sku',
      '/items/0/quantity',
    ]);
    expect(detail).toContain('3 more');
    expect(response.body).not.toContain('SECRET');
  });

  test('with hundreds of faults gets fifty of them', async () => {
    await using server = sampleServer();
    const payload = {
      name: 'a',
      items: Array.from({ length: 200 }, () => ({ sku: 1, quantity: 0 })),
    };
    const response = await server.app.inject({ method: 'POST', url: path, payload });
    expect(problemShape.parse(response.json()).errors).toHaveLength(50);
  });
});

const problemShape = z.object({
  code: z.string(),
  detail: z.string(),
  errors: z.array(z.object({ pointer: z.string(), message: z.string() })).optional(),
});

describe('a response', () => {
  test('is 304 without a body if the caller has it', async () => {
    await using server = sampleServer();
    const response = await server.app.inject({
      url: `${path}/${THING_ID}`,
      headers: { 'if-none-match': 'W/"v7"' },
    });
    expect(response.statusCode).toBe(304);
    expect(response.body).toBe('');
    expect(response.headers).toMatchObject({ etag: '"v7"' });
    expect(response.headers['content-type']).toBeUndefined();
  });

  test('without an ETag of its own gets a weak one of its body, and is 304 until the body changes', async () => {
    let text = '{"a":1}';
    await using server = sampleServer({
      routes: async (app) => {
        app.get('/v1/text', { config: { access: 'public' } }, async (_, reply) =>
          sendText(reply, { status: 200, etag: null, body: text }),
        );
      },
    });
    const ask = (method: 'GET' | 'HEAD', tag?: string) =>
      server.app.inject({
        method,
        url: '/v1/text',
        headers: { ...(tag !== undefined && { 'if-none-match': tag }) },
      });
    const first = await ask('GET');
    const etag = String(first.headers['etag']);
    expect(first).toMatchObject({ statusCode: 200, body: text });
    expect(etag).toMatch(/^W\/"[\w-]+"$/);
    for (const tag of [etag, etag.slice(2), `"v1", ${etag}`, '*']) {
      for (const method of ['GET', 'HEAD'] as const) {
        const known = await ask(method, tag);
        expect(known, tag).toMatchObject({ statusCode: 304, body: '', headers: { etag } });
        expect(known.headers).not.toHaveProperty('content-type');
        expect(known.headers['x-request-id']).toBeTypeOf('string');
      }
    }
    expect((await ask('HEAD')).headers['etag']).toBe(etag);
    text = '{"a":2}';
    const changed = await ask('GET', etag);
    expect(changed).toMatchObject({ statusCode: 200, body: text });
    expect(changed.headers['etag']).not.toBe(etag);
    expect((await ask('GET', 'v1')).statusCode).toBe(400);
  });

  test('to a command gets no ETag but its own, and is never 304', async () => {
    await using server = sampleServer();
    const made = await server.app.inject({
      method: 'POST',
      url: path,
      payload: goodThing,
    });
    expect(made).toMatchObject({ statusCode: 201, headers: { etag: '"v1"' } });
    const poked = await server.app.inject({ method: 'POST', url: `${path}/${THING_ID}/poke` });
    expect(poked.statusCode).toBe(204);
    expect(poked.headers).not.toHaveProperty('etag');
  });

  test('to HEAD is that to GET without the body', async () => {
    await using server = sampleServer();
    const response = await server.app.inject({ method: 'HEAD', url: `${path}/${THING_ID}` });
    expect(response.statusCode).toBe(200);
    expect(response.body).toBe('');
    expect(response.headers).toMatchObject({ etag: '"v7"', 'content-length': '62' });
    const { headers } = await server.app.inject({ method: 'GET', url: `${path}/${THING_ID}` });
    const ofEach = { date: undefined, 'x-request-id': undefined };
    expect({ ...response.headers, ...ofEach }).toEqual({ ...headers, ...ofEach });
  });
});

describe('a route', () => {
  const config = { access: 'public' } as const;

  test('with an object that is not strict is refused', async () => {
    const declare = async (body: z.ZodType) => {
      await using server = sampleServer({
        routes: async (app) => {
          app.post('/x', { schema: { body }, config }, async () => {});
        },
      });
      await server.app.ready();
    };
    await expect(declare(z.object({ a: z.string() }))).rejects.toThrow('strictObject');
    await expect(declare(z.looseObject({ a: z.string() }))).rejects.toThrow('strictObject');
    await expect(
      declare(z.strictObject({ a: z.array(z.object({ b: z.string() })) })),
    ).rejects.toThrow('strictObject');
    await declare(z.strictObject({ a: z.array(z.strictObject({ b: z.string() })) }));
  });

  test('types the request and the response of its handler', async () => {
    const schema = {
      body: z.strictObject({ n: z.number() }),
      response: {
        200: response(z.object({ n: z.number() }), ''),
        204: z.undefined().describe(''),
      },
    };
    await using server = sampleServer({
      routes: async (app) => {
        app.post('/1', { schema, config }, async ({ body }, reply) =>
          reply.code(200).send({ n: body.n }),
        );
        app.post('/2', { schema, config }, async (_, reply) => reply.code(204).send());
        // @ts-expect-error the request has no such field
        app.post('/3', { schema, config }, async ({ body }, reply) => reply.send({ n: body.m }));
        // @ts-expect-error the status is not declared
        app.post('/4', { schema, config }, async ({ body }, reply) => reply.code(201).send(body));
        app.post('/5', { schema, config }, async ({ body }, reply) =>
          // @ts-expect-error the body is not as declared
          reply.code(200).send({ n: String(body.n) }),
        );
      },
    });
    await server.app.ready();
  });
});
