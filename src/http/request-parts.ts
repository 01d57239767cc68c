import type { FastifyRequest } from 'fastify';
import { z } from 'zod';

import {
  guardsOf,
  needsMatch,
  parseTraceparent,
  queryFaults,
  refuseCrossOrigin,
  refuseUnhonoured,
  requireIfMatch,
  unhonouredHeaders,
} from './request-head.ts';
import { fieldErrors, summarise } from './field-errors.ts';
import type { RequestPart } from './field-errors.ts';
import { createRequestIdentifier } from './idempotency.ts';
import type { KeyedRequest } from './idempotency.ts';
import { problemKinds } from './problem-kinds.ts';
import { Problem } from './problem.ts';
import type { FieldError } from './problem.ts';

/** The schemas of a route's request. A part without one must be empty; headers are ignored then. */
export type RequestSchemas = Readonly<{
  params?: z.ZodType | undefined;
  query?: z.ZodType | undefined;
  headers?: z.ZodType | undefined;
  body?: z.ZodType | undefined;
}>;

const noQuery = z.strictObject({});
const NO_BODY = 'must be empty: this request takes no body';
const noBody = z.undefined({ error: NO_BODY });
/** Many clients send an empty object where there is nothing to say. */
const emptyBody = z
  .strictObject({}, { error: NO_BODY })
  .optional()
  .transform(() => undefined);

/** The checked parts of a request, as a handler gets them. */
export type CheckedRequest = Readonly<{
  params: unknown;
  query: unknown;
  headers: unknown;
  body: unknown;
  /** Of a command that was sent with an Idempotency-Key. */
  keyed: KeyedRequest | undefined;
  requestId: string;
  traceparent: string | undefined;
}>;

/**
 * Makes the function that checks requests of one route, all parts at once. A command is refused when it
 * comes with a guarding header that its route does not honour.
 * The function throws the Problem `malformed_json` for a missing body, `header_not_honoured`,
 * `precondition_required`, `cross_origin`, or else `invalid_request`.
 */
export function createRequestReader(
  schemas: RequestSchemas,
  { method, path }: Readonly<{ method: string; path: string }>,
) {
  const isCommand = method !== 'GET';
  const query = schemas.query ?? noQuery;
  const body = schemas.body ?? (isCommand ? emptyBody : noBody);
  const bodyRequired = !body.safeParse(undefined).success;
  const matchRequired = isCommand && needsMatch(schemas.headers);
  const unhonoured = isCommand ? unhonouredHeaders(schemas.headers) : [];
  const identify = createRequestIdentifier({ method, path, bodySchema: body });

  return (request: FastifyRequest): CheckedRequest => {
    if (isCommand) {
      refuseCrossOrigin(request.headers);
      refuseUnhonoured(request.headers, unhonoured);
      if (matchRequired) requireIfMatch(request.headers);
    }
    if (request.body === undefined && bodyRequired) {
      throw new Problem(problemKinds.malformedJson, {
        detail: 'The body is empty. Send one JSON object as application/json.',
      });
    }
    const errors: FieldError[] = queryFaults(request.url);
    const checked = {
      params: check(schemas.params, request.params, 'path', errors),
      query: errors.length > 0 ? undefined : check(query, request.query, 'query', errors),
      headers: check(schemas.headers, request.headers, 'header', errors),
      body: check(body, request.body, 'body', errors),
      requestId: request.id,
      traceparent: parseTraceparent(request.headers['traceparent']),
    };
    if (errors.length > 0) throw new Problem(problemKinds.invalidRequest, summarise(errors));
    const { key, ifMatch, ifNoneMatch } = guardsOf(request.headers);
    if (!isCommand || key === undefined) return { ...checked, keyed: undefined };
    const spelt = { path: pathOf(request.url), body: request.body };
    return { ...checked, keyed: identify(key, { ...checked, ifMatch, ifNoneMatch }, spelt) };
  };
}

/** An address without its query. */
export function pathOf(url: string): string {
  const end = url.indexOf('?');
  return end === -1 ? url : url.slice(0, end);
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
