import type { IncomingMessage } from 'node:http';
import type { FastifyReply, FastifyRequest } from 'fastify';
import type { Logger } from 'pino';

import { pathOf } from './check-requests.ts';
import { acceptsGzip, compressed, gzipETag, isCompressible } from './compression.ts';
import type { ConnectionFault } from './connections.ts';
import { bodyETag, ifNoneMatchHits } from './entity-tags.ts';
import type { Metrics } from './metrics.ts';
import { prefersMinimal } from './preferences.ts';
import { commonHeaders } from './problem.ts';
import { discardBody, isBodyComing, isUnasked } from './request-body.ts';

export const JSON_MEDIA_TYPE = 'application/json; charset=utf-8';
const READS = new Set(['GET', 'HEAD']);

/** What is sent of the response to a command, or of a read that makes its own text. */
type TextResponse = Readonly<{
  status: number;
  etag: string | null;
  location?: string | null;
  /** JSON text. */
  body: string;
  /** JSON_MEDIA_TYPE if unset. */
  mediaType?: string;
  /** True if an earlier request with the same key got this response. */
  replayed?: boolean;
}>;

/**
 * Sends the text as it is, or the response to a command without a body if its caller prefers that. An async
 * handler must return the reply, or await it.
 */
export function sendText(
  reply: FastifyReply,
  { status, etag, location = null, body, replayed = false, mediaType }: TextResponse,
): FastifyReply {
  if (etag !== null) reply.header('etag', etag);
  if (location !== null) reply.header('location', location);
  if (replayed) reply.header('idempotency-replayed', 'true');
  const { method, headers } = reply.request;
  if (!READS.has(method) && prefersMinimal(headers)) {
    reply.header('preference-applied', 'return=minimal');
    return reply.code(status === 200 ? 204 : status).send();
  }
  return reply
    .code(status)
    .type(mediaType ?? JSON_MEDIA_TYPE)
    .send(body);
}

/** Sets the headers of every response. A handler may override them. */
export function setCommonHeaders(request: FastifyRequest, reply: FastifyReply): void {
  const cacheControl = READS.has(request.method) ? 'private, no-cache' : 'no-store';
  reply.headers(commonHeaders(request.id, cacheControl));
}

/**
 * Makes the hook `onSend` of every response. A read gets its ETag, and 304 if the caller has the same one, and is
 * compressed if it is large and the caller accepts that.
 */
export function createOnSend(finish: ReturnType<typeof createFinish>) {
  return (
    request: FastifyRequest,
    reply: FastifyReply,
    payload: unknown,
    done: (error?: Error | null, payload?: unknown) => void,
  ): void => {
    const send = () => {
      // If the body took too long, the connection has sent the response.
      if (reply.raw.writableEnded) return;
      if (!isReadOf(request, reply, payload)) return done();
      const isGzip = setCoding(request, reply, payload);
      if (isUnchanged(request, reply, payload, isGzip)) {
        reply.code(304).removeHeader('content-type');
        // After this hook Fastify counts the bytes of a response to HEAD, which fails for null.
        return done(null, request.method === 'HEAD' ? '' : null);
      }
      if (!isGzip) return done();
      reply.header('content-encoding', 'gzip');
      const sendBody = (body: Buffer) => done(null, body);
      void compressed(payload).then(sendBody, done);
    };
    const discarded = finish(request, reply);
    if (discarded === undefined) return send();
    void discarded.then(send);
  };
}

/**
 * Makes the function that finishes a request just before its response is sent. If the rest of the body must be
 * discarded first, it returns a promise. It sets `connection: close` if no request can follow on the connection
 * (the body has not ended, or the caller was never asked to send it), and always while `isLeaving`.
 */
export function createFinish(bodyBytesMax: number, isLeaving: () => boolean) {
  const mustDiscard = (raw: IncomingMessage) => isBodyComing(raw) && !isUnasked(raw, bodyBytesMax);
  const setConnection = ({ raw }: FastifyRequest, reply: FastifyReply) => {
    const isLast = isLeaving() || isBodyComing(raw) || reply.raw.hasHeader('connection');
    if (isLast) reply.header('connection', 'close');
    // Fastify sets `close` after every body that it refused. Once the header has been removed, Node adds none.
    else if (reply.hasHeader('connection')) reply.removeHeader('connection');
  };
  return (request: FastifyRequest, reply: FastifyReply): Promise<void> | undefined => {
    if (mustDiscard(request.raw)) {
      return discardBody(request.raw).then(() => setConnection(request, reply));
    }
    setConnection(request, reply);
    return undefined;
  };
}

function isReadOf(
  request: FastifyRequest,
  reply: FastifyReply,
  payload: unknown,
): payload is string | Buffer {
  if (reply.statusCode !== 200 || !READS.has(request.method)) return false;
  return typeof payload === 'string' || Buffer.isBuffer(payload);
}

/** Says that the response depends on one more header of the request. */
export function addVary(reply: FastifyReply, header: string): void {
  const vary = reply.getHeader('vary');
  reply.header('vary', vary === undefined ? header : `${String(vary)}, ${header}`);
}

/** Says that the form of a large read depends on what the caller accepts. True if it is to be compressed. */
function setCoding(
  request: FastifyRequest,
  reply: FastifyReply,
  payload: string | Buffer,
): boolean {
  if (!isCompressible(reply, payload)) return false;
  addVary(reply, 'accept-encoding');
  return acceptsGzip(request);
}

/** Sets the ETag of a read. True if the caller has the same one. */
function isUnchanged(
  request: FastifyRequest,
  reply: FastifyReply,
  payload: string | Buffer,
  isGzip: boolean,
): boolean {
  const own = reply.getHeader('etag');
  const plain = typeof own === 'string' ? own : bodyETag(payload);
  const etag = isGzip ? gzipETag(plain) : plain;
  if (etag !== own) reply.header('etag', etag);
  return request.ifNoneMatch !== undefined && ifNoneMatchHits(request.ifNoneMatch, etag);
}

const PATH_LENGTH_MAX = 200;

/** The status, as in nginx, of a request whose caller left before the response. It is never sent. */
const LEFT_STATUS = 499;
const RATE_LIMITED = 429;
/** The method, as in OpenTelemetry, of a request whose method could not be read. */
const OTHER_METHOD = '_OTHER';
/** Anybody can send rubbish as fast as the network allows, so its log lines are limited. */
const FAULT_LINES_MAX = 10;
const FAULT_LINES_WINDOW_MS = 1_000;

export type RequestMetrics = Pick<Metrics, 'requestSeconds'>;

/** To be called when a request begins; reports it when it has ended, whoever ended it. */
type RequestReport = (request: FastifyRequest, reply: FastifyReply) => void;

/**
 * Logs and measures each request. Neither the log line nor the labels hold a body, a header or the value
 * of a query parameter.
 */
export function createRequestReport(
  log: Logger,
  metrics: RequestMetrics | undefined,
): RequestReport {
  return (request, reply) => {
    const startedAt = performance.now();
    reply.raw.once('close', () => {
      const durationMs = performance.now() - startedAt;
      const { quiet, template: route } = request.routeOptions.config;
      const isComplete = reply.raw.writableEnded;
      const status = isComplete ? reply.raw.statusCode : LEFT_STATUS;
      const fields = {
        requestId: request.id,
        method: request.method,
        route,
        path: pathOf(request.url).slice(0, PATH_LENGTH_MAX),
        status,
        durationMs: Math.round(durationMs * 100) / 100,
        ...(isComplete ? undefined : { aborted: true }),
      };
      // A caller can cause 429 as fast as the network allows. The metric counts them.
      if (quiet === true || status === RATE_LIMITED) log.debug(fields, 'request');
      else log.info(fields, 'request');
      observe(metrics, request.method, route, status, durationMs / 1000);
    });
  };
}

/**
 * Counts each request that reached no route, and logs at most ten of them a second. The next line says
 * how many were not logged (`unlogged`).
 */
export function createFaultReport(
  log: Logger,
  metrics: RequestMetrics | undefined,
): (fault: ConnectionFault) => void {
  let windowEndsAtMs = 0;
  let lines = 0;
  let unlogged = 0;
  return ({ requestId, problem: { status, code }, reason }) => {
    observe(metrics, OTHER_METHOD, undefined, status, 0);
    const nowMs = performance.now();
    if (nowMs >= windowEndsAtMs) {
      windowEndsAtMs = nowMs + FAULT_LINES_WINDOW_MS;
      lines = 0;
    }
    if (lines === FAULT_LINES_MAX) {
      unlogged += 1;
      return;
    }
    lines += 1;
    log.info(
      { requestId, status, code, reason, ...(unlogged > 0 && { unlogged }) },
      'request refused before it was read',
    );
    unlogged = 0;
  };
}

/** The label of a request without a route is empty. */
function observe(
  metrics: RequestMetrics | undefined,
  method: string,
  route: string | undefined,
  status: number,
  seconds: number,
): void {
  const labels = {
    http_request_method: method,
    http_route: route ?? '',
    http_response_status_code: status,
  };
  metrics?.requestSeconds.observe(labels, seconds);
}
