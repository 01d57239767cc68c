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

/** A page may load files of this server only, and may hold no script or style itself. */
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
 * For tools, GET /openapi.json, which describes `routes` and itself, and /asyncapi.json, which describes
 * `channel`. For people, /, /docs, /docs/events and /docs/problems. Nothing is loaded from elsewhere:
 * Swagger UI comes from its package.
 */
export function documentationRoutes(routes: readonly Route[], channel: ChannelSpec): Route[] {
  const asyncApi = ready(JSON.stringify(buildAsyncApi(channel)));
  const described = [
    ...routes,
    documentRoute('openapi', 'OpenAPI', 'This API as OpenAPI 3.1.', () => openApi),
    documentRoute('asyncapi', 'AsyncAPI', 'The Kafka messages as AsyncAPI 3.0.', () => asyncApi),
  ];
  const openApi = ready(JSON.stringify(buildOpenApi(described)));
  return [
    ...described.slice(routes.length),
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

/** Gets the document by a function, because the OpenAPI document describes its own route. */
function documentRoute(
  operationId: string,
  name: string,
  description: string,
  document: () => ReadyAnswer,
): Route {
  return route({
    method: 'GET',
    path: `/${operationId}.json`,
    operationId,
    tag: 'Documentation',
    summary: `Read the ${name} document`,
    answers: { 200: { description, schema: z.looseObject({}) } },
    handle: async () => document(),
  });
}

function page(path: string, operationId: string, text: string, contentType = HTML): Route {
  const response = ready(text, contentType);
  return hiddenRoute(path, operationId, contentType, async () => response);
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
    summary: 'A page for people, or a file that it loads',
    quiet: true,
    hidden: true,
    answers: { 200: { description: 'The page or file.', schema: z.string(), contentType } },
    handle,
  });
}

/** A response that never changes: its bytes and its ETag are made once. Pages get PAGE_HEADERS. */
function ready(content: string | Buffer, contentType?: string): ReadyAnswer {
  const text = Buffer.from(content);
  const headers = { ...(contentType !== undefined && PAGE_HEADERS), etag: bodyETag(text) };
  return { status: 200, text, ...(contentType !== undefined && { contentType }), headers };
}
