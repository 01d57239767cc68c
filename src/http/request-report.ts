import type { FastifyReply, FastifyRequest } from 'fastify';
import type { Logger } from 'pino';

import { pathOf } from './request-parts.ts';
import { fastifyPath } from './route.ts';
import type { Route } from './route.ts';

const PATH_LENGTH_MAX = 200;

/** Of a request whose answer nobody waited for, as nginx counts it; it is never sent. */
const LEFT_STATUS = 499;

/** Where the time of a request is counted. `route` is empty when nothing matched. */
export type RequestMetrics = Readonly<{
  observeRequest(method: string, route: string, status: number, seconds: number): void;
}>;

/** Follows a request to its end, whoever ends it. */
export type RequestReport = (request: FastifyRequest, reply: FastifyReply) => void;

/**
 * Makes one log line and one observation of each request. Neither holds a body, a header or the
 * value of a query parameter.
 */
export function createRequestReport(
  log: Logger,
  metrics: RequestMetrics | undefined,
  routes: readonly Route[],
): RequestReport {
  const byPath = new Map(routes.map((route) => [fastifyPath(route.path), route]));
  return (request, reply) => {
    const startedAt = performance.now();
    reply.raw.once('close', () => {
      const durationMs = performance.now() - startedAt;
      const route = byPath.get(request.routeOptions.url ?? '');
      const isAnswered = reply.raw.writableEnded;
      const status = isAnswered ? reply.raw.statusCode : LEFT_STATUS;
      const fields = {
        requestId: request.id,
        method: request.method,
        route: route?.path,
        path: pathOf(request.url).slice(0, PATH_LENGTH_MAX),
        status,
        durationMs: Math.round(durationMs * 100) / 100,
        ...(isAnswered ? undefined : { aborted: true }),
      };
      if (route?.quiet === true) log.debug(fields, 'request');
      else log.info(fields, 'request');
      metrics?.observeRequest(request.method, route?.path ?? '', status, durationMs / 1000);
    });
  };
}
