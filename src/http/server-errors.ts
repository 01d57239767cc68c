import { STATUS_CODES } from 'node:http';
import type { Socket } from 'node:net';
import { randomUUID } from 'node:crypto';

import { problemKinds } from './problem-kinds.ts';
import { PROBLEM_MEDIA_TYPE, Problem, problemBody } from './problem.ts';

/** More than 200 items of the longest fields need. */
export const BODY_BYTES_MAX = 256 * 1024;

/** The answer to whatever was thrown; undefined when only the log may know what it was. */
export function toProblem(error: unknown): Problem | undefined {
  if (error instanceof Problem) return error;
  switch (codeOf(error)) {
    case 'FST_ERR_CTP_BODY_TOO_LARGE':
      return new Problem(problemKinds.bodyTooLarge, {
        detail: `The body is above the limit of ${BODY_BYTES_MAX / 1024} KiB. Send a smaller one.`,
      });
    case 'FST_ERR_CTP_INVALID_MEDIA_TYPE':
      return new Problem(problemKinds.unsupportedMediaType, {
        detail: 'Send the body as application/json in UTF-8.',
      });
    case 'FST_ERR_CTP_INVALID_CONTENT_LENGTH':
      return bodyCutShort();
    case 'FST_ERR_BAD_URL':
      return new Problem(problemKinds.malformedRequest, {
        detail: 'The path has a percent encoding that is not valid.',
      });
    case 'FST_ERR_MAX_PARAM_LENGTH':
      return new Problem(problemKinds.uriTooLong, {
        detail: 'A part of the path is longer than any identifier here.',
      });
    default:
      return undefined;
  }
}

/** The answer to a body that ended too early; mostly nobody is left to hear it. */
export function bodyCutShort(): Problem {
  return new Problem(problemKinds.malformedRequest, {
    detail: 'The body ended before its Content-Length.',
  });
}

/** The answer to an unknown error: nothing but where to look for it. */
export function internalProblem(): Problem {
  return new Problem(problemKinds.internal, {
    detail: 'An unexpected error. Report the requestId; the log has the rest.',
  });
}

/** Answers what never became a request: broken HTTP, headers too large, a request too slow. */
export function answerClientError(error: Error, socket: Socket): void {
  if (codeOf(error) === 'ECONNRESET' || socket.destroyed || !socket.writable) {
    socket.destroy();
    return;
  }
  const problem = clientProblem(codeOf(error));
  const body = problemBody(problem, randomUUID());
  socket.end(
    `HTTP/1.1 ${problem.status} ${STATUS_CODES[problem.status] ?? ''}\r\n` +
      `content-type: ${PROBLEM_MEDIA_TYPE}\r\ncontent-length: ${Buffer.byteLength(body)}\r\n` +
      `cache-control: no-store\r\nconnection: close\r\n\r\n${body}`,
  );
}

function clientProblem(code: string): Problem {
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

function codeOf(error: unknown): string {
  if (typeof error !== 'object' || error === null || !('code' in error)) return '';
  return String(error.code);
}
