import { STATUS_CODES } from 'node:http';
import type { FastifyReply, FastifyRequest } from 'fastify';

import { problemKinds } from './problem-kinds.ts';
import type { ProblemKind } from './problem-kinds.ts';

/**
 * One thing wrong with a request. `pointer` is a JSON pointer into the body (`/items/0/quantity`),
 * or `query/limit`, `path/orderId`, `header/If-Match`.
 */
export type FieldError = Readonly<{ pointer: string; message: string }>;

/** The present state of the resource, sent with a 409 or 412. */
export type CurrentState = Readonly<{
  status: string;
  version: number;
  allowed: readonly string[];
}>;

export type ProblemDetails = Readonly<{
  /**
   * What went wrong this time and what to do about it; never SQL, a stack or a value from the body. By
   * default the advice of the kind.
   */
  detail?: string | undefined;
  errors?: readonly FieldError[] | undefined;
  current?: CurrentState | undefined;
  /** More members of the body, such as the `orderId` of a new order whose outcome is unknown. */
  extra?: Readonly<Record<string, unknown>> | undefined;
  /** By default 1 for a 503, and none for another status. */
  retryAfterSeconds?: number | undefined;
  headers?: Readonly<Record<string, string>> | undefined;
  /** For the log only. */
  cause?: unknown;
}>;

/** An error that is sent as RFC 9457 problem details. It can be thrown anywhere below a route. */
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

/** The page that explains a code, relative to the address of the service. */
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
 * The headers of every response: only its caller may store it, a browser must not treat it as a page, and
 * it names its request.
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

/** The last response of a connection, as text and in parts, for requests that Fastify never sees. */
export function rawProblem(problem: Problem, requestId: string) {
  const body = problemBody(problem, requestId);
  const headers = {
    ...commonHeaders(requestId, 'no-store'),
    'content-type': PROBLEM_MEDIA_TYPE,
    ...problemHeaders(problem),
    'content-length': String(Buffer.byteLength(body)),
    connection: 'close',
  };
  const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`);
  const statusLine = `HTTP/1.1 ${problem.status} ${STATUS_CODES[problem.status] ?? ''}`;
  return { headers, body, text: `${statusLine}\r\n${lines.join('')}\r\n${body}` };
}

/** The problems that Fastify's own refusals become. */
const frameworkRefusals: Readonly<Record<string, ProblemKind>> = {
  FST_ERR_NOT_FOUND: problemKinds.routeNotFound,
  FST_ERR_VALIDATION: problemKinds.invalidRequest,
  FST_ERR_CTP_BODY_TOO_LARGE: problemKinds.bodyTooLarge,
  FST_ERR_CTP_EMPTY_JSON_BODY: problemKinds.malformedJson,
  FST_ERR_CTP_INVALID_JSON_BODY: problemKinds.malformedJson,
  FST_ERR_CTP_INVALID_MEDIA_TYPE: problemKinds.unsupportedMediaType,
  FST_ERR_ROUTE_MISSING_CONTENT: problemKinds.malformedJson,
  FST_ERR_ROUTE_MISSING_CONTENT_TYPE: problemKinds.unsupportedMediaType,
  FST_ERR_MAX_PARAM_LENGTH: problemKinds.uriTooLong,
};

/** The problem that was thrown or that a refusal of Fastify becomes; undefined for any other error. */
export function frameworkProblem(error: unknown): Problem | undefined {
  if (error instanceof Problem) return error;
  const code = codeOf(error);
  if (!code.startsWith('FST_ERR_')) return undefined;
  if (code === 'FST_ERR_BAD_URL') {
    const detail = 'The path has a percent encoding that is not valid.';
    return new Problem(problemKinds.malformedRequest, { detail });
  }
  if (code === 'FST_ERR_CTP_INVALID_CONTENT_LENGTH') return bodyCutShort();
  const kind = frameworkRefusals[code];
  if (kind !== undefined) return new Problem(kind);
  // A newer Fastify may have more refusals.
  return isCallersFault(error) ? new Problem(problemKinds.malformedRequest) : undefined;
}

/** The problem of what could not be parsed as a request; `code` is that of Node's error. */
export function clientProblem(code: string): Problem {
  switch (code) {
    case 'ERR_HTTP_REQUEST_TIMEOUT':
      return new Problem(problemKinds.requestTimeout);
    case 'HPE_HEADER_OVERFLOW':
      return new Problem(problemKinds.headersTooLarge);
    default:
      return new Problem(problemKinds.malformedRequest, { detail: 'This is not valid HTTP/1.1.' });
  }
}

/** The problem of a body that ended too early. */
export function bodyCutShort(): Problem {
  return new Problem(problemKinds.malformedRequest, {
    detail: 'The body ended before its Content-Length.',
  });
}

/** The problem of a request that exceeds a limit of the whole server. */
export function overloaded(reason: string): Problem {
  return new Problem(problemKinds.overloaded, {
    detail: `${reason} Nothing was written. Retry after the number of seconds in Retry-After.`,
  });
}

/** The `code` of an error, or empty. */
export function codeOf(error: unknown): string {
  if (typeof error !== 'object' || error === null || !('code' in error)) return '';
  return String(error.code);
}

function isCallersFault(error: unknown): boolean {
  if (typeof error !== 'object' || error === null || !('statusCode' in error)) return false;
  const { statusCode } = error;
  return typeof statusCode === 'number' && statusCode >= 400 && statusCode < 500;
}
