import type { FastifyReply, FastifyRequest } from 'fastify';
import type { Logger } from 'pino';

import type { ConnectionFault } from './connections.ts';
import type { Metrics } from './metrics.ts';
import { pathOf } from './check-requests.ts';

const PATH_LENGTH_MAX = 200;

/** The status, as in nginx, of a request whose caller left before the response. It is never sent. */
const LEFT_STATUS = 499;
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
      if (quiet === true) log.debug(fields, 'request');
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
