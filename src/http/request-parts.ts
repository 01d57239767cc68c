import type { FastifyRequest } from 'fastify';
import { z } from 'zod';

import { fieldErrors, summarise } from './field-errors.ts';
import type { RequestPart } from './field-errors.ts';
import { problemKinds } from './problem-kinds.ts';
import { Problem } from './problem.ts';
import type { FieldError } from './problem.ts';
import { parseTraceparent } from './traceparent.ts';

/** The schemas of a route's request. A part without one must be empty; headers are ignored then. */
export type RequestSchemas = Readonly<{
  params?: z.ZodType | undefined;
  query?: z.ZodType | undefined;
  headers?: z.ZodType | undefined;
  body?: z.ZodType | undefined;
}>;

const noQuery = z.strictObject({});
const noBody = z.undefined({ error: 'must be empty: this request takes no body' });

/** The checked parts of a request, as a handler gets them. */
export type CheckedRequest = Readonly<{
  params: unknown;
  query: unknown;
  headers: unknown;
  body: unknown;
  rawBody: unknown;
  method: string;
  path: string;
  requestId: string;
  traceparent: string | undefined;
}>;

/**
 * Makes the function that checks requests of one route, all parts at once.
 * The function throws the Problem `malformed_json` for a missing body, else `invalid_request`.
 */
export function createRequestReader(schemas: RequestSchemas) {
  const query = schemas.query ?? noQuery;
  const body = schemas.body ?? noBody;
  const bodyRequired = !body.safeParse(undefined).success;

  return (request: FastifyRequest): CheckedRequest => {
    if (request.body === undefined && bodyRequired) {
      throw new Problem(problemKinds.malformedJson, {
        detail: 'The body is empty. Send one JSON object as application/json.',
      });
    }
    const errors: FieldError[] = [];
    const checked = {
      params: check(schemas.params, request.params, 'path', errors),
      query: check(query, request.query, 'query', errors),
      headers: check(schemas.headers, request.headers, 'header', errors),
      body: check(body, request.body, 'body', errors),
      rawBody: request.body,
      method: request.method,
      path: pathOf(request.url),
      requestId: request.id,
      traceparent: parseTraceparent(request.headers['traceparent']),
    };
    if (errors.length > 0) throw new Problem(problemKinds.invalidRequest, summarise(errors));
    return checked;
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
