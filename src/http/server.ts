import { randomUUID } from 'node:crypto';
import { METHODS } from 'node:http';

import fastify from 'fastify';
import type { FastifyBaseLogger, FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import type { Logger } from 'pino';

import { acceptJsonOnly } from './accept-json.ts';
import { answerExpectations, createConnectionCloser, discardBody } from './connections.ts';
import { problemKinds } from './problem-kinds.ts';
import { PROBLEM_MEDIA_TYPE, Problem, problemBody, problemHeaders } from './problem.ts';
import { pathOf } from './request-parts.ts';
import { createRequestReport } from './request-report.ts';
import type { RequestMetrics } from './request-report.ts';
import type { Answer, Route } from './route.ts';
import { answerClientError, internalProblem, toProblem } from './server-errors.ts';
import { repeatedHeaders } from './single-headers.ts';
import { summarise } from './field-errors.ts';

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
  bodyBytesMax: 256 * 1024,
  headersTimeoutMs: 10_000,
  requestTimeoutMs: 30_000,
  keepAliveTimeoutMs: 72_000,
  connectionTimeoutMs: 90_000,
  closeTimeoutMs: 7_000,
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
  const limits = { ...LIMITS, ...options.limits };
  const routes = new Map(options.routes.map((route) => [fastifyPath(route.path), route]));
  const report = createRequestReport(options.log, options.metrics, (url) => routes.get(url ?? ''));
  const sendError = createErrorSender(options.log);
  const app = createFastify(options.log, limits, (error, request, reply) => {
    report(request, reply);
    reply.headers(commonHeaders(request));
    sendError(error, request, reply);
  });

  acceptJsonOnly(app);
  app.addHook('onRequest', (request, reply, done) => {
    report(request, reply);
    const errors = repeatedHeaders(request.raw.rawHeaders);
    if (errors.length === 0) done();
    else done(new Problem(problemKinds.invalidRequest, summarise(errors)));
  });
  app.setErrorHandler(sendError);
  app.setNotFoundHandler((request, reply) => sendError(noRoute(app, request), request, reply));
  for (const route of options.routes) serve(app, route);
  closeCleanly(app, limits, options.isDraining ?? (() => false));
  answerExpectations(app.server, limits.bodyBytesMax, (request, response) =>
    app.routing(request, response),
  );
  return app;
}

function createFastify(
  log: FastifyBaseLogger,
  limits: ServerLimits,
  onBadPath: (error: Error, request: FastifyRequest, reply: FastifyReply) => void,
): FastifyInstance {
  return fastify({
    loggerInstance: log,
    childLoggerFactory: (logger) => logger,
    disableRequestLogging: true,
    genReqId: () => randomUUID(),
    requestIdHeader: false,
    bodyLimit: limits.bodyBytesMax,
    requestTimeout: limits.requestTimeoutMs,
    keepAliveTimeout: limits.keepAliveTimeoutMs,
    connectionTimeout: limits.connectionTimeoutMs,
    http: {
      headersTimeout: limits.headersTimeoutMs,
      connectionsCheckingInterval: TIMEOUT_CHECK_MS,
    },
    routerOptions: { maxParamLength: PATH_PARAMETER_LENGTH_MAX },
    return503OnClosing: false,
    frameworkErrors: onBadPath,
    clientErrorHandler: answerClientError,
  });
}

function serve(app: FastifyInstance, route: Route): void {
  app.route({
    method: route.method,
    url: fastifyPath(route.path),
    handler: async (request, reply) => sendable(await route.answer(request), reply),
  });
}

/** Sets status and headers; returns the payload. */
function sendable(answer: Answer, reply: FastifyReply): string | Buffer | null {
  reply.code(answer.status);
  if (answer.headers !== undefined) reply.headers(answer.headers);
  const payload = answer.text ?? (answer.body === undefined ? null : JSON.stringify(answer.body));
  if (payload !== null) {
    reply.header('content-type', answer.contentType ?? 'application/json; charset=utf-8');
  }
  return payload;
}

/** Answers a failure; what is not a Problem is logged here, once, with its stack. */
function createErrorSender(log: Logger) {
  return (error: unknown, request: FastifyRequest, reply: FastifyReply): void => {
    const problem = toProblem(error);
    if (problem === undefined) {
      log.error({ err: error, requestId: request.id }, 'request failed');
    }
    const send = (answer: Problem) => {
      if (request.raw.complete) reply.removeHeader('connection');
      reply
        .code(answer.status)
        .headers(problemHeaders(answer))
        .header('content-type', PROBLEM_MEDIA_TYPE)
        .send(problemBody(answer, request.id));
    };
    if (problem?.kind === problemKinds.bodyTooLarge && request.headers.expect === undefined) {
      discardBody(request.raw, () => send(problem));
    } else {
      send(problem ?? internalProblem());
    }
  };
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

function closeCleanly(app: FastifyInstance, limits: ServerLimits, isDraining: () => boolean): void {
  const closer = createConnectionCloser(app.server, limits.closeTimeoutMs);
  let closing = false;
  app.addHook('onSend', (request, reply, payload, done) => {
    const headers = commonHeaders(request);
    if (closing || isDraining()) headers['connection'] = 'close';
    for (const name in headers) {
      if (!reply.hasHeader(name)) reply.header(name, headers[name]);
    }
    done(null, payload);
  });
  app.addHook('preClose', (done) => {
    closing = true;
    closer.start();
    done();
  });
  app.addHook('onClose', (_, done) => {
    closer.stop();
    done();
  });
}

/** An API answer is for its caller only, is not a page, and says which request it answers. */
function commonHeaders(request: FastifyRequest): Record<string, string> {
  return {
    'cache-control': request.method === 'GET' ? 'private, no-cache' : 'no-store',
    'content-security-policy': "default-src 'none'; frame-ancestors 'none'",
    'x-content-type-options': 'nosniff',
    'x-request-id': request.id,
  };
}

function fastifyPath(path: string): string {
  return path.replaceAll(/\{(\w+)\}/g, ':$1');
}
