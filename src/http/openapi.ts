import swagger from '@fastify/swagger';
import type { SwaggerTransform, SwaggerTransformObject } from '@fastify/swagger';
import type { FastifyInstance, RouteOptions } from 'fastify';
import {
  createJsonSchemaTransform,
  createJsonSchemaTransformObject,
} from 'fastify-type-provider-zod';
import { z } from 'zod';

import { needsMatch, unhonouredHeaders } from './request-head.ts';
import type { commandHeaders } from './request-head.ts';
import { canonicalHeader } from './field-errors.ts';
import { overrideSchema, refuseSecondOfName } from './json-schema.ts';
import { headerName, responseHeaders } from './openapi-components.ts';
import type { HeaderName } from './openapi-components.ts';
import { problemKinds } from './problem-kinds.ts';
import type { ProblemKind } from './problem.ts';
import { isRead, requestSchemas } from './routes.ts';

declare module 'fastify' {
  interface FastifyInstance {
    /** Every problem that the routes or the server itself can respond with, by code. */
    problemKinds: Map<string, ProblemKind>;
  }
}

/** Version of the API, not of the program. */
const API_VERSION = '1.0.0';

const INFO = {
  title: 'Order service',
  version: API_VERSION,
  description:
    'Amounts are integers in the minor unit of the currency, such as cents. Times are ISO 8601 ' +
    'in UTC. Every error is an `application/problem+json` with a stable `code`: see ' +
    '[all problems](/docs/problems). Responses may gain members in later releases: ignore those ' +
    'that you do not know.\n\n' +
    'Send an `Idempotency-Key` with each command, so that a retry takes effect only once. Send ' +
    'the ETag that you read as `If-Match`, so that the command is refused if somebody else has ' +
    'changed the resource. A command refuses a header of these that it does not support; it ' +
    'never ignores one. A tag that a proxy has weakened (`W/`) never matches: send it without ' +
    'the `W/`.\n\n' +
    'Request bodies are `application/json` in UTF-8. A command without fields accepts an empty ' +
    'body or `{}`. Ids and references are stored exactly as sent. A sku must be in Unicode NFC ' +
    'and must not contain control characters. Every event is published to Kafka: see ' +
    '[the events](/docs/events).',
  license: { name: 'MIT', identifier: 'MIT' },
};

/**
 * A schema as the response of a route. `headers` are those that the document lists; every read has an ETag
 * anyway. A response without a body is `z.undefined().describe('...')`.
 */
export function response<Schema extends z.ZodType>(
  schema: Schema,
  description: string,
  headers: readonly HeaderName[] = [],
  contentType = 'application/json',
): Schema {
  refuseSecondOfName(schema);
  return schema.meta({ description, headers, contentType });
}

/**
 * Describes every route that is added to `app` from now on as OpenAPI 3.1, from the schemas that check its
 * requests. `app.swagger()` returns the document once `app` is ready.
 */
export function describeApi(app: FastifyInstance): void {
  const tags: { name: string }[] = [];
  const kinds = new Map<string, ProblemKind>();
  for (const kind of Object.values(problemKinds)) kinds.set(kind.code, kind);
  app.decorate('problemKinds', kinds);
  app.addHook('onRoute', ({ schema, config }) => {
    for (const kind of config?.problems ?? []) kinds.set(kind.code, kind);
    for (const name of (schema?.hide !== true && schema?.tags) || []) {
      if (!tags.some((tag) => tag.name === name)) tags.push({ name });
    }
  });
  void app.register(swagger, {
    openapi: { openapi: '3.1.0', info: INFO, servers: [{ url: '/' }], tags },
    convertConstToEnum: false,
    transform,
    transformObject,
  });
}

const zodToJsonConfig = { override: overrideSchema };
const toJsonSchemas = createJsonSchemaTransform({ zodToJsonConfig });
const addComponents = createJsonSchemaTransformObject({ zodToJsonConfig });

/** One route as JSON Schema, with what every route has beside what it declares. */
const transform: SwaggerTransform = (document) => {
  const { schema, url } = toJsonSchemas(document);
  if (schema.hide === true) return { schema, url };
  const { headers, response, ...rest } = schema;
  return {
    url,
    schema: {
      ...rest,
      ...(headers !== undefined && { headers: withCanonicalNames(headers) }),
      response: describeResponses(document.route, response),
    },
  };
};

/** Adds the named schemas. The package names each a second time, for requests, of which none has a name. */
const transformObject: SwaggerTransformObject = (document) => {
  const described = addComponents(document);
  const schemas = Object.entries(documentShape.parse(described).components.schemas);
  return {
    ...described,
    components: {
      schemas: Object.fromEntries(schemas.filter(([name]) => !name.endsWith('Input'))),
    },
  };
};

const documentShape = z.object({
  components: z.object({ schemas: z.record(z.string(), z.record(z.string(), z.unknown())) }),
});

const headersShape = z.looseObject({
  properties: z.record(z.string(), z.unknown()),
  required: z.array(z.string()).default([]),
});

function withCanonicalNames(headers: unknown) {
  const { properties, required, ...rest } = headersShape.parse(headers);
  return {
    ...rest,
    properties: Object.fromEntries(
      Object.entries(properties).map(([name, schema]) => [canonicalHeader(name), schema]),
    ),
    required: required.map(canonicalHeader),
  };
}

/** What `response` declares, as JSON Schema. */
const responseShape = z.looseObject({
  description: z.string().default(''),
  headers: z.array(headerName).default([]),
  contentType: z.string().default('application/json'),
});
type DeclaredResponse = z.infer<typeof responseShape>;

/** What the route declares, its problems, and 304 for a read. */
function describeResponses(route: RouteOptions, declared: unknown): Record<string, unknown> {
  const responses = z.record(z.string(), responseShape).default({}).parse(declared);
  if (isRead(route)) {
    responses['200']?.headers.unshift('ETag');
    responses['304'] = notModified;
  }
  const problems = Map.groupBy(problemsOf(route), ({ status }) => String(status));
  const statuses = new Set([...Object.keys(responses), ...problems.keys()]);
  return Object.fromEntries(
    [...statuses].map((status) => [
      status,
      describeResponse(status, responses[status], problems.get(status) ?? []),
    ]),
  );
}

const notModified = responseShape.parse({
  type: 'null',
  description: 'Not changed: the caller already has the present state.',
  headers: ['ETag'],
});

function describeResponse(
  status: string,
  declared: DeclaredResponse | undefined,
  kinds: readonly ProblemKind[],
) {
  const { description, headers = [], contentType = '', ...schema } = declared ?? { type: 'null' };
  const codesAndTitles = kinds.map(({ code, title }) => `- \`${code}\`: ${title}.`);
  const isRetried = kinds.length > 0 && (status === '503' || status === '409');
  const names = [
    'X-Request-Id' as const,
    ...headers,
    ...(isRetried ? ['Retry-After' as const] : []),
  ];
  const content = {
    ...(schema.type !== 'null' && { [contentType]: { schema } }),
    ...problemContent(kinds),
  };
  return {
    description: [...(description === undefined ? [] : [description, '']), ...codesAndTitles]
      .join('\n')
      .trim(),
    headers: Object.fromEntries(names.map((name) => [name, responseHeaders[name]])),
    ...(Object.keys(content).length > 0 ? { content } : { type: 'null' }),
  };
}

function problemContent(kinds: readonly ProblemKind[]) {
  if (kinds.length === 0) return undefined;
  const codes = kinds.map(({ code }) => code);
  const base = { $ref: '#/components/schemas/Problem' };
  return {
    'application/problem+json': {
      schema: { allOf: [base, { properties: { code: { enum: codes } } }] },
    },
  };
}

/** The problems that the route declares, and those that the server responds with for every route. */
function problemsOf(route: RouteOptions): ProblemKind[] {
  const { invalidRequest, uriTooLong, internal } = problemKinds;
  const { params, headers } = requestSchemas(route);
  return [
    invalidRequest,
    ...(isRead(route) ? [] : commandProblems(headers)),
    ...(params === undefined ? [] : [uriTooLong]),
    ...(route.config?.problems ?? []),
    internal,
  ];
}

/** Problems of every command: of its body, if one is sent, and of the guarding headers. */
function commandProblems(headers: z.ZodType | undefined): ProblemKind[] {
  const kinds = problemKinds;
  const unhonoured = unhonouredHeaders(headers);
  const honours = (name: keyof typeof commandHeaders) => !unhonoured.includes(name);
  return [
    kinds.malformedJson,
    kinds.bodyTooLarge,
    kinds.unsupportedMediaType,
    kinds.crossOrigin,
    ...(unhonoured.length > 0 ? [kinds.headerNotHonoured] : []),
    ...(honours('idempotency-key') ? [kinds.idempotencyKeyInUse, kinds.idempotencyKeyReused] : []),
    ...(honours('if-match') ? [kinds.ifMatchWeak] : []),
    ...(needsMatch(headers) ? [kinds.preconditionRequired] : []),
  ];
}
