import type { z } from 'zod';

import { needsMatch, unhonouredHeaders } from './request-head.ts';
import type { commandHeaders } from './request-head.ts';
import { canonicalHeader } from './field-errors.ts';
import { hoist, readProperties, toJsonSchema } from './json-schema.ts';
import { responseHeaders, problemSchema } from './openapi-components.ts';
import { problemKinds } from './problem-kinds.ts';
import type { ProblemKind } from './problem.ts';
import type { AnswerSpec, DescribedHeader, Route } from './route.ts';

/** Version of the API, not of the program. */
const API_VERSION = '1.0.0';

export type OpenApiDocument = Readonly<{
  openapi: '3.1.0';
  info: Readonly<Record<string, unknown>>;
  servers: readonly Readonly<{ url: string }>[];
  tags: readonly Readonly<{ name: string }>[];
  paths: Readonly<Record<string, Readonly<Record<string, unknown>>>>;
  components: Readonly<{ schemas: Schemas; headers: Readonly<Record<string, unknown>> }>;
}>;

type Schemas = Record<string, unknown>;

/** Describes the routes as OpenAPI 3.1, from the same schemas that check their requests. */
export function buildOpenApi(routes: readonly Route[]): OpenApiDocument {
  const shown = routes.filter(({ hidden }) => hidden !== true);
  const schemas: Schemas = {};
  const paths: Record<string, Record<string, unknown>> = {};
  for (const route of shown) {
    const operations = (paths[route.path] ??= {});
    operations[route.method.toLowerCase()] = describeRoute(route, schemas);
  }
  return {
    openapi: '3.1.0',
    info: {
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
    },
    servers: [{ url: '/' }],
    tags: [...new Set(shown.map(({ tag }) => tag))].map((name) => ({ name })),
    paths,
    components: { schemas, headers: responseHeaders },
  };
}

/** Every problem that the routes or the server itself can respond with, by status and code. */
export function allProblemKinds(routes: readonly Route[]): ProblemKind[] {
  const kinds: ProblemKind[] = Object.values(problemKinds);
  for (const { problems } of routes) kinds.push(...(problems ?? []));
  const byCode = new Map(kinds.map((kind) => [kind.code, kind]));
  return [...byCode.values()].toSorted((a, b) => a.status - b.status || (a.code < b.code ? -1 : 1));
}

function describeRoute(route: Route, schemas: Schemas) {
  const { params, query, headers, body } = route.schemas;
  return {
    operationId: route.operationId,
    tags: [route.tag],
    summary: route.summary,
    ...(route.description !== undefined && { description: route.description }),
    parameters: [
      ...describeParameters(params, 'path', schemas),
      ...describeParameters(query, 'query', schemas),
      ...describeParameters(headers, 'header', schemas),
    ],
    ...(body !== undefined && {
      requestBody: {
        required: !body.safeParse(undefined).success,
        content: {
          'application/json': {
            schema: hoist(toJsonSchema(body, 'input'), schemas),
            ...(route.example !== undefined && { example: route.example }),
          },
        },
      },
    }),
    responses: describeResponses(route, schemas),
  };
}

function describeParameters(
  schema: z.ZodType | undefined,
  place: 'path' | 'query' | 'header',
  schemas: Schemas,
) {
  if (schema === undefined) return [];
  return readProperties(toJsonSchema(schema, 'input')).map(({ name, required, property }) => ({
    name: place === 'header' ? canonicalHeader(name) : name,
    in: place,
    required: place === 'path' || required,
    description: descriptionOf(property),
    schema: hoist(property, schemas),
  }));
}

/** Undefined where the schema has none: the document then leaves it out. */
function descriptionOf(schema: unknown): unknown {
  const isDescribed = typeof schema === 'object' && schema !== null && 'description' in schema;
  return isDescribed ? schema.description : undefined;
}

function describeResponses(route: Route, schemas: Schemas): Record<string, unknown> {
  const problems = Map.groupBy(problemsOf(route), (kind) => kind.status);
  const statuses = new Set([...Object.keys(route.answers).map(Number), ...problems.keys()]);
  return Object.fromEntries(
    [...statuses].map((status) => [
      String(status),
      describeResponse(status, route.answers[status], problems.get(status) ?? [], schemas),
    ]),
  );
}

function describeResponse(
  status: number,
  answer: AnswerSpec | undefined,
  kinds: readonly ProblemKind[],
  schemas: Schemas,
) {
  const codesAndTitles = kinds.map(({ code, title }) => `- \`${code}\`: ${title}.`);
  const content: Record<string, unknown> = {};
  if (answer?.schema !== undefined) {
    content[answer.contentType ?? 'application/json'] = {
      schema: hoist(toJsonSchema(answer.schema, 'output'), schemas),
      ...(answer.example !== undefined && { example: answer.example }),
    };
  }
  if (kinds.length > 0) {
    const codes = kinds.map(({ code }) => code);
    const base = hoist(toJsonSchema(problemSchema, 'output'), schemas);
    content['application/problem+json'] = {
      schema: { allOf: [base, { properties: { code: { enum: codes } } }] },
    };
  }
  return {
    description: [...(answer === undefined ? [] : [answer.description, '']), ...codesAndTitles]
      .join('\n')
      .trim(),
    headers: headerReferences([
      ...(answer?.headers ?? []),
      ...(kinds.length > 0 && (status === 503 || status === 409) ? ['Retry-After' as const] : []),
    ]),
    ...(Object.keys(content).length > 0 && { content }),
  };
}

function headerReferences(names: readonly (DescribedHeader | 'Retry-After')[]) {
  const all = ['X-Request-Id', ...names];
  return Object.fromEntries(all.map((name) => [name, { $ref: `#/components/headers/${name}` }]));
}

/** The problems that the route declares, and those that the server responds with for every route. */
function problemsOf(route: Route): ProblemKind[] {
  const { invalidRequest, uriTooLong, internal } = problemKinds;
  return [
    invalidRequest,
    ...(route.method === 'GET' ? [] : commandProblems(route)),
    ...(route.schemas.params === undefined ? [] : [uriTooLong]),
    ...(route.problems ?? []),
    internal,
  ];
}

/** Problems of every command: of its body, if one is sent, and of the guarding headers. */
function commandProblems({ schemas }: Route): ProblemKind[] {
  const kinds = problemKinds;
  const unhonoured = unhonouredHeaders(schemas.headers);
  const honours = (name: keyof typeof commandHeaders) => !unhonoured.includes(name);
  return [
    kinds.malformedJson,
    kinds.bodyTooLarge,
    kinds.unsupportedMediaType,
    kinds.crossOrigin,
    ...(unhonoured.length > 0 ? [kinds.headerNotHonoured] : []),
    ...(honours('idempotency-key') ? [kinds.idempotencyKeyInUse, kinds.idempotencyKeyReused] : []),
    ...(honours('if-match') ? [kinds.ifMatchWeak] : []),
    ...(needsMatch(schemas.headers) ? [kinds.preconditionRequired] : []),
  ];
}
