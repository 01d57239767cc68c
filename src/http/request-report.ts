import type { FastifyReply, FastifyRequest } from 'fastify';
import type { Logger } from 'pino';

import type { ConnectionFault } from './connections.ts';
import type { Metrics } from './metrics.ts';
import { pathOf } from './routes.ts';

const PATH_LENGTH_MAX = 200;

/** Of a request whose answer nobody waited for, as nginx counts it; it is never sent. */
const LEFT_STATUS = 499;

/** The method of a request that has none that could be read, as OpenTelemetry calls it. */
const OTHER_METHOD = '_OTHER';
/** Anybody can send rubbish as fast as the network goes: so many lines of it in each second. */
const FAULT_LINES_MAX = 10;
const FAULT_LINES_WINDOW_MS = 1_000;

export type RequestMetrics = Pick<Metrics, 'requestSeconds'>;

/** Follows a request to its end, whoever ends it. */
export type RequestReport = (request: FastifyRequest, reply: FastifyReply) => void;

/**
 * Makes one log line and one observation of each request. Neither holds a body, a header or the
 * value of a query parameter.
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
      const isAnswered = reply.raw.writableEnded;
      const status = isAnswered ? reply.raw.statusCode : LEFT_STATUS;
      const fields = {
        requestId: request.id,
        method: request.method,
        route,
        path: pathOf(request.url).slice(0, PATH_LENGTH_MAX),
        status,
        durationMs: Math.round(durationMs * 100) / 100,
        ...(isAnswered ? undefined : { aborted: true }),
      };
      if (quiet === true) log.debug(fields, 'request');
      else log.info(fields, 'request');
      observe(metrics, request.method, route, status, durationMs / 1000);
    });
  };
}

/**
 * Counts each request that reached no route, and logs ten a second at most; the next line says how many
 * had none (`unlogged`). `reason` is what the parser or the server found.
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

/** The route is empty where nothing matched. */
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
