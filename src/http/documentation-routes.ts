import { readFile } from 'node:fs/promises';

import { z } from 'zod';

import { buildAsyncApi } from './asyncapi.ts';
import type { ChannelSpec } from './asyncapi.ts';
import { bodyETag } from './entity-tags.ts';
import { apiPage, apiScript, eventsPage, homePage, problemsPage } from './documentation-pages.ts';
import { allProblemKinds, buildOpenApi } from './openapi.ts';
import { route } from './route.ts';
import type { AnswerHeaders, ReadyAnswer, Route } from './route.ts';

const HTML = 'text/html; charset=utf-8';
const SCRIPT = 'text/javascript; charset=utf-8';
const STYLE = 'text/css; charset=utf-8';

/** A page may load what this server gives, and nothing else; no script or style stands inline. */
const PAGE_HEADERS: AnswerHeaders = {
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

/**
 * GET /openapi.json, which describes `routes` and itself, and GET /asyncapi.json, which describes
 * `channel`; for people, /, /docs, /docs/events and /docs/problems. Swagger UI comes from its package,
 * so nothing is loaded from elsewhere.
 */
export function documentationRoutes(routes: readonly Route[], channel: ChannelSpec): Route[] {
  const openApi: Route = openApiRoute(() => document);
  const asyncApi = asyncApiRoute(ready(JSON.stringify(buildAsyncApi(channel))));
  const described = [...routes, openApi, asyncApi];
  const document = ready(JSON.stringify(buildOpenApi(described)));
  return [
    openApi,
    asyncApi,
    page('/', 'home', homePage()),
    page('/docs', 'docs', apiPage()),
    page('/docs/events', 'docsEvents', eventsPage(channel)),
    page('/docs/problems', 'docsProblems', problemsPage(allProblemKinds(described))),
    page('/docs/api.js', 'docsScript', apiScript(), SCRIPT),
    file('/docs/style.css', 'docsStyle', new URL('documentation.css', import.meta.url), STYLE),
    file('/docs/swagger-ui.css', 'swaggerStyle', swaggerFile('swagger-ui.css'), STYLE),
    file(
      '/docs/swagger-ui-bundle.js',
      'swaggerScript',
      swaggerFile('swagger-ui-bundle.js'),
      SCRIPT,
    ),
  ];
}

function openApiRoute(document: () => ReadyAnswer): Route {
  return route({
    method: 'GET',
    path: '/openapi.json',
    operationId: 'openapi',
    tag: 'Documentation',
    summary: 'Read the OpenAPI document',
    answers: { 200: { description: 'This API as OpenAPI 3.1.', schema: z.looseObject({}) } },
    handle: async () => document(),
  });
}

function asyncApiRoute(document: ReadyAnswer): Route {
  return route({
    method: 'GET',
    path: '/asyncapi.json',
    operationId: 'asyncapi',
    tag: 'Documentation',
    summary: 'Read the AsyncAPI document',
    answers: {
      200: {
        description: 'The messages that the service publishes to Kafka, as AsyncAPI 3.0.',
        schema: z.looseObject({}),
      },
    },
    handle: async () => document,
  });
}

function page(path: string, operationId: string, text: string, contentType = HTML): Route {
  const answer = ready(text, contentType);
  return hiddenRoute(path, operationId, contentType, async () => answer);
}

/** Reads the file when it is first asked for, and keeps it with its tag. */
function file(path: string, operationId: string, url: URL, contentType: string): Route {
  let read: Promise<ReadyAnswer> | undefined;
  return hiddenRoute(
    path,
    operationId,
    contentType,
    () => (read ??= readFile(url).then((content) => ready(content, contentType))),
  );
}

function swaggerFile(name: string): URL {
  return new URL(import.meta.resolve(`swagger-ui-dist/${name}`));
}

function hiddenRoute(
  path: string,
  operationId: string,
  contentType: string,
  handle: () => Promise<ReadyAnswer>,
): Route {
  return route({
    method: 'GET',
    path,
    operationId,
    tag: 'Documentation',
    summary: 'A page for people',
    quiet: true,
    hidden: true,
    answers: {
      200: { description: 'A page, or a file that it loads.', schema: z.string(), contentType },
    },
    handle,
  });
}

/** An answer that stays the same: its bytes and its tag are made once. A page has the headers of one. */
function ready(content: string | Buffer, contentType?: string): ReadyAnswer {
  const text = Buffer.from(content);
  const headers = { ...(contentType !== undefined && PAGE_HEADERS), etag: bodyETag(text) };
  return { status: 200, text, ...(contentType !== undefined && { contentType }), headers };
}
