import { randomUUID } from 'node:crypto';
import { METHODS } from 'node:http';

import fastify from 'fastify';
import type { FastifyInstance, FastifyRequest } from 'fastify';
import type { Logger } from 'pino';

import { acceptJsonOnly } from './accept-json.ts';
import { createAnswerSender } from './answer-sender.ts';
import type { AnswerSender } from './answer-sender.ts';
import { answerExpectations, createConnectionCloser } from './connections.ts';
import { summarise } from './field-errors.ts';
import { headerFaults } from './header-faults.ts';
import { problemKinds } from './problem-kinds.ts';
import { Problem } from './problem.ts';
import { pathOf } from './request-parts.ts';
import { createRequestReport } from './request-report.ts';
import type { RequestMetrics, RequestReport } from './request-report.ts';
import { fastifyPath } from './route.ts';
import type { Route } from './route.ts';
import { BODY_BYTES_MAX, answerClientError } from './server-errors.ts';

/** What a caller may take of the server's time and memory. */
export type ServerLimits = Readonly<{
  bodyBytesMax: number;
  /** For the headers to arrive. */
  headersTimeoutMs: number;
  /** For a whole request to arrive. */
  requestTimeoutMs: number;
  /** For a connection between requests; longer than that of a load balancer in front (60 s). */
  keepAliveTimeoutMs: number;
  /** For a connection on which nothing moves. */
  connectionTimeoutMs: number;
  /** How long `close()` waits for requests under way before it cuts their connections. */
  closeTimeoutMs: number;
}>;

const LIMITS: ServerLimits = {
  bodyBytesMax: BODY_BYTES_MAX,
  headersTimeoutMs: 10_000,
  requestTimeoutMs: 30_000,
  keepAliveTimeoutMs: 72_000,
  connectionTimeoutMs: 90_000,
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
  const sender = createAnswerSender(log, () => closing || isDraining());
  const report = createRequestReport(log, metrics, routes);
  const app = createFastify(limits, report, sender);

  acceptJsonOnly(app);
  app.addHook('onRequest', (request, reply, done) => {
    report(request, reply);
    const errors = headerFaults(request.raw);
    if (errors.length === 0) done();
    else done(new Problem(problemKinds.invalidRequest, summarise(errors)));
  });
  app.setErrorHandler(sender.sendError);
  app.setNotFoundHandler((request, reply) => {
    sender.sendError(noRoute(app, request), request, reply);
  });
  for (const route of routes) serve(app, route, sender);

  const closer = createConnectionCloser(app.server, limits.closeTimeoutMs);
  app.addHook('preClose', (done) => {
    closing = true;
    closer.start();
    done();
  });
  app.addHook('onClose', (_, done) => {
    closer.stop();
    done();
  });
  answerExpectations(app.server, limits.bodyBytesMax, (request, response) =>
    app.routing(request, response),
  );
  return app;
}

/** Fastify's own logger stays off: routes answer by value, and the report tells of each request. */
function createFastify(
  limits: ServerLimits,
  report: RequestReport,
  { sendError }: AnswerSender,
): FastifyInstance {
  return fastify({
    genReqId: () => randomUUID(),
    requestIdHeader: false,
    bodyLimit: limits.bodyBytesMax,
    requestTimeout: limits.requestTimeoutMs,
    keepAliveTimeout: limits.keepAliveTimeoutMs,
    connectionTimeout: limits.connectionTimeoutMs,
    http: {
      headersTimeout: limits.headersTimeoutMs,
      connectionsCheckingInterval: TIMEOUT_CHECK_MS,
      // Node would answer a missing Host itself, without a body.
      requireHostHeader: false,
    },
    routerOptions: { maxParamLength: PATH_PARAMETER_LENGTH_MAX },
    return503OnClosing: false,
    // A path that cannot be read reaches no hook.
    frameworkErrors: (error, request, reply) => {
      report(request, reply);
      sendError(error, request, reply);
    },
    clientErrorHandler: answerClientError,
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
