import type { FastifyPluginAsyncZod } from 'fastify-type-provider-zod';
import { describe, expect, test } from 'vitest';
import { z } from 'zod';
import { buildAsyncApi } from '#src/http/asyncapi.ts';
import { documentationRoutes } from '#src/http/documentation-routes.ts';
import { healthRoutes } from '#src/http/health-routes.ts';
import { createMetrics } from '#src/http/metrics.ts';
import { response } from '#src/http/openapi.ts';
import { serverProblems } from '#src/http/problem.ts';
import { sampleChannel, sampleRoutes, sampleServer, THING_ID, thingBusy } from './sample-server.ts';

const METHODS = ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS'] as const;

const MEDIA_TYPES: Readonly<Record<string, string>> = {
  css: 'text/css',
  js: 'text/javascript',
  json: 'application/json',
};

const serviceRoutes: FastifyPluginAsyncZod = async (app) => {
  await app.register(sampleRoutes());
  await app.register(healthRoutes, {
    check: async () => ({ ready: true, details: {} }),
    isDraining: () => false,
    metrics: createMetrics(),
  });
  await app.register(documentationRoutes, { channel: sampleChannel });
};

/** A server with all routes, and what each of them is. */
function fullServer() {
  const server = sampleServer({ routes: serviceRoutes });
  const routes: { method: string; path: string; isHidden: boolean; body: unknown }[] = [];
  server.app.addHook('onRoute', ({ method, config, schema }) => {
    if (method === 'HEAD') return;
    routes.push({
      method: String(method),
      path: String(config?.template),
      isHidden: schema?.hide === true,
      body: schema?.body,
    });
  });
  return Object.assign(server, { routes });
}

/** Without `example`, which Swagger UI would send with every request. */
const parameter = z.strictObject({
  name: z.string(),
  description: z.string().optional(),
  in: z.enum(['path', 'query', 'header']),
  required: z.boolean(),
  schema: z.record(z.string(), z.unknown()),
});
const operation = z.strictObject({
  operationId: z.string(),
  tags: z.array(z.string()).min(1),
  summary: z.string().min(1),
  description: z.string().optional(),
  parameters: z.array(parameter),
  requestBody: z
    .strictObject({
      required: z.boolean(),
      content: z.strictObject({
        'application/json': z.strictObject({
          schema: z.unknown(),
          example: z.unknown().optional(),
        }),
      }),
    })
    .optional(),
  responses: z.record(
    z.string().regex(/^[1-5]\d\d$/),
    z.strictObject({
      description: z.string().min(1),
      headers: z.record(z.string(), z.strictObject({ $ref: z.string() })),
      content: z
        .record(z.string().regex(/^\w+\/[\w.+-]+$/), z.object({ schema: z.unknown() }))
        .optional(),
    }),
  ),
});
/** The parts of OpenAPI 3.1 that the document uses, and nothing else. */
const openApi = z.strictObject({
  openapi: z.literal('3.1.0'),
  info: z.object({
    title: z.string(),
    version: z.string(),
    description: z.string(),
    license: z.object({ name: z.string() }),
  }),
  servers: z.array(z.strictObject({ url: z.string() })),
  tags: z.array(z.strictObject({ name: z.string() })),
  paths: z.record(
    z.string().regex(/^\//),
    z
      .record(z.enum(['get', 'post', 'put', 'delete']), operation)
      .or(z.partialRecord(z.enum(['get', 'post', 'put', 'delete']), operation)),
  ),
  components: z.strictObject({
    schemas: z.record(z.string().regex(/^[\w.-]+$/), z.unknown()),
    headers: z.record(z.string(), z.object({ description: z.string(), schema: z.unknown() })),
  }),
});

async function served() {
  await using server = fullServer();
  const response = await server.app.inject('/openapi.json');
  expect(response.headers['content-type']).toBe('application/json; charset=utf-8');
  return { document: openApi.parse(response.json()), text: response.body };
}

function operations(document: z.infer<typeof openApi>) {
  return Object.entries(document.paths).flatMap(([path, methods]) =>
    Object.entries(methods).flatMap(([method, of]) =>
      of === undefined ? [] : [{ path, method: method.toUpperCase(), ...of }],
    ),
  );
}

/** Every `$ref` at any depth. */
function references(value: unknown): string[] {
  if (typeof value !== 'object' || value === null) return [];
  return Object.entries(value).flatMap(([name, of]) =>
    name === '$ref' && typeof of === 'string' ? [of] : references(of),
  );
}

function resolve(document: unknown, reference: string): unknown {
  let at: unknown = document;
  for (const name of reference.replace('#/', '').split('/')) {
    at = z.record(z.string(), z.unknown()).parse(at)[name];
  }
  return at;
}

describe('the OpenAPI document', () => {
  test('lists the routes of the server, and no others', async () => {
    const { document } = await served();
    await using server = fullServer();
    await server.app.ready();
    const described = operations(document).map(({ method, path }) => `${method} ${path}`);
    const shown = server.routes.filter(({ isHidden }) => !isHidden);
    const supported = [...new Set(shown.map(({ path }) => path))].flatMap((path) =>
      METHODS.filter((method) =>
        server.app.hasRoute({ method, url: path.replaceAll(/\{(\w+)\}/g, ':$1') }),
      )
        // Every GET responses HEAD as well.
        .filter((method) => method !== 'HEAD')
        .map((method) => `${method} ${path}`),
    );
    expect(described.toSorted()).toStrictEqual(supported.toSorted());
    expect(
      server.app.printRoutes({ commonPrefix: false }).match(/\((GET|POST|PUT|DELETE)/g),
    ).toHaveLength(server.routes.length);
    const hidden = server.routes.filter(({ isHidden }) => isHidden);
    expect(hidden.every(({ path }) => path === '/' || path.startsWith('/docs'))).toBe(true);
  });

  test('leaves hidden routes out', async () => {
    const paths = Object.keys((await served()).document.paths);
    expect(paths).toContain('/openapi.json');
    expect(paths.filter((path) => path === '/' || path.startsWith('/docs'))).toStrictEqual([]);
  });

  test('gives each operation an id of its own', async () => {
    const ids = operations((await served()).document).map(({ operationId }) => operationId);
    expect(new Set(ids).size).toBe(ids.length);
  });

  test('resolves all its references', async () => {
    const { document } = await served();
    const all = references(document);
    expect(all).toContain('#/components/schemas/Thing');
    expect(all.filter((reference) => resolve(document, reference) === undefined)).toStrictEqual([]);
    expect(JSON.stringify(document)).not.toContain('$defs');
  });

  test('declares each parameter of a path as required, and none twice', async () => {
    for (const { path, parameters } of operations((await served()).document)) {
      const inPath = [...path.matchAll(/\{(\w+)\}/g)].map(([, name]) => name);
      const declared = parameters.filter((of) => of.in === 'path');
      expect(declared.map(({ name }) => name)).toStrictEqual(inPath);
      expect(declared.every(({ required }) => required)).toBe(true);
      const names = parameters.map((of) => `${of.in} ${of.name}`);
      expect(new Set(names).size).toBe(names.length);
    }
  });

  test('lists the tags that it uses, and no others', async () => {
    const { document } = await served();
    const used = new Set(operations(document).flatMap(({ tags }) => tags));
    expect(new Set(document.tags.map(({ name }) => name))).toStrictEqual(used);
  });

  test('describes a request as it is checked', async () => {
    const { document } = await served();
    const post = document.paths['/v1/things']?.post;
    const { schema, example } = post?.requestBody?.content['application/json'] ?? {};
    expect(post?.requestBody?.required).toBe(true);
    expect(example).toBeDefined();
    expect(schema).toMatchObject({
      type: 'object',
      additionalProperties: false,
      required: ['name', 'items'],
      properties: {
        name: { type: 'string', minLength: 1, maxLength: 64 },
        items: {
          type: 'array',
          minItems: 1,
          maxItems: 200,
          items: { properties: { quantity: { type: 'integer', minimum: 1, maximum: 100_000 } } },
        },
      },
    });
    expect(document.paths['/v1/things/{thingId}']?.get?.parameters).toMatchObject([
      {
        name: 'version',
        in: 'query',
        required: false,
        schema: { type: 'integer', minimum: 1, default: 7 },
      },
      { name: 'thingId', in: 'path', required: true, schema: { type: 'string', format: 'uuid' } },
      { name: 'If-None-Match', in: 'header', required: false, schema: { type: 'string' } },
      { name: 'X-Request-Id', in: 'header', required: false, schema: { type: 'string' } },
    ]);
  });

  test('lists responses and problems with their codes and headers', async () => {
    const { document } = await served();
    const responses = document.paths['/v1/things']?.post?.responses;
    expect(Object.keys(responses ?? {})).toStrictEqual([
      '201',
      '400',
      '403',
      '409',
      '413',
      '415',
      '422',
      '429',
      '500',
      '503',
    ]);
    expect(Object.keys(responses?.['201']?.headers ?? {})).toStrictEqual([
      'X-Request-Id',
      'ETag',
      'Location',
      'Preference-Applied',
    ]);
    expect(responses?.['503']).toMatchObject({
      description: expect.stringContaining('thing_busy'),
      headers: { 'Retry-After': {} },
      content: {
        'application/problem+json': {
          schema: {
            allOf: [
              { $ref: '#/components/schemas/Problem' },
              { properties: { code: { enum: ['thing_busy'] } } },
            ],
          },
        },
      },
    });
    expect(document.paths['/readyz']?.get?.responses['503']?.content).toHaveProperty(
      'application/json',
    );
  });

  test('describes X-Request-Id for each request, and Prefer for each command whose response has a body', async () => {
    for (const { method, path, parameters, responses } of operations((await served()).document)) {
      const names = parameters.map(({ name }) => name);
      expect(names, path).toContain('X-Request-Id');
      const isMinimal = path === '/v1/things' && method === 'POST';
      expect(names.includes('Prefer'), path).toBe(isMinimal);
      if (isMinimal) expect(responses['201']?.headers).toHaveProperty('Preference-Applied');
    }
  });

  test('describes If-None-Match, ETag and 304 for each read', async () => {
    for (const { method, path, parameters, responses } of operations((await served()).document)) {
      const isRead = method === 'GET';
      const names = parameters.map(({ name }) => name);
      expect(names.includes('If-None-Match'), path).toBe(isRead);
      expect('304' in responses, path).toBe(isRead);
      if (isRead) expect(responses['200']?.headers).toHaveProperty('ETag');
    }
  });

  test('has valid example bodies', async () => {
    await using server = fullServer();
    await server.app.ready();
    for (const { body } of server.routes) {
      if (!(body instanceof z.ZodType)) continue;
      const { examples } = z.object({ examples: z.array(z.unknown()).min(1) }).parse(body.meta());
      for (const example of examples) expect(body.safeParse(example).success).toBe(true);
    }
  });

  test('refuses two schemas of one name', async () => {
    const named = (path: string, schema: z.ZodType) => async () => {
      await using server = sampleServer({
        routes: async (app) => {
          app.get(
            path,
            { schema: { response: { 200: response(schema, 'x') } }, config: { access: 'public' } },
            async () => {},
          );
        },
      });
      await server.app.ready();
      return server.app.swagger();
    };
    const one = z.object({ a: z.string() }).meta({ id: 'SameName' });
    await expect(named('/a', z.object({ c: one }))()).resolves.toBeDefined();
    const other = z.object({ c: z.string() }).meta({ id: 'SameName' });
    await expect(named('/b', z.object({ one, other }))()).rejects.toThrow('SameName');
    z.globalRegistry.remove(other);
  });
});

describe('the list of problems', () => {
  test('has each kind of the server and of its routes, once', async () => {
    await using server = fullServer();
    await server.app.ready();
    const codes = [...server.app.problemKinds.values()].map(({ code }) => code);
    expect(new Set(codes).size).toBe(codes.length);
    expect(codes).toContain(thingBusy.code);
    for (const { code } of serverProblems) expect(codes).toContain(code);
    for (const code of codes) expect(code).toMatch(/^[a-z][a-z0-9_]*$/);
  });
});

/** Where the links of a page lead, in it or elsewhere. */
function linksOf(page: string): string[] {
  return [...page.matchAll(/<a [^>]*href="([^"]*)"/g)].map(([, link]) => String(link));
}

describe('the pages', () => {
  test.each(['/', '/docs', '/docs/problems', '/docs/events'])(
    '%s loads nothing from another server and has no inline script or style',
    async (url) => {
      await using server = fullServer();
      const response = await server.app.inject(url);
      expect(response.statusCode).toBe(200);
      expect(response.headers['content-type']).toBe('text/html; charset=utf-8');
      const policy = String(response.headers['content-security-policy']);
      expect(policy).toContain("default-src 'none'");
      expect(policy).not.toMatch(/unsafe|http|\*/);
      expect(response.body).not.toMatch(/<script>|<style|\son\w+=|style=|https?:|\/\/[a-z]/i);
      const loaded = [...response.body.matchAll(/(?:src|<link [^>]*href)="([^"]*)"/g)]
        .map(([, link]) => String(link))
        .filter((link) => link !== 'data:,');
      expect(loaded).toContain('/docs/style.css');
      for (const link of loaded) {
        const file = await server.app.inject(link);
        expect(file.statusCode).toBe(200);
        const [, ending = ''] = link.split('.');
        expect(file.headers['content-type']).toBe(`${MEDIA_TYPES[ending]}; charset=utf-8`);
        expect(file.headers['x-content-type-options']).toBe('nosniff');
        expect(file.rawPayload.length).toBeGreaterThan(100);
      }
    },
  );

  test.each(['/', '/docs', '/docs/problems', '/docs/events'])(
    '%s has only links that work on this server',
    async (url) => {
      await using server = fullServer();
      const page = (await server.app.inject(url)).body;
      for (const link of linksOf(page)) {
        if (link.startsWith('#')) expect(page).toContain(`id="${link.slice(1)}"`);
        else expect((await server.app.inject(link)).statusCode, link).toBe(200);
      }
    },
  );

  test('start at /, which links to everything that can be read without an id', async () => {
    await using server = fullServer();
    const links = linksOf((await server.app.inject('/')).body);
    expect(new Set(links)).toStrictEqual(
      new Set([
        '/',
        '/docs',
        '/docs/events',
        '/docs/problems',
        '/openapi.json',
        '/asyncapi.json',
        '/livez',
        '/readyz',
        '/metrics',
      ]),
    );
  });

  test('and documents are made once, with their ETags', async () => {
    await using server = fullServer();
    const payloads: unknown[] = [];
    server.app.addHook('onSend', async (_request, _reply, payload) => {
      payloads.push(payload);
      return payload;
    });
    await server.app.ready();
    const made = server.routes.filter(({ path }) => /^\/(docs.*|\w+\.json)?$/.test(path));
    expect(made.length).toBeGreaterThan(5);
    for (const { path } of made) {
      const first = await server.app.inject(path);
      const second = await server.app.inject(path);
      expect(payloads.at(-1)).toBeInstanceOf(Buffer);
      expect(payloads.at(-1)).toBe(payloads.at(-2));
      expect(second.headers['etag']).toBe(first.headers['etag']);
    }
  });

  test.each(['/docs/style.css', '/docs/swagger-ui.css'])(
    'have styles that load nothing from another server: %s',
    async (url) => {
      await using server = fullServer();
      const { body } = await server.app.inject(url);
      expect(body).toContain('body');
      const loaded = [...body.matchAll(/url\(\s*["']?([^"')]{0,30})|@import[^;]*/g)];
      for (const [, target] of loaded) expect(target).toMatch(/^data:/);
    },
  );

  test('describe every message with its example, and the API links to them', async () => {
    await using server = fullServer();
    const page = (await server.app.inject('/docs/events')).body;
    expect(page).toContain('id="thing.made.v1"');
    expect(page).toContain('href="#thing.made.v1"');
    expect(page).toContain('A thing was &lt;made&gt;.');
    expect(page).toMatch(/<code>thingId<\/code><\/td>\s*<td>uuid<\/td>/);
    expect(page).toMatch(/<code>ce_type<\/code><\/td>\s*<td>&quot;thing.made.v1&quot;<\/td>/);
    expect(page).toContain(THING_ID);
    const { info, paths } = (await served()).document;
    expect(info.description).toContain('(/docs/events)');
    expect(paths).toHaveProperty('/asyncapi.json');
    expect((await server.app.inject('/asyncapi.json')).json()).toStrictEqual(
      JSON.parse(JSON.stringify(buildAsyncApi(sampleChannel))),
    );
  });

  test('describe every problem at the address in its type', async () => {
    await using server = fullServer();
    const page = (await server.app.inject('/docs/problems')).body;
    const failure = z.object({ type: z.string() }).parse((await server.app.inject('/nope')).json());
    expect(failure.type).toBe('/docs/problems#route_not_found');
    for (const { code } of server.app.problemKinds.values()) {
      expect(page).toContain(`id="${code}"`);
      expect(page).toContain(`href="#${code}"`);
    }
  });

  test.each(['/docs/../package.json', '/docs/%2e%2e/package.json', '/docs/index.html', '/docs/'])(
    'serve no other file: %s',
    async (url) => {
      await using server = fullServer();
      expect((await server.app.inject(url)).statusCode).toBe(404);
    },
  );
});
