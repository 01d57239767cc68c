import type { IncomingMessage } from 'node:http';
import type { FastifyReply, FastifyRequest } from 'fastify';

import { commonHeaders } from './problem.ts';
import { discardBody, isBodyComing, isUnasked } from './request-body.ts';
import { bodyETag, ifNoneMatchHits } from './entity-tags.ts';

export const JSON_MEDIA_TYPE = 'application/json; charset=utf-8';
const READS = new Set(['GET', 'HEAD']);

/** A response whose body is JSON text, because it is stored, or was just made to be stored. */
export type TextResponse = Readonly<{
  status: number;
  etag: string | null;
  location?: string | null;
  body: string;
  /** The command took effect earlier, under the same key. */
  replayed?: boolean;
}>;

/** Sends the text as it is. An async handler must return the reply, or await it. */
export function sendText(
  reply: FastifyReply,
  { status, etag, location = null, body, replayed = false }: TextResponse,
): FastifyReply {
  if (etag !== null) reply.header('etag', etag);
  if (location !== null) reply.header('location', location);
  if (replayed) reply.header('idempotency-replayed', 'true');
  return reply.code(status).type(JSON_MEDIA_TYPE).send(body);
}

/** Sets the common headers that a handler may override. */
export function setCommonHeaders(request: FastifyRequest, reply: FastifyReply): void {
  const cacheControl = READS.has(request.method) ? 'private, no-cache' : 'no-store';
  reply.headers(commonHeaders(request.id, cacheControl));
}

/** Makes the hook `onSend` of every response: a read gets its ETag, and 304 if the caller has it already. */
export function createOnSend(release: ReturnType<typeof createRelease>) {
  return (
    request: FastifyRequest,
    reply: FastifyReply,
    payload: unknown,
    done: (error?: Error | null, payload?: unknown) => void,
  ): void => {
    const send = () => {
      // Where the body took too long, the connection has sent the response.
      if (reply.raw.writableEnded) return;
      if (!isUnchanged(request, reply, payload)) return done();
      reply.code(304).removeHeader('content-type');
      // Fastify counts the bytes of a response to HEAD after this hook, and null has none to count.
      done(null, request.method === 'HEAD' ? '' : null);
    };
    const discarded = release(request, reply);
    if (discarded === undefined) return send();
    void discarded.then(send);
  };
}

/**
 * Makes what lets go of a connection as its response is sent. It returns a promise where the rest of the
 * body must be thrown away first, and asks the caller to close the connection where no other request can
 * follow: a body that goes on and on, or was never asked for, leaves no place to begin the next one. While
 * `isLeaving`, all callers are asked to reconnect.
 */
export function createRelease(bodyBytesMax: number, isLeaving: () => boolean) {
  const mustDiscard = (raw: IncomingMessage) => isBodyComing(raw) && !isUnasked(raw, bodyBytesMax);
  const setConnection = ({ raw }: FastifyRequest, reply: FastifyReply) => {
    const isLast = isLeaving() || isBodyComing(raw) || reply.raw.hasHeader('connection');
    if (isLast) reply.header('connection', 'close');
    // Fastify asks to close after any body that it refused.
    else reply.removeHeader('connection');
  };
  return (request: FastifyRequest, reply: FastifyReply): Promise<void> | undefined => {
    if (mustDiscard(request.raw)) {
      return discardBody(request.raw).then(() => setConnection(request, reply));
    }
    setConnection(request, reply);
    return undefined;
  };
}

/** Tags what was read. True if the caller has it already. */
function isUnchanged(request: FastifyRequest, reply: FastifyReply, payload: unknown): boolean {
  if (reply.statusCode !== 200 || !READS.has(request.method)) return false;
  if (typeof payload !== 'string' && !Buffer.isBuffer(payload)) return false;
  const own = reply.getHeader('etag');
  const etag = typeof own === 'string' ? own : bodyETag(payload);
  if (own === undefined) reply.header('etag', etag);
  return request.ifNoneMatch !== undefined && ifNoneMatchHits(request.ifNoneMatch, etag);
}
