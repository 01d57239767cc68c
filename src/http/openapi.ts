import swagger from '@fastify/swagger';
import type { SwaggerTransform, SwaggerTransformObject } from '@fastify/swagger';
import type { FastifyInstance, FastifySchema, RouteOptions } from 'fastify';
import {
  createJsonSchemaTransform,
  createJsonSchemaTransformObject,
} from 'fastify-type-provider-zod';
import { z } from 'zod';

import { isRead, requestSchemas } from './check-requests.ts';
import { canonicalHeader } from './field-errors.ts';
import { overrideSchema, refuseSecondOfName } from './json-schema.ts';
import { preferParameter, requestIdParameter, responseHeaders } from './openapi-headers.ts';
import type { HeaderName } from './openapi-headers.ts';
import { describeAccess, securitySchemes } from './openapi-security.ts';
import { problemKind, problemType, serverProblems } from './problem.ts';
import type { ProblemCode, ProblemKind } from './problem.ts';
import { needsMatch, unhonouredHeaders } from './request-head.ts';
import type { commandHeaders } from './request-head.ts';

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
    'Large reads are compressed for callers that send `Accept-Encoding: gzip`. The compressed form ' +
    'of an order has its own ETag (`"v3-gzip"`), which If-Match accepts as well.\n\n' +
    'A caller that sends too many requests in a second gets 429 with `Retry-After` and `RateLimit-*` ' +
    'headers. Nothing was done.\n\n' +
    'Request bodies are `application/json` in UTF-8. A command without fields accepts an empty ' +
    'body or `{}`. Ids and references are stored exactly as sent. A sku must be in Unicode NFC ' +
    'and must not contain control characters. Every event is published to Kafka: see ' +
    '[the events](/docs/events).',
  license: { name: 'MIT', identifier: 'MIT' },
};

const { code, title, status } = problemKind('invalid_request');

/** What a problem looks like, for the documentation. */
export const problemExample = {
  type: problemType(code),
  title,
  status,
  detail: '/items/0/quantity must be at least 1.',
  code,
  requestId: '6f1c2a52-3c57-4d1e-9a5b-0c1df4b4a3f5',
  errors: [{ pointer: '/items/0/quantity', message: 'must be at least 1' }],
};

/** The body of every failure, for the OpenAPI document. */
const problemSchema = z
  .looseObject({
    type: z
      .string()
      .meta({ format: 'uri-reference', description: 'Link to the explanation of the code.' }),
    title: z.string(),
    status: z.int().min(400).max(599),
    detail: z.string().meta({ description: 'What went wrong and what to do about it.' }),
    code: z.string().meta({
      pattern: '^[a-z][a-z0-9_]*$',
      description: 'Never changes. Act on this, not on the texts.',
    }),
    requestId: z.string().meta({ description: 'Find the details in the log under this id.' }),
    errors: z
      .array(z.object({ pointer: z.string(), message: z.string() }))
      .optional()
      .meta({
        description:
          'Everything that is wrong with the request. `pointer` is a JSON pointer into the body, ' +
          'or names another part of the request, such as query/limit, path/orderId or ' +
          'header/If-Match.',
      }),
    current: z
      .object({ status: z.string(), version: z.int(), allowed: z.array(z.string()) })
      .optional()
      .meta({ description: 'The present state of the order and the commands that it allows now.' }),
  })
  .meta({
    id: 'Problem',
    description: 'Problem details (RFC 9457).',
    examples: [problemExample],
  });

/**
 * Declares a response of a route for the OpenAPI document. `headers` need not name the ETag of a read. A
 * response without a body is `z.undefined().describe('...')`.
 * @param others schemas of other content types that a caller may ask for; each has an id
 */
export function response<Schema extends z.ZodType>(
  schema: Schema,
  description: string,
  headers: readonly HeaderName[] = [],
  contentType = 'application/json',
  others: Readonly<Record<string, z.ZodType>> = {},
): Schema {
  refuseSecondOfName(schema);
  const otherContent = Object.entries(others).map(([type, other]) => [type, referenceTo(other)]);
  return schema.meta({
    description,
    headers,
    contentType,
    otherContent: Object.fromEntries(otherContent),
  });
}

function referenceTo(schema: z.ZodType): string {
  refuseSecondOfName(schema);
  return `#/components/schemas/${schema.meta()?.id}`;
}

/**
 * Describes every route that is added to `app` from now on as OpenAPI 3.1, from the schemas that check its
 * requests. `app.swagger()` returns the document once `app` is ready. If the service `isOpen`, the document says
 * nothing of authentication.
 */
export function describeApi(app: FastifyInstance, isOpen: boolean): void {
  const tags: { name: string }[] = [];
  const kinds = new Map<string, ProblemKind>();
  for (const kind of serverProblems) kinds.set(kind.code, kind);
  app.decorate('problemKinds', kinds);
  app.addHook('onRoute', ({ schema, config }) => {
    const { problems = [], customerProblems = [] } = config ?? {};
    for (const kind of [...problems, ...customerProblems]) kinds.set(kind.code, kind);
    for (const name of schema?.tags ?? []) {
      if (!tags.some((tag) => tag.name === name)) tags.push({ name });
    }
  });
  void app.register(swagger, {
    openapi: {
      openapi: '3.1.0',
      info: INFO,
      servers: [{ url: '/' }],
      tags,
      components: { ...(!isOpen && { securitySchemes }) },
    },
    convertConstToEnum: false,
    transform: createTransform(isOpen),
    transformObject: createObjectTransform(isOpen),
  });
}

const zodToJsonConfig = { override: overrideSchema };
const toJsonSchemas = createJsonSchemaTransform({ zodToJsonConfig });
const addComponents = createJsonSchemaTransformObject({ zodToJsonConfig });

/** Describes one route: what it declares, and what every route has besides. */
function createTransform(isOpen: boolean): SwaggerTransform {
  return (document) => {
    const { schema, url } = toJsonSchemas(document);
    if (schema.hide === true) return { schema, url };
    const { security, note, problems } = describeAccess(document.route.config);
    if (isOpen) {
      return { url, schema: { ...schema, response: describeResponses(document.route, schema) } };
    }
    const description = [schema.description, note].filter(Boolean).join(' ');
    const response = describeResponses(document.route, schema, problems);
    return { url, schema: { ...schema, description, security, response } };
  };
}

/**
 * Adds the named schemas and the headers. The package lists each named schema twice, the second time as `Input`
 * for requests, which have no named schemas.
 */
function createObjectTransform(isOpen: boolean): SwaggerTransformObject {
  return (document) => {
    const { components, ...described } = documentShape.parse(addComponents(document));
    const schemas = Object.entries(components.schemas).filter(([name]) => !name.endsWith('Input'));
    return {
      ...described,
      components: {
        schemas: Object.fromEntries(schemas),
        headers: responseHeaders,
        ...(!isOpen && { securitySchemes }),
      },
    };
  };
}

/**
 * Spells headers as usual, and moves the example of a parameter into its schema: Swagger UI would fill it into
 * every request.
 */
const parameterShape = z
  .looseObject({
    in: z.string(),
    name: z.string(),
    example: z.unknown().optional(),
    schema: z.looseObject({}),
  })
  .transform(({ name, example, schema, ...rest }) => ({
    ...rest,
    name: rest.in === 'header' ? canonicalHeader(name) : name,
    schema: { ...schema, ...(example !== undefined && { examples: [example] }) },
  }));
const headersOfResponse = z
  .record(z.string(), z.unknown())
  .transform((headers) =>
    Object.fromEntries(
      Object.keys(headers).map((name) => [name, { $ref: `#/components/headers/${name}` }]),
    ),
  );
const operationShape = z
  .looseObject({
    parameters: z.array(parameterShape).default([]),
    responses: z.record(z.string(), z.looseObject({ headers: headersOfResponse })),
  })
  .transform(({ parameters, ...operation }) => {
    const canBeMinimal = Object.values(operation.responses).some(
      ({ headers }) => MINIMAL in headers,
    );
    const more = canBeMinimal ? [preferParameter, requestIdParameter] : [requestIdParameter];
    return { ...operation, parameters: [...parameters, ...more] };
  });
const documentShape = z.looseObject({
  paths: z.record(z.string(), z.record(z.string(), operationShape)),
  components: z.object({ schemas: z.record(z.string(), z.looseObject({})) }),
});

/** A response that a route declares, as JSON Schema. */
const responseShape = z.looseObject({
  description: z.string().default(''),
  headers: z.array(z.string()).default([]),
  contentType: z.string().default('application/json'),
  otherContent: z.record(z.string(), z.string()).default({}),
});
type DeclaredResponse = z.infer<typeof responseShape>;

/** Describes the declared responses of a route, its problems and `more` of them, and 304 for a read. */
function describeResponses(
  route: RouteOptions,
  declared: FastifySchema,
  more: readonly ProblemKind[] = [],
): Record<string, unknown> {
  const responses = z.record(z.string(), responseShape).default({}).parse(declared.response);
  if (isRead(route)) {
    responses['200']?.headers.unshift('ETag');
    responses['304'] = notModified;
  } else {
    for (const { type, headers } of Object.values(responses)) {
      if (type !== 'null') headers.push(MINIMAL);
    }
    const { 200: whole } = responses;
    if (whole) responses['204'] = { ...whole, type: 'null', description: MINIMAL_DESCRIPTION };
  }
  const problems = Map.groupBy([...problemsOf(route), ...more], ({ status }) => String(status));
  const statuses = new Set([...Object.keys(responses), ...problems.keys()]);
  return Object.fromEntries(
    [...statuses].map((status) => [
      status,
      describeResponse(status, responses[status], problems.get(status) ?? []),
    ]),
  );
}

const RETRIED_STATUSES = new Set(['409', '429', '503']);
const CHALLENGED_CODES = new Set(['unauthenticated', 'insufficient_scope']);
const RATE_LIMIT_HEADERS = ['RateLimit-Limit', 'RateLimit-Remaining', 'RateLimit-Reset'];
const MINIMAL = 'Preference-Applied';
const MINIMAL_DESCRIPTION = 'As 200, without a body, because the caller prefers `return=minimal`.';
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
  const {
    description,
    headers = [],
    contentType = '',
    otherContent = {},
    ...schema
  } = declared ?? { type: 'null' };
  const others = Object.entries(otherContent).map(([type, $ref]) => [type, { schema: { $ref } }]);
  const codesAndTitles = kinds.map(({ code, title }) => `- \`${code}\`: ${title}.`);
  const isRetried = kinds.length > 0 && RETRIED_STATUSES.has(status);
  const names = [
    'X-Request-Id',
    ...headers,
    ...(status === '429' ? RATE_LIMIT_HEADERS : []),
    ...(kinds.some(({ code }) => CHALLENGED_CODES.has(code)) ? ['WWW-Authenticate'] : []),
    ...(isRetried ? ['Retry-After'] : []),
  ];
  const content = {
    ...(schema.type !== 'null' && { [contentType]: { schema }, ...Object.fromEntries(others) }),
    ...problemContent(kinds),
  };
  return {
    description: [...(description === undefined ? [] : [description, '']), ...codesAndTitles]
      .join('\n')
      .trim(),
    headers: Object.fromEntries(names.map((name) => [name, {}])),
    ...(Object.keys(content).length > 0 ? { content } : { type: 'null' }),
  };
}

function problemContent(kinds: readonly ProblemKind[]) {
  if (kinds.length === 0) return undefined;
  const codes = kinds.map(({ code }) => code);
  const base = { $ref: referenceTo(problemSchema) };
  return {
    'application/problem+json': {
      schema: { allOf: [base, { properties: { code: { enum: codes } } }] },
    },
  };
}

/** The problems that the route declares, and those that the server responds with for every route. */
function problemsOf(route: RouteOptions): ProblemKind[] {
  const { params, headers } = requestSchemas(route);
  const codes: readonly ProblemCode[] = [
    'invalid_request',
    'rate_limited',
    ...(isRead(route) ? [] : commandProblems(headers)),
    ...(params === undefined ? [] : ['uri_too_long' as const]),
  ];
  return [...codes.map(problemKind), ...(route.config?.problems ?? []), problemKind('internal')];
}

/** Problems of every command: of its body, if one is sent, and of the guarding headers. */
function commandProblems(headers: z.ZodType | undefined): ProblemCode[] {
  const unhonoured = unhonouredHeaders(headers);
  const honours = (name: keyof typeof commandHeaders) => !unhonoured.includes(name);
  const codes: ProblemCode[] = [
    'malformed_json',
    'body_too_large',
    'unsupported_media_type',
    'cross_origin',
  ];
  if (unhonoured.length > 0) codes.push('header_not_honoured');
  if (honours('idempotency-key')) codes.push('idempotency_key_in_use', 'idempotency_key_reused');
  if (honours('if-match')) codes.push('if_match_weak');
  if (needsMatch(headers)) codes.push('precondition_required');
  return codes;
}
