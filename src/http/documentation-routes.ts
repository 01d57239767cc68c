import { readFile } from 'node:fs/promises';
import type { FastifyInstance, FastifyPluginAsync, FastifySchema } from 'fastify';

import { z } from 'zod';

import { buildAsyncApi } from './asyncapi.ts';
import type { ChannelSpec } from './asyncapi.ts';
import { apiPage, apiScript, eventsPage, homePage, problemsPage } from './documentation-pages.ts';
import { bodyETag } from './entity-tags.ts';
import { response } from './openapi.ts';
import { JSON_MEDIA_TYPE } from './responses.ts';

const HTML = 'text/html; charset=utf-8';
const SCRIPT = 'text/javascript; charset=utf-8';
const STYLE = 'text/css; charset=utf-8';

/** A page may load files of this server only, and may contain no script or style itself. */
const PAGE_HEADERS = {
  'cache-control': 'no-cache',
  'content-security-policy': [
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "img-src 'self' data:",
    "connect-src 'self'",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
  ].join('; '),
  'referrer-policy': 'no-referrer',
};

/** A file that never changes. Its content and its ETag are made once. */
type File = Readonly<{ content: Buffer; etag: string }>;

export type DocumentationOptions = Readonly<{
  channel: ChannelSpec;
  /** The server to describe, which must be ready before this one. This one by default. */
  api?: FastifyInstance;
}>;

/**
 * The documentation: /openapi.json describes the routes of `api` and /asyncapi.json describes `channel`,
 * both for tools; /, /docs, /docs/events and /docs/problems are pages for people. No page loads anything from
 * another server: Swagger UI is served from its package. Everything is made once, at the start.
 */
export const documentationRoutes: FastifyPluginAsync<DocumentationOptions> = async (
  app,
  { channel, api = app },
) => {
  const add = (
    url: string,
    contentType: string,
    read: () => string | Buffer | Promise<Buffer>,
    { schema, headers }: Readonly<{ schema: FastifySchema; headers?: typeof PAGE_HEADERS }>,
  ) => {
    let file: Promise<File> | undefined;
    const load = () => (file ??= toFile(read));
    // A document that cannot be made stops the start.
    app.addHook('onReady', async () => void (await load()));
    app.get(
      url,
      { schema, config: { access: 'public', quiet: schema.hide === true } },
      async (_, reply) => {
        const { content, etag } = await load();
        return reply
          .headers({ ...headers, etag })
          .type(contentType)
          .send(content);
      },
    );
  };
  const document = (name: string, title: string, description: string, make: () => unknown) =>
    add(`/${name}.json`, JSON_MEDIA_TYPE, () => JSON.stringify(make()), {
      schema: {
        operationId: name,
        tags: ['Documentation'],
        summary: `Read the ${title} document`,
        response: { 200: response(z.looseObject({}), description) },
      },
    });
  const page = (url: string, read: () => string | Promise<Buffer>, contentType = HTML) =>
    add(url, contentType, read, { schema: { hide: true }, headers: PAGE_HEADERS });

  document('openapi', 'OpenAPI', 'This API as OpenAPI 3.1.', () => api.swagger());
  document('asyncapi', 'AsyncAPI', 'The Kafka messages as AsyncAPI 3.0.', () =>
    buildAsyncApi(channel),
  );
  page('/', homePage);
  page('/docs', apiPage);
  page('/docs/events', () => eventsPage(channel));
  page('/docs/problems', () => problemsPage([...api.problemKinds.values()]));
  page('/docs/api.js', () => apiScript(api === app), SCRIPT);
  page('/docs/style.css', () => readFile(new URL('documentation.css', import.meta.url)), STYLE);
  page('/docs/swagger-ui.css', () => readFile(swaggerFile('swagger-ui.css')), STYLE);
  page('/docs/swagger-ui-bundle.js', () => readFile(swaggerFile('swagger-ui-bundle.js')), SCRIPT);
};

async function toFile(read: () => string | Buffer | Promise<Buffer>): Promise<File> {
  const content = Buffer.from(await read());
  return { content, etag: bodyETag(content) };
}

function swaggerFile(name: string): URL {
  return new URL(import.meta.resolve(`swagger-ui-dist/${name}`));
}
