import type { FastifyReply, FastifyRequest } from 'fastify';
import type { Logger } from 'pino';

import { bodyETag, entityTags, ifNoneMatchHits } from './entity-tags.ts';
import { PROBLEM_MEDIA_TYPE, problemBody, problemHeaders } from './problem.ts';
import type { Problem } from './problem.ts';
import { discardBody, isBodyComing, isUnasked } from './request-body.ts';
import { commonHeaders } from './response-headers.ts';
import type { Answer } from './route.ts';
import { bodyCutShort, internalProblem, toProblem } from './server-errors.ts';

const READS = new Set(['GET', 'HEAD']);
const JSON_MEDIA_TYPE = 'application/json; charset=utf-8';

export type AnswerSender = Readonly<{
  /** Sets status and headers; resolves to the payload, if there is one, once it may be sent. */
  prepare(
    answer: Answer,
    request: FastifyRequest,
    reply: FastifyReply,
  ): Promise<string | Buffer | undefined>;
  /** Answers a failure; what is not a Problem is logged here, once, with its stack. */
  sendError(error: unknown, request: FastifyRequest, reply: FastifyReply): void;
}>;

/** Makes what every answer goes through. While `isLeaving`, callers are asked to reconnect. */
export function createAnswerSender(
  log: Logger,
  bodyBytesMax: number,
  isLeaving: () => boolean,
): AnswerSender {
  const mustDiscard = ({ raw }: FastifyRequest) =>
    isBodyComing(raw) && !isUnasked(raw, bodyBytesMax);
  /** A body that goes on and on, or was never asked for, leaves no place to begin the next request. */
  const isLast = (request: FastifyRequest, reply: FastifyReply) =>
    isLeaving() || isBodyComing(request.raw) || reply.raw.hasHeader('connection');
  const sendProblem = async (problem: Problem, request: FastifyRequest, reply: FastifyReply) => {
    if (mustDiscard(request)) await discardBody(request.raw);
    if (isLast(request, reply)) reply.header('connection', 'close');
    // Fastify asks to close after any body that it refused.
    else reply.removeHeader('connection');
    reply
      .code(problem.status)
      .headers(commonHeaders(request.id, PROBLEM_MEDIA_TYPE, cacheControl(request)))
      .headers(problemHeaders(problem))
      .send(problemBody(problem, request.id));
  };
  const problemOf = (error: unknown, { id, raw }: FastifyRequest) => {
    const problem = toProblem(error);
    if (problem !== undefined) return problem;
    if (raw.destroyed && !raw.complete) return bodyCutShort();
    log.error({ err: error, requestId: id }, 'request failed');
    return internalProblem();
  };
  return {
    async prepare(answer, request, reply) {
      if (mustDiscard(request)) await discardBody(request.raw);
      const contentType = answer.contentType ?? JSON_MEDIA_TYPE;
      if (isLast(request, reply)) reply.header('connection', 'close');
      reply
        .code(answer.status)
        .headers(commonHeaders(request.id, contentType, cacheControl(request)));
      if (answer.headers !== undefined) reply.headers(answer.headers);
      const payload = payloadOf(answer);
      if (payload !== undefined && !isKnown(answer, payload, request, reply)) return payload;
      reply.removeHeader('content-type');
      return undefined;
    },
    sendError(error, request, reply) {
      void sendProblem(problemOf(error, request), request, reply);
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

function cacheControl({ method }: FastifyRequest): string {
  return READS.has(method) ? 'private, no-cache' : 'no-store';
}
