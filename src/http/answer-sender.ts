import type { FastifyReply, FastifyRequest } from 'fastify';
import type { Logger } from 'pino';

import { discardBody } from './connections.ts';
import { bodyETag, entityTags, ifNoneMatchHits } from './entity-tags.ts';
import { problemKinds } from './problem-kinds.ts';
import { PROBLEM_MEDIA_TYPE, problemBody, problemHeaders } from './problem.ts';
import type { Problem } from './problem.ts';
import type { Answer } from './route.ts';
import { bodyCutShort, internalProblem, toProblem } from './server-errors.ts';

const READS = new Set(['GET', 'HEAD']);
const JSON_MEDIA_TYPE = 'application/json; charset=utf-8';

export type AnswerSender = Readonly<{
  /** Sets status and headers; returns the payload, if there is one. */
  prepare(
    answer: Answer,
    request: FastifyRequest,
    reply: FastifyReply,
  ): string | Buffer | undefined;
  /** Answers a failure; what is not a Problem is logged here, once, with its stack. */
  sendError(error: unknown, request: FastifyRequest, reply: FastifyReply): void;
}>;

/** Makes what every answer goes through. While `isLeaving`, callers are asked to reconnect. */
export function createAnswerSender(log: Logger, isLeaving: () => boolean): AnswerSender {
  const sendProblem = (problem: Problem, request: FastifyRequest, reply: FastifyReply) => {
    // Fastify asks to close after any body it refused; one that has arrived whole needs no closing.
    if (request.raw.complete) reply.removeHeader('connection');
    reply
      .code(problem.status)
      .headers(commonHeaders(request, PROBLEM_MEDIA_TYPE, isLeaving()))
      .headers(problemHeaders(problem))
      .send(problemBody(problem, request.id));
  };
  return {
    prepare(answer, request, reply) {
      const contentType = answer.contentType ?? JSON_MEDIA_TYPE;
      reply.code(answer.status).headers(commonHeaders(request, contentType, isLeaving()));
      if (answer.headers !== undefined) reply.headers(answer.headers);
      const payload = payloadOf(answer);
      if (payload !== undefined && !isKnown(answer, payload, request, reply)) return payload;
      reply.removeHeader('content-type');
      return undefined;
    },
    sendError(error, request, reply) {
      const problem = toProblem(error);
      if (problem === undefined && request.raw.destroyed && !request.raw.complete) {
        sendProblem(bodyCutShort(), request, reply);
      } else if (problem === undefined) {
        log.error({ err: error, requestId: request.id }, 'request failed');
        sendProblem(internalProblem(), request, reply);
      } else if (problem.kind === problemKinds.bodyTooLarge && !expectsContinue(request)) {
        discardBody(request.raw, () => sendProblem(problem, request, reply));
      } else {
        sendProblem(problem, request, reply);
      }
    },
  };
}

function payloadOf({ text, body }: Answer): string | Buffer | undefined {
  return text ?? (body === undefined ? undefined : JSON.stringify(body));
}

/** Tags what was read, and makes it a 304 where the caller has it already. */
function isKnown(
  { status, headers }: Answer,
  payload: string | Buffer,
  request: FastifyRequest,
  reply: FastifyReply,
): boolean {
  if (status !== 200 || !READS.has(request.method)) return false;
  const etag = headers?.['etag'] ?? bodyETag(payload);
  reply.header('etag', etag);
  const ifNoneMatch = entityTags.safeParse(request.headers['if-none-match']).data;
  if (ifNoneMatch === undefined || !ifNoneMatchHits(ifNoneMatch, etag)) return false;
  reply.code(304);
  return true;
}

/** The caller told the length and holds the body back until it is asked: nothing to discard. */
function expectsContinue(request: FastifyRequest): boolean {
  const { expect, 'content-length': length } = request.headers;
  return expect !== undefined && length !== undefined;
}

/** An API answer is for its caller only, is not a page, and says which request it answers. */
function commonHeaders(
  { id, method }: FastifyRequest,
  contentType: string,
  isLeaving: boolean,
): Record<string, string> {
  const headers = {
    'content-type': contentType,
    'cache-control': READS.has(method) ? 'private, no-cache' : 'no-store',
    'content-security-policy': "default-src 'none'; frame-ancestors 'none'",
    'x-content-type-options': 'nosniff',
    'x-request-id': id,
  };
  return isLeaving ? { ...headers, connection: 'close' } : headers;
}
