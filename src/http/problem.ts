import type { FastifyReply, FastifyRequest } from 'fastify';

/** A type of error that callers can act on: one for each `code`, listed at /docs/problems. */
export type ProblemKind = Readonly<{
  /** snake_case. Never changes. */
  code: string;
  status: number;
  title: string;
  /** What a caller should do about it, for the documentation. */
  advice: string;
}>;

/**
 * One thing wrong with a request. `pointer` is a JSON pointer into the body (`/items/0/quantity`),
 * or `query/limit`, `path/orderId`, `header/If-Match`.
 */
export type FieldError = Readonly<{ pointer: string; message: string }>;

/** How the resource stands, told with a 409 or 412. */
export type CurrentState = Readonly<{
  status: string;
  version: number;
  allowed: readonly string[];
}>;

export type ProblemDetails = Readonly<{
  /**
   * What went wrong this time and what to do about it; never SQL, a stack or a value from the body. The
   * advice of the kind unless said.
   */
  detail?: string | undefined;
  errors?: readonly FieldError[] | undefined;
  current?: CurrentState | undefined;
  /** More members of the body, such as the `orderId` of a new order whose outcome is unknown. */
  extra?: Readonly<Record<string, unknown>> | undefined;
  /** 1 for a 503 unless said. */
  retryAfterSeconds?: number | undefined;
  headers?: Readonly<Record<string, string>> | undefined;
  /** What it was caused by: for the log only. */
  cause?: unknown;
}>;

/** An error that becomes a response: thrown anywhere below a route, sent as RFC 9457 problem details. */
export class Problem extends Error {
  readonly kind: ProblemKind;
  readonly details: ProblemDetails;

  constructor(kind: ProblemKind, details: ProblemDetails = {}) {
    super(
      details.detail ?? kind.advice,
      details.cause === undefined ? undefined : { cause: details.cause },
    );
    this.name = 'Problem';
    this.kind = kind;
    this.details = details;
  }

  get code(): string {
    return this.kind.code;
  }

  get status(): number {
    return this.kind.status;
  }
}

export const PROBLEM_MEDIA_TYPE = 'application/problem+json; charset=utf-8';

/** Where a code is explained: a reference that resolves against the service's own address. */
export function problemType(code: string): string {
  return `/docs/problems#${code}`;
}

/** The body of the response, as JSON text. */
export function problemBody({ kind, details, message }: Problem, requestId: string): string {
  return JSON.stringify({
    ...details.extra,
    type: problemType(kind.code),
    title: kind.title,
    status: kind.status,
    detail: message,
    code: kind.code,
    requestId,
    errors: details.errors,
    current: details.current,
  });
}

/** The headers of the response, without its content type. */
export function problemHeaders({ status, details }: Problem): Record<string, string> {
  const headers: Record<string, string> = { 'cache-control': 'no-store', ...details.headers };
  const retryAfterSeconds = details.retryAfterSeconds ?? (status === 503 ? 1 : undefined);
  if (retryAfterSeconds !== undefined) {
    headers['retry-after'] = String(Math.max(1, Math.ceil(retryAfterSeconds)));
  }
  return headers;
}

/**
 * What every response carries: it is for its caller only, it is not a page, and it says which request
 * it belongs to.
 */
export function commonHeaders(requestId: string, cacheControl: string): Record<string, string> {
  return {
    'cache-control': cacheControl,
    'content-security-policy': "default-src 'none'; frame-ancestors 'none'",
    'x-content-type-options': 'nosniff',
    'x-request-id': requestId,
  };
}

/** Sends the problem as the response. */
export function sendProblem(problem: Problem, request: FastifyRequest, reply: FastifyReply): void {
  reply
    .code(problem.status)
    .headers(problemHeaders(problem))
    .type(PROBLEM_MEDIA_TYPE)
    .send(problemBody(problem, request.id));
}
