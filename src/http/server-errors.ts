import { STATUS_CODES } from 'node:http';

import { problemKinds } from './problem-kinds.ts';
import {
  PROBLEM_MEDIA_TYPE,
  Problem,
  commonHeaders,
  problemBody,
  problemHeaders,
} from './problem.ts';
import type { ProblemKind } from './problem.ts';

/** More than 200 items of the longest fields need. */
export const BODY_BYTES_MAX = 256 * 1024;

const OVERLOADED_RETRY_AFTER_SECONDS = 1;

/** What Fastify refuses by itself, and the problems that it becomes. */
const frameworkRefusals: Readonly<Record<string, () => Problem>> = {
  FST_ERR_NOT_FOUND: () => plain(problemKinds.routeNotFound),
  FST_ERR_VALIDATION: () => plain(problemKinds.invalidRequest),
  FST_ERR_CTP_BODY_TOO_LARGE: () => bodyTooLarge(BODY_BYTES_MAX),
  FST_ERR_CTP_EMPTY_JSON_BODY: () => plain(problemKinds.malformedJson),
  FST_ERR_CTP_INVALID_CONTENT_LENGTH: () => bodyCutShort(),
  FST_ERR_CTP_INVALID_JSON_BODY: () => plain(problemKinds.malformedJson),
  FST_ERR_CTP_INVALID_MEDIA_TYPE: () => plain(problemKinds.unsupportedMediaType),
  FST_ERR_ROUTE_MISSING_CONTENT: () => plain(problemKinds.malformedJson),
  FST_ERR_ROUTE_MISSING_CONTENT_TYPE: () => plain(problemKinds.unsupportedMediaType),
  FST_ERR_BAD_URL: () =>
    new Problem(problemKinds.malformedRequest, {
      detail: 'The path has a percent encoding that is not valid.',
    }),
  FST_ERR_MAX_PARAM_LENGTH: () => plain(problemKinds.uriTooLong),
};

/** The problem that was thrown, or that Fastify's refusal becomes; undefined for any other error. */
export function frameworkProblem(error: unknown): Problem | undefined {
  if (error instanceof Problem) return error;
  const code = codeOf(error);
  const refusal = frameworkRefusals[code];
  if (refusal !== undefined) return refusal();
  // A refusal that a newer Fastify brings is its caller's fault too, if Fastify says so.
  return code.startsWith('FST_ERR_') && isCallersFault(error)
    ? plain(problemKinds.malformedRequest)
    : undefined;
}

export function bodyTooLarge(bytesMax: number): Problem {
  return new Problem(problemKinds.bodyTooLarge, {
    detail: `The body is above the limit of ${Math.floor(bytesMax / 1024)} KiB. Send a smaller one.`,
  });
}

/** The response to a body that ended too early; mostly nobody is left to hear it. */
export function bodyCutShort(): Problem {
  return new Problem(problemKinds.malformedRequest, {
    detail: 'The body ended before its Content-Length.',
  });
}

/** The response to whoever comes when the server holds as much as it may. */
export function overloaded(reason: string): Problem {
  return new Problem(problemKinds.overloaded, {
    detail: `${reason} Nothing was written. Repeat the request after Retry-After seconds.`,
    retryAfterSeconds: OVERLOADED_RETRY_AFTER_SECONDS,
  });
}

/** The response to an unknown error: nothing but where to look for it. */
export function internalProblem(): Problem {
  return new Problem(problemKinds.internal, {
    detail: 'An unexpected error. Report the requestId; the log has the rest.',
  });
}

/** The response to what is no HTTP or came too slowly; `code` is that of Node's error. */
export function clientProblem(code: string): Problem {
  switch (code) {
    case 'ERR_HTTP_REQUEST_TIMEOUT':
      return new Problem(problemKinds.requestTimeout, {
        detail: 'The request took too long to arrive.',
      });
    case 'HPE_HEADER_OVERFLOW':
      return new Problem(problemKinds.headersTooLarge, { detail: 'The headers are too large.' });
    default:
      return new Problem(problemKinds.malformedRequest, { detail: 'This is not valid HTTP/1.1.' });
  }
}

/** The response to CONNECT, which names no path of this server. */
export function connectRefused(): Problem {
  return new Problem(problemKinds.notImplemented, { detail: 'This server is not a proxy.' });
}

/** The last response of a connection, for where Fastify has no part in it. */
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

function plain(kind: ProblemKind): Problem {
  return new Problem(kind, { detail: kind.advice });
}
