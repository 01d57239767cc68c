import type { FastifyInstance, FastifyRequest, FastifySchema, RouteOptions } from 'fastify';
import { z } from 'zod';

import type { Cors } from './cors.ts';
import { entityTags } from './entity-tags.ts';
import type { EntityTags } from './entity-tags.ts';
import { fieldErrors, summarise } from './field-errors.ts';
import type { RequestPart } from './field-errors.ts';
import { createRequestIdentifier } from './idempotency.ts';
import type { KeyedRequest } from './idempotency.ts';
import { toJsonSchema } from './json-schema.ts';
import { Problem, problemKind } from './problem.ts';
import type { FieldError, ProblemKind } from './problem.ts';
import { createGuardCheck, guardsOf, queryFaults } from './request-head.ts';

declare module 'fastify' {
  interface FastifyContextConfig {
    /** What the route can fail with, besides what every route can. */
    problems?: readonly ProblemKind[];
    /** Its requests are logged at debug, because probes and scrapes come every few seconds. */
    quiet?: boolean;
    /** `/v1/orders/{orderId}`; set for every route. */
    template?: string;
  }
  interface FastifyRequest {
    /** Set for a command that was sent with an Idempotency-Key. */
    keyed: KeyedRequest | undefined;
    ifMatch: EntityTags | undefined;
    ifNoneMatch: EntityTags | undefined;
  }
}

/** The schemas of a route's request. A part without one must be empty; headers are ignored then. */
type RequestSchemas = Readonly<{
  params: z.ZodType | undefined;
  query: z.ZodType | undefined;
  headers: z.ZodType | undefined;
  body: z.ZodType | undefined;
}>;

const noQuery = z.strictObject({});
const NO_BODY = 'must be empty: this request takes no body';
const noBody = z.undefined({ error: NO_BODY });
/** Many clients send an empty object with a command that has no fields. */
const emptyBody = z
  .strictObject({}, { error: NO_BODY })
  .optional()
  .transform(() => undefined);

/**
 * Checks the requests of every route that is added to `app` from now on, with the zod schemas of the route: all
 * parts together, before the handler. A read also accepts If-None-Match.
 *
 * Fastify's own validation is switched off, because it stops at the first part that is not valid.
 */
export function checkRequests(app: FastifyInstance, cors: Pick<Cors, 'allows'>): void {
  app.setValidatorCompiler(() => () => true);
  app.setSerializerCompiler(() => (body) => JSON.stringify(body));
  app.decorateRequest('keyed');
  app.decorateRequest('ifMatch');
  app.decorateRequest('ifNoneMatch');
  app.addHook('onRoute', (route) => {
    if (isRead(route)) route.schema = conditional(route.schema);
    const template = pathTemplate(route.url);
    route.config = { ...route.config, template };
    const check = createRequestCheck(route, template, cors);
    route.preValidation = (request, _, done) => {
      check(request);
      done();
    };
  });
}

/** Every route has one method. Fastify adds a HEAD route to each GET. */
export function isRead({ method }: Pick<RouteOptions, 'method'>): boolean {
  return method === 'GET' || method === 'HEAD';
}

/** `/v1/orders/:orderId` as people write it: `/v1/orders/{orderId}`. */
function pathTemplate(url: string): string {
  return url.replaceAll(/:(\w+)/g, '{$1}');
}

/** A URL without its query. */
export function pathOf(url: string): string {
  const end = url.indexOf('?');
  return end === -1 ? url : url.slice(0, end);
}

/** The schemas of a route's requests. */
export function requestSchemas({ schema }: Pick<RouteOptions, 'schema'>): RequestSchemas {
  return {
    params: zodType(schema?.params),
    query: zodType(schema?.querystring),
    headers: zodType(schema?.headers),
    body: zodType(schema?.body),
  };
}

function zodType(schema: unknown): z.ZodType | undefined {
  if (schema === undefined || schema instanceof z.ZodType) return schema;
  throw new Error('the schemas of a route are zod schemas');
}

function conditional(schema: FastifySchema = {}): FastifySchema {
  const headers = schema.headers ?? z.object({});
  if (!(headers instanceof z.ZodObject)) throw new Error('headers must be a z.object');
  return {
    ...schema,
    headers: headers.extend({
      'if-none-match': entityTags
        .optional()
        .describe('ETag that you have. The response is 304 if it is still the present one.'),
    }),
  };
}

/**
 * Makes the function that checks the requests of one route. It replaces `params`, `query` and `body` of the
 * request by the output of their schemas, and sets `keyed`, `ifMatch` and `ifNoneMatch`. It throws the Problem
 * `cross_origin`, `header_not_honoured`, `precondition_required`, `malformed_json` for a missing body, or
 * `invalid_request`.
 */
function createRequestCheck(
  route: RouteOptions,
  template: string,
  { allows }: Pick<Cors, 'allows'>,
): (request: FastifyRequest) => void {
  const schemas = requestSchemas(route);
  refuseLooseObjects(route.url, schemas);
  const { params, headers, query = noQuery } = schemas;
  const isCommand = !isRead(route);
  const body = schemas.body ?? (isCommand ? emptyBody : noBody);
  const bodyRequired = !body.safeParse(undefined).success;
  const identify = createRequestIdentifier({
    method: String(route.method),
    path: template,
    bodySchema: body,
  });
  const checkGuards = isCommand ? createGuardCheck(headers, allows) : () => {};

  return (request) => {
    checkGuards(request.headers);
    if (request.body === undefined && bodyRequired) {
      throw new Problem(problemKind('malformed_json'), {
        detail: 'The body is empty. Send one JSON object as application/json.',
      });
    }
    const spelt = { path: pathOf(request.url), body: request.body };
    const errors: FieldError[] = queryFaults(request.url);
    request.params = check(params, request.params, 'path', errors);
    request.query = errors.length > 0 ? undefined : check(query, request.query, 'query', errors);
    check(headers, request.headers, 'header', errors);
    request.body = check(body, request.body, 'body', errors);
    if (errors.length > 0) throw new Problem(problemKind('invalid_request'), summarise(errors));
    const { key, ifMatch, ifNoneMatch } = guardsOf(request.headers);
    request.ifMatch = ifMatch;
    request.ifNoneMatch = ifNoneMatch;
    if (!isCommand || key === undefined) return;
    const understood = { params: request.params, body: request.body, ifMatch, ifNoneMatch };
    request.keyed = identify({ principal: request.principal.id, key }, understood, spelt);
  };
}

function check(
  schema: z.ZodType | undefined,
  value: unknown,
  part: RequestPart,
  errors: FieldError[],
): unknown {
  if (schema === undefined) return undefined;
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  errors.push(...fieldErrors(schema, value, part));
  return undefined;
}

/** A loose object would silently ignore a misspelt field. */
function refuseLooseObjects(url: string, { params, query, body }: RequestSchemas): void {
  for (const [part, schema] of Object.entries({ params, query, body })) {
    if (schema !== undefined && !isStrict(toJsonSchema(schema))) {
      throw new Error(`${url}: every object in ${part} must be a z.strictObject`);
    }
  }
}

/** Whether every object in the JSON Schema, at any depth, refuses members that it does not declare. */
function isStrict(schema: unknown): boolean {
  if (typeof schema !== 'object' || schema === null) return true;
  if (
    'properties' in schema &&
    !('additionalProperties' in schema && schema.additionalProperties === false)
  ) {
    return false;
  }
  return Object.values(schema).every(isStrict);
}
