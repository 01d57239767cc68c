import { METHODS } from 'node:http';

import fastify from 'fastify';
import type { FastifyInstance, FastifyRequest } from 'fastify';
import type { Logger } from 'pino';

import { createAnswerSender } from './answer-sender.ts';
import type { AnswerSender } from './answer-sender.ts';
import { createConnections } from './connections.ts';
import type { ConnectionLimits, Connections } from './connections.ts';
import { acceptJsonOnly } from './request-body.ts';
import { findHeaderFault } from './request-head.ts';
import { problemKinds } from './problem-kinds.ts';
import { Problem } from './problem.ts';
import { pathOf } from './request-parts.ts';
import { createFaultReport, createRequestReport } from './request-report.ts';
import type { RequestMetrics, RequestReport } from './request-report.ts';
import { fastifyPath } from './route.ts';
import type { Route } from './route.ts';
import { BODY_BYTES_MAX } from './server-errors.ts';

const LIMITS: ConnectionLimits = {
  connectionsMax: 4_000,
  pipelinedMax: 32,
  bodyBytesMax: BODY_BYTES_MAX,
  heldBytesMax: 32 * 1024 * 1024,
  headersTimeoutMs: 10_000,
  requestTimeoutMs: 30_000,
  // Longer than that of a load balancer in front (60 s).
  keepAliveTimeoutMs: 72_000,
  connectionTimeoutMs: 90_000,
  responseTimeoutMs: 60_000,
  lingerTimeoutMs: 2_000,
  closeTimeoutMs: 5_000,
};

const PATH_PARAMETER_LENGTH_MAX = 200;

export type ServerOptions = Readonly<{
  log: Logger;
  routes: readonly Route[];
  metrics?: RequestMetrics;
  /** True from the signal to stop: answers then ask callers to leave their connections. */
  isDraining?: () => boolean;
  limits?: Partial<ConnectionLimits>;
}>;

/**
 * Builds the HTTP server; `listen()` starts it, `close()` ends it after the requests under way.
 * Every failure is answered with problem details.
 */
export function createServer(options: ServerOptions): FastifyInstance {
  const { log, metrics, routes, isDraining = () => false } = options;
  const limits = { ...LIMITS, ...options.limits };
  let closing = false;
  const sender = createAnswerSender(log, limits.bodyBytesMax, () => closing || isDraining());
  const report = createRequestReport(log, metrics, routes);
  const connections = createConnections(limits, createFaultReport(log, metrics));
  const app = createFastify(connections, report, sender);

  acceptJsonOnly(app, { bytesMax: limits.bodyBytesMax, hold: connections.hold });
  app.addHook('onRequest', (request, reply, done) => {
    report(request, reply);
    // Before its body is read: where nothing answers, none is wanted.
    done(findHeaderFault(request.raw) ?? (request.is404 ? noRoute(app, request) : undefined));
  });
  app.setErrorHandler(sender.sendError);
  for (const route of routes) serve(app, route, sender);

  app.addHook('preClose', (done) => {
    closing = true;
    connections.startClosing();
    done();
  });
  app.addHook('onClose', (_, done) => {
    connections.stop();
    done();
  });
  return app;
}

/** Fastify's own logger stays off: routes answer by value, and the report tells of each request. */
function createFastify(
  connections: Connections,
  report: RequestReport,
  { sendError }: AnswerSender,
): FastifyInstance {
  return fastify({
    genReqId: (request) => connections.idOf(request),
    requestIdHeader: false,
    serverFactory: connections.createServer,
    routerOptions: { maxParamLength: PATH_PARAMETER_LENGTH_MAX },
    return503OnClosing: false,
    // A path that cannot be read reaches no hook.
    frameworkErrors: (error, request, reply) => {
      report(request, reply);
      sendError(error, request, reply);
    },
    // The connections see to it, on every server that they create.
    clientErrorHandler: () => {},
  });
}

function serve(app: FastifyInstance, route: Route, sender: AnswerSender): void {
  app.route({
    method: route.method,
    url: fastifyPath(route.path),
    handler: async (request, reply) => sender.prepare(await route.answer(request), request, reply),
  });
}

function noRoute(app: FastifyInstance, request: FastifyRequest): Problem {
  const path = pathOf(request.url);
  const allowed = METHODS.filter(
    (method) => app.supportedMethods.includes(method) && app.findRoute({ method, url: path }),
  );
  if (allowed.length === 0) {
    return new Problem(problemKinds.routeNotFound, {
      detail: 'Nothing answers at this path. /openapi.json lists what does.',
    });
  }
  const allow = allowed.join(', ');
  return new Problem(problemKinds.methodNotAllowed, {
    detail: `This path answers ${allow} only.`,
    headers: { allow },
  });
}
