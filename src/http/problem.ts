import { STATUS_CODES } from 'node:http';
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

const PROBLEM_MEDIA_TYPE = 'application/problem+json; charset=utf-8';

/** The page that explains a code, relative to the address of the service. */
export function problemType(code: string): string {
  return `/docs/problems#${code}`;
}

/** The body of the response, as JSON text. */
function problemBody({ kind, details, message }: Problem, requestId: string): string {
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
function problemHeaders({ status, details }: Problem): Record<string, string> {
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
const frameworkRefusals: Readonly<Record<string, ProblemCode>> = {
  FST_ERR_NOT_FOUND: 'route_not_found',
  FST_ERR_VALIDATION: 'invalid_request',
  FST_ERR_CTP_BODY_TOO_LARGE: 'body_too_large',
  FST_ERR_CTP_EMPTY_JSON_BODY: 'malformed_json',
  FST_ERR_CTP_INVALID_JSON_BODY: 'malformed_json',
  FST_ERR_CTP_INVALID_MEDIA_TYPE: 'unsupported_media_type',
  FST_ERR_ROUTE_MISSING_CONTENT: 'malformed_json',
  FST_ERR_ROUTE_MISSING_CONTENT_TYPE: 'unsupported_media_type',
  FST_ERR_MAX_PARAM_LENGTH: 'uri_too_long',
};

/** The problem that was thrown or that a refusal of Fastify becomes; undefined for any other error. */
export function frameworkProblem(error: unknown): Problem | undefined {
  if (error instanceof Problem) return error;
  const code = codeOf(error);
  if (!code.startsWith('FST_ERR_')) return undefined;
  if (code === 'FST_ERR_BAD_URL') {
    const detail = 'The path has a percent encoding that is not valid.';
    return new Problem(problemKind('malformed_request'), { detail });
  }
  if (code === 'FST_ERR_CTP_INVALID_CONTENT_LENGTH') return bodyCutShort();
  const refusal = frameworkRefusals[code];
  if (refusal !== undefined) return new Problem(problemKind(refusal));
  // A newer Fastify may have more refusals.
  return isCallersFault(error) ? new Problem(problemKind('malformed_request')) : undefined;
}

/** The problem of what could not be parsed as a request; `code` is that of Node's error. */
export function clientProblem(code: string): Problem {
  switch (code) {
    case 'ERR_HTTP_REQUEST_TIMEOUT':
      return new Problem(problemKind('request_timeout'));
    case 'HPE_HEADER_OVERFLOW':
      return new Problem(problemKind('headers_too_large'));
    default:
      return new Problem(problemKind('malformed_request'), {
        detail: 'This is not valid HTTP/1.1.',
      });
  }
}

/** The problem of a body that ended too early. */
export function bodyCutShort(): Problem {
  return new Problem(problemKind('malformed_request'), {
    detail: 'The body ended before its Content-Length.',
  });
}

/** The problem of a request that exceeds a limit of the whole server. */
export function overloaded(reason: string): Problem {
  return new Problem(problemKind('overloaded'), {
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

/** What can go wrong with any request, by code. */
const kinds = {
  malformed_request: {
    status: 400,
    title: 'Malformed request',
    advice:
      'The request is not valid HTTP/1.1, or its address is not a valid one. Correct it and ' +
      'send it again.',
  },
  malformed_json: {
    status: 400,
    title: 'Malformed JSON',
    advice: 'The body is empty, is not UTF-8 or is not JSON. Send one JSON object.',
  },
  invalid_request: {
    status: 400,
    title: 'Invalid request',
    advice:
      'Each entry of `errors` names a field and the rule that it breaks. Correct all of them.',
  },
  header_not_honoured: {
    status: 400,
    title: 'Header not honoured',
    advice:
      'The command does not support the header Idempotency-Key, If-Match or If-None-Match that ' +
      'was sent with it. Nothing was done. Leave the header out. The API documentation lists ' +
      'the headers of each command.',
  },
  unauthenticated: {
    status: 401,
    title: 'Not authenticated',
    advice:
      'Send a valid API key or token in the header Authorization: Bearer. `detail` says what is ' +
      'wrong with the present one.',
  },
  insufficient_scope: {
    status: 403,
    title: 'Scope missing',
    advice:
      'The API key or token lacks the scope that `detail` names. Nothing was done. Use one that ' +
      'has it.',
  },
  services_only: {
    status: 403,
    title: 'For services only',
    advice:
      'The API key or token belongs to a customer, and this is for services only. Nothing was done.',
  },
  authentication_unavailable: {
    status: 503,
    title: 'Authentication unavailable',
    advice:
      'The service cannot check API keys or tokens at the moment, so nobody is let in. Nothing ' +
      'was done. Retry after the number of seconds in Retry-After.',
  },
  cross_origin: {
    status: 403,
    title: 'Request from another origin',
    advice:
      'A browser sent this command from a page of another origin. Nothing was done. Send ' +
      'commands from the origin of this service or from one in CORS_ORIGINS.',
  },
  route_not_found: {
    status: 404,
    title: 'No such address',
    advice: 'There is nothing at this path. /openapi.json lists all paths.',
  },
  method_not_allowed: {
    status: 405,
    title: 'Method not allowed',
    advice:
      'This path does not support the method. The Allow header lists the methods that it supports.',
  },
  request_timeout: {
    status: 408,
    title: 'Request took too long to arrive',
    advice: 'Send the whole request within the time limit. Open a new connection to send it again.',
  },
  body_too_large: {
    status: 413,
    title: 'Body too large',
    advice: 'The body is larger than the limit. Send a smaller one.',
  },
  uri_too_long: {
    status: 414,
    title: 'Address too long',
    advice: 'A part of the path is longer than any valid identifier. Shorten it.',
  },
  not_acceptable: {
    status: 406,
    title: 'Not acceptable',
    advice:
      'The header Accept allows none of the media types of this address. The API documentation ' +
      'lists them. Without the header it is application/json.',
  },
  unsupported_media_type: {
    status: 415,
    title: 'Unsupported media type',
    advice: 'Send the body as application/json in UTF-8, without a content encoding.',
  },
  idempotency_key_in_use: {
    status: 409,
    title: 'Idempotency-Key in use',
    advice:
      'Another request with this key is still being processed. Retry after the number of ' +
      'seconds in Retry-After.',
  },
  idempotency_key_reused: {
    status: 422,
    title: 'Idempotency-Key used for another request',
    advice:
      'A key belongs to one request for 72 hours, and this request differs from the first one. ' +
      'Use a new key for a new request.',
  },
  precondition_failed: {
    status: 412,
    title: 'Precondition failed',
    advice:
      'If-Match or If-None-Match does not hold, because the resource has changed. Nothing was ' +
      'done. Read the resource again, decide again, and send its new ETag.',
  },
  if_match_weak: {
    status: 412,
    title: 'If-Match names a weak tag',
    advice:
      'If-Match never matches a weak tag (W/). Nothing was done. This service sends strong tags ' +
      'only, so a proxy has weakened the tag, usually by compressing the response. Send the tag ' +
      'without the W/, or configure the proxy to leave responses unchanged.',
  },
  precondition_required: {
    status: 428,
    title: 'Precondition required',
    advice:
      'This command needs If-Match. Nothing was done. Read the resource, decide, and send the ' +
      'ETag that you read.',
  },
  expectation_failed: {
    status: 417,
    title: 'Expectation not met',
    advice: 'Send the request without the Expect header, or with 100-continue.',
  },
  rate_limited: {
    status: 429,
    title: 'Too many requests',
    advice:
      'More requests came from this address, or with this token, than are accepted in one second. ' +
      'Nothing was done. Retry after the number of seconds in Retry-After. A refused token ' +
      'counts as ten requests.',
  },
  headers_too_large: {
    status: 431,
    title: 'Header fields too large',
    advice: 'Send fewer or shorter headers.',
  },
  not_implemented: {
    status: 501,
    title: 'Not implemented',
    advice:
      'The server does not support this: it is not a proxy (CONNECT), and chunked is the only ' +
      'transfer coding that it knows. Send the request without it.',
  },
  overloaded: {
    status: 503,
    title: 'Overloaded',
    advice:
      'The service has too much to do at the moment. Nothing was written. Retry after the ' +
      'number of seconds in Retry-After.',
  },
  internal: {
    status: 500,
    title: 'Internal error',
    advice:
      'The service has a fault. Its log has the details under the requestId. The request may ' +
      'have taken effect: retry it with the same Idempotency-Key.',
  },
} as const satisfies Record<string, Omit<ProblemKind, 'code'>>;

export type ProblemCode = keyof typeof kinds;

export function problemKind(code: ProblemCode): ProblemKind {
  return { code, ...kinds[code] };
}

/** The problems that every server has. */
export const serverProblems: readonly ProblemKind[] = Object.entries(kinds).map(
  ([code, { status, title, advice }]) => ({ code, status, title, advice }),
);
