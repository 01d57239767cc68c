import { METHODS, createServer as createHttpServer } from 'node:http';
import type { Server } from 'node:http';

import fastify from 'fastify';
import type { FastifyInstance, FastifyRequest } from 'fastify';
import type { Logger } from 'pino';

import { createAnswerSender } from './answer-sender.ts';
import type { AnswerSender } from './answer-sender.ts';
import { createConnections } from './connections.ts';
import type { ConnectionLimits, Connections } from './connections.ts';
import { findHeaderFault } from './request-head.ts';
import { IncomingRequest, breakOff } from './incoming-request.ts';
import { acceptJsonOnly } from './json-body.ts';
import { problemKinds } from './problem-kinds.ts';
import { Problem } from './problem.ts';
import { pathOf } from './request-parts.ts';
import { createFaultReport, createRequestReport } from './request-report.ts';
import type { RequestMetrics, RequestReport } from './request-report.ts';
import { fastifyPath } from './route.ts';
import type { Route } from './route.ts';
import { BODY_BYTES_MAX } from './server-errors.ts';

/** What callers may take of the server's time and memory. */
export type ServerLimits = ConnectionLimits &
  Readonly<{
    /** For a whole request to arrive. */
    requestTimeoutMs: number;
    /** For a connection on which nothing moves. */
    connectionTimeoutMs: number;
  }>;

const LIMITS: ServerLimits = {
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

/** How often Node looks for requests that took too long to arrive. */
const TIMEOUT_CHECK_MS = 1_000;
const PATH_PARAMETER_LENGTH_MAX = 200;

export type ServerOptions = Readonly<{
  log: Logger;
  routes: readonly Route[];
  metrics?: RequestMetrics;
  /** True from the signal to stop: answers then ask callers to leave their connections. */
  isDraining?: () => boolean;
  limits?: Partial<ServerLimits>;
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
  const app = createFastify(limits, connections, report, sender);

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
  limits: ServerLimits,
  connections: Connections,
  report: RequestReport,
  { sendError }: AnswerSender,
): FastifyInstance {
  return fastify({
    genReqId: (request) => connections.idOf(request),
    requestIdHeader: false,
    serverFactory: (handle) => {
      const server = createNodeServer(limits, connections);
      connections.serve(server, handle);
      return server;
    },
    routerOptions: { maxParamLength: PATH_PARAMETER_LENGTH_MAX },
    return503OnClosing: false,
    // A path that cannot be read reaches no hook.
    frameworkErrors: (error, request, reply) => {
      report(request, reply);
      sendError(error, request, reply);
    },
    clientErrorHandler: (error, socket) => connections.clientError(error, socket),
  });
}

function createNodeServer(limits: ServerLimits, { isTooMany }: Connections): Server {
  const server = createHttpServer({
    IncomingMessage: IncomingRequest,
    shouldUpgradeCallback: breakOff(isTooMany),
    headersTimeout: limits.headersTimeoutMs,
    requestTimeout: limits.requestTimeoutMs,
    keepAliveTimeout: limits.keepAliveTimeoutMs,
    connectionsCheckingInterval: TIMEOUT_CHECK_MS,
    // Node would answer a missing Host itself, without a body.
    requireHostHeader: false,
  });
  server.setTimeout(limits.connectionTimeoutMs);
  return server;
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
