import { METHODS } from 'node:http';

import fastify from 'fastify';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import type { Logger } from 'pino';

import { createConnections } from './connections.ts';
import type { ConnectionLimits, Connections } from './connections.ts';
import { describeApi } from './openapi.ts';
import { problemKinds } from './problem-kinds.ts';
import { Problem, bodyCutShort, frameworkProblem, sendProblem } from './problem.ts';
import { acceptJsonOnly } from './request-body.ts';
import { findHeaderFault } from './request-head.ts';
import { createFaultReport, createRequestReport } from './request-report.ts';
import type { RequestMetrics } from './request-report.ts';
import { createOnSend, createRelease, setCommonHeaders } from './responses.ts';
import { checkRequests, pathOf } from './routes.ts';

const LIMITS: ConnectionLimits = {
  connectionsMax: 4_000,
  pipelinedMax: 32,
  // More than 200 items of the longest fields need.
  bodyBytesMax: 256 * 1024,
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
  metrics?: RequestMetrics;
  /** True from the signal to stop: responses then ask callers to leave their connections. */
  isDraining?: () => boolean;
  /** The problem that an error becomes; undefined for an error that nobody expected. */
  toProblem?: (error: unknown) => Problem | undefined;
  limits?: Partial<ConnectionLimits>;
}>;

/**
 * Builds the HTTP server. Routes are registered on it as plugins of Fastify; `listen()` starts it, `close()`
 * ends it after the requests under way. The response to every failure is a problem.
 */
export function createServer(options: ServerOptions): FastifyInstance {
  const { log, metrics, isDraining = () => false, toProblem = frameworkProblem } = options;
  const limits = { ...LIMITS, ...options.limits };
  let closing = false;
  const isLeaving = () => closing || isDraining();
  const report = createRequestReport(log, metrics);
  const connections = createConnections(limits, createFaultReport(log, metrics));
  const fail = (error: unknown, request: FastifyRequest, reply: FastifyReply) => {
    sendProblem(problemOf(error, request, { log, toProblem }), request, reply);
  };
  const begin = (request: FastifyRequest, reply: FastifyReply) => {
    report(request, reply);
    setCommonHeaders(request, reply);
  };
  const release = createRelease(limits.bodyBytesMax, isLeaving);
  const app = createFastify(connections, async (error, request, reply) => {
    begin(request, reply);
    await release(request, reply);
    fail(error, request, reply);
  });

  acceptJsonOnly(app, { bytesMax: limits.bodyBytesMax, hold: connections.hold });
  app.addHook('onRequest', (request, reply, done) => {
    begin(request, reply);
    // Before its body is read: where there is no route, none is wanted.
    done(findHeaderFault(request.raw) ?? (request.is404 ? noRoute(app, request) : undefined));
  });
  app.addHook('onSend', createOnSend(release));
  app.setErrorHandler(fail);
  checkRequests(app);
  describeApi(app);

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

/**
 * Fastify's own logger stays off: the report tells of each request. `unreadable` has the requests whose path
 * cannot be read, which reach no hook.
 */
function createFastify(
  connections: Connections,
  unreadable: (error: unknown, request: FastifyRequest, reply: FastifyReply) => Promise<void>,
): FastifyInstance {
  return fastify({
    genReqId: (request) => connections.idOf(request),
    requestIdHeader: false,
    serverFactory: connections.createServer,
    routerOptions: { maxParamLength: PATH_PARAMETER_LENGTH_MAX },
    return503OnClosing: false,
    frameworkErrors: (error, request, reply) => void unreadable(error, request, reply),
    // The connections see to it, on every server that they create.
    clientErrorHandler: () => {},
  });
}

/** An error that nobody expected is logged here, once, with its stack. */
function problemOf(
  error: unknown,
  { id, raw }: FastifyRequest,
  { log, toProblem }: Required<Pick<ServerOptions, 'log' | 'toProblem'>>,
): Problem {
  const problem = toProblem(error);
  if (problem !== undefined) return problem;
  if (raw.destroyed && !raw.complete) return bodyCutShort();
  log.error({ err: error, requestId: id }, 'request failed');
  return new Problem(problemKinds.internal);
}

function noRoute(app: FastifyInstance, request: FastifyRequest): Problem {
  const path = pathOf(request.url);
  const allowed = METHODS.filter(
    (method) => app.supportedMethods.includes(method) && app.findRoute({ method, url: path }),
  );
  if (allowed.length === 0) return new Problem(problemKinds.routeNotFound);
  const allow = allowed.join(', ');
  return new Problem(problemKinds.methodNotAllowed, {
    detail: `This path supports ${allow} only.`,
    headers: { allow },
  });
}
