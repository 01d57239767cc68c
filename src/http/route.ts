import type { FastifyRequest } from 'fastify';
import { z } from 'zod';

import { entityTags } from './entity-tags.ts';
import type { KeyedRequest } from './idempotency.ts';
import { isStrict, toJsonSchema } from './json-schema.ts';
import type { ProblemKind } from './problem.ts';
import { createRequestReader } from './request-parts.ts';
import type { CheckedRequest, RequestSchemas } from './request-parts.ts';

export type Method = 'GET' | 'POST' | 'PUT' | 'DELETE';

export type AnswerHeaders = Readonly<Record<string, string>>;

/** Headers of answers that the OpenAPI document describes. */
export type DescribedHeader = 'ETag' | 'Location' | 'Idempotency-Replayed';

/** One answer that a route can give, for types and for the OpenAPI document. */
export type AnswerSpec = Readonly<{
  description: string;
  /** Left out when the answer has no body. */
  schema?: z.ZodType;
  /** application/json unless said. */
  contentType?: string;
  headers?: readonly DescribedHeader[];
  example?: unknown;
}>;

export type AnswerSpecs = Readonly<Record<number, AnswerSpec>>;

/** An answer whose body is ready-made: JSON text that was stored, a page, a file. */
export type ReadyAnswer = Readonly<{
  status: number;
  text: string | Buffer;
  contentType?: string;
  headers?: AnswerHeaders;
}>;

type DeclaredAnswer<A extends AnswerSpecs> = {
  [S in keyof A & number]: A[S] extends Readonly<{ schema: infer T extends z.ZodType }>
    ? Readonly<{ status: S; body: z.output<T>; headers?: AnswerHeaders }>
    : Readonly<{ status: S; headers?: AnswerHeaders }>;
}[keyof A & number];

/** An answer as the server sends it. */
export type Answer = Readonly<{
  status: number;
  body?: unknown;
  text?: string | Buffer;
  contentType?: string;
  headers?: AnswerHeaders;
}>;

/** What a handler gets: the checked parts of a request. */
export type RouteRequest<P, Q, H, B> = Readonly<{
  params: P;
  query: Q;
  headers: H;
  body: B;
  /** Of a command that was sent with an Idempotency-Key. */
  keyed: KeyedRequest | undefined;
  requestId: string;
  /** A valid W3C traceparent of the caller, if it sent one. */
  traceparent: string | undefined;
}>;

type RouteDescription = Readonly<{
  method: Method;
  /** With parameters in braces: `/v1/orders/{orderId}`. */
  path: string;
  /** camelCase, unique in the service. */
  operationId: string;
  tag: string;
  summary: string;
  description?: string;
  /** What it can fail with, beside what any request can. */
  problems?: readonly ProblemKind[];
  /** An example body for the documentation. */
  example?: unknown;
  /** Logs its requests at debug: probes and scrapes come every few seconds. */
  quiet?: boolean;
  /** Left out of the OpenAPI document: a page for people. */
  hidden?: boolean;
}>;

/** A route as it is declared. Objects in schemas must be strict; `headers` names in lower case. */
export type RouteSpec<
  P extends z.ZodType,
  Q extends z.ZodType,
  H extends z.ZodType,
  B extends z.ZodType,
  A extends AnswerSpecs,
> = RouteDescription &
  Readonly<{
    params?: P;
    query?: Q;
    headers?: H;
    body?: B;
    answers: A;
    /** @throws Problem */
    handle(
      request: RouteRequest<z.output<P>, z.output<Q>, z.output<H>, z.output<B>>,
    ): Promise<DeclaredAnswer<NoInfer<A>> | ReadyAnswer>;
  }>;

/** A route that the server can serve and the document can describe. */
export type Route = RouteDescription &
  Readonly<{
    schemas: RequestSchemas;
    answers: AnswerSpecs;
    /**
     * Checks the request and answers it.
     * @throws Problem
     */
    answer(request: FastifyRequest): Promise<Answer>;
  }>;

type ErasedSpec = RouteDescription &
  RequestSchemas &
  Readonly<{ answers: AnswerSpecs; handle(request: CheckedRequest): Promise<Answer> }>;

/**
 * Declares a route: its handler gets what the schemas make of a request, and nothing else gets in.
 * A part without a schema is typed `undefined`, and must be empty.
 */
export function route<
  A extends AnswerSpecs,
  P extends z.ZodType = z.ZodUndefined,
  Q extends z.ZodType = z.ZodUndefined,
  H extends z.ZodType = z.ZodUndefined,
  B extends z.ZodType = z.ZodUndefined,
>(spec: RouteSpec<P, Q, H, B, A>): Route;
export function route(spec: ErasedSpec): Route {
  const { params, query, headers: declared, body, answers, handle, ...description } = spec;
  const isRead = spec.method === 'GET';
  const headers = isRead ? conditional(declared) : declared;
  const schemas = { params, query, headers, body };
  refuseLooseObjects(spec.operationId, schemas);
  const read = createRequestReader(schemas, spec);
  return {
    ...description,
    schemas,
    answers: isRead ? withNotModified(answers) : answers,
    answer: async (request) => handle(read(request)),
  };
}

/** Every read can be asked whether it has changed; the answer sender sees to it. */
function conditional(headers: z.ZodType = z.object({})): z.ZodType {
  if (!(headers instanceof z.ZodObject)) throw new Error('headers must be a z.object');
  return headers.extend({
    'if-none-match': entityTags
      .optional()
      .describe('ETag that you have. The response is 304 if it is still the present one.'),
  });
}

function withNotModified({ 200: ok, ...others }: AnswerSpecs): AnswerSpecs {
  if (ok === undefined) return others;
  return {
    200: { ...ok, headers: ['ETag', ...(ok.headers ?? [])] },
    304: {
      description: 'Not changed: the caller already has the present state.',
      headers: ['ETag'],
    },
    ...others,
  };
}

/** `/v1/orders/{orderId}` as Fastify writes it. */
export function fastifyPath(path: string): string {
  return path.replaceAll(/\{(\w+)\}/g, ':$1');
}

/** An object that takes unknown members would let a misspelt field pass in silence. */
function refuseLooseObjects(operationId: string, { params, query, body }: RequestSchemas): void {
  for (const [part, schema] of Object.entries({ params, query, body })) {
    if (schema !== undefined && !isStrict(toJsonSchema(schema, 'input'))) {
      throw new Error(`${operationId}: every object in ${part} must be a z.strictObject`);
    }
  }
}
