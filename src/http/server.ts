import { METHODS } from 'node:http';

import { compile as compileProxies } from '@fastify/proxy-addr';

import fastify from 'fastify';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import type { Logger } from 'pino';

import { enforceAccess } from './access.ts';
import type { Authentication } from './access.ts';
import { checkRequests, pathOf } from './check-requests.ts';
import { CONNECTION_LIMITS } from './connection-limits.ts';
import type { ConnectionLimits } from './connection-limits.ts';
import { createConnections } from './connections.ts';
import type { Connections } from './connections.ts';
import { createCors } from './cors.ts';
import { describeApi } from './openapi.ts';
import { bodyCutShort, frameworkProblem, Problem, problemKind, sendProblem } from './problem.ts';
import { countedAddress, limitRates } from './rate-limits.ts';
import type { Limit, RateLimits } from './rate-limits.ts';
import { acceptJsonOnly } from './request-body.ts';
import { findHeaderFault } from './request-head.ts';
import {
  createFaultReport,
  createFinish,
  createOnSend,
  createRequestReport,
  setCommonHeaders,
} from './responses.ts';
import type { RequestMetrics } from './responses.ts';

const PATH_PARAMETER_LENGTH_MAX = 200;

export type ServerOptions = Readonly<{
  log: Logger;
  /** Finds out who sends each request. */
  authentication: Authentication;
  /** Only callers on this host are meant, so requests for the name of another host are refused. */
  isLocalOnly?: boolean;
  metrics?: RequestMetrics;
  /** True from the signal to stop. Responses then ask callers to close their connections. */
  isDraining?: () => boolean;
  /** The problem that an error becomes; undefined for an unexpected error. */
  toProblem?: (error: unknown) => Problem | undefined;
  limits?: Partial<ConnectionLimits>;
  /** None by default. */
  rateLimits?: RateLimits;
  /** Addresses and networks whose X-Forwarded-For is believed. None by default. */
  trustedProxies?: readonly string[];
  /** The origins whose pages may call the service from a browser. None by default. */
  allowedOrigins?: readonly string[];
}>;

/**
 * Builds the HTTP server. Register routes on it as Fastify plugins. `listen()` starts it, and `close()` stops
 * it after the requests in progress. The response to every failure is a problem.
 */
export function createServer(options: ServerOptions): FastifyInstance {
  const { log, metrics, isDraining = () => false, toProblem = frameworkProblem } = options;
  const { trustedProxies = [], isLocalOnly = false } = options;
  const limits = { ...CONNECTION_LIMITS, ...options.limits };
  let closing = false;
  const report = createRequestReport(log, metrics);
  const isProxy = compileProxies([...trustedProxies]);
  const connections = createConnections(limits, createFaultReport(log, metrics), (address) =>
    isProxy(address, 0) ? undefined : countedAddress(address),
  );
  const fail = (error: unknown, request: FastifyRequest, reply: FastifyReply) => {
    sendProblem(problemOf(error, request, { log, toProblem }), request, reply);
  };
  const cors = createCors(options.allowedOrigins ?? []);
  const begin = (request: FastifyRequest, reply: FastifyReply) => {
    report(request, reply);
    setCommonHeaders(request, reply);
    cors.setHeaders(request, reply);
  };
  const finish = createFinish(limits.bodyBytesMax, () => closing || isDraining());
  let limitAddress: Limit | undefined;
  const app = createFastify(connections, trustedProxies, async (error, request, reply) => {
    begin(request, reply);
    let reason = error;
    try {
      await limitAddress?.(request, reply);
    } catch (refusal) {
      reason = refusal;
    }
    await finish(request, reply);
    fail(reason, request, reply);
  });

  acceptJsonOnly(app, { bytesMax: limits.bodyBytesMax, hold: connections.hold });
  app.addHook('onRequest', (request, reply, done) => {
    begin(request, reply);
    done();
  });
  if (options.rateLimits !== undefined) limitAddress = limitRates(app, options.rateLimits);
  app.addHook('onRequest', cors.respondToPreflight);
  app.addHook('onRequest', (request, _, done) => {
    // Before the body is read: without a route there is no use for it.
    const fault = findHeaderFault(request.raw, isLocalOnly);
    done(fault ?? (request.is404 ? noRoute(app, request) : undefined));
  });
  enforceAccess(app, options.authentication);
  app.addHook('onSend', createOnSend(finish));
  app.setErrorHandler(fail);
  checkRequests(app, cors);
  describeApi(app, options.authentication === 'off');

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
 * Fastify's own logger is off, because the request report logs each request. `unreadable` handles requests whose
 * path is not valid: they reach no hook.
 */
function createFastify(
  connections: Connections,
  trustedProxies: readonly string[],
  unreadable: (error: unknown, request: FastifyRequest, reply: FastifyReply) => Promise<void>,
): FastifyInstance {
  return fastify({
    genReqId: (request) => connections.idOf(request),
    requestIdHeader: false,
    trustProxy: trustedProxies.length > 0 && [...trustedProxies],
    serverFactory: connections.createServer,
    routerOptions: { maxParamLength: PATH_PARAMETER_LENGTH_MAX },
    return503OnClosing: false,
    frameworkErrors: (error, request, reply) => void unreadable(error, request, reply),
    // The connections handle these errors on every server that they create.
    clientErrorHandler: () => {},
  });
}

/** Logs an unexpected error, once, with its stack. */
function problemOf(
  error: unknown,
  { id, raw }: FastifyRequest,
  { log, toProblem }: Required<Pick<ServerOptions, 'log' | 'toProblem'>>,
): Problem {
  const problem = toProblem(error);
  if (problem !== undefined) return problem;
  if (raw.destroyed && !raw.complete) return bodyCutShort();
  log.error({ err: error, requestId: id }, 'request failed');
  return new Problem(problemKind('internal'));
}

function noRoute(app: FastifyInstance, request: FastifyRequest): Problem {
  const path = pathOf(request.url);
  const allowed = METHODS.filter(
    (method) => app.supportedMethods.includes(method) && app.findRoute({ method, url: path }),
  );
  if (allowed.length === 0) return new Problem(problemKind('route_not_found'));
  const allow = allowed.join(', ');
  return new Problem(problemKind('method_not_allowed'), {
    detail: `This path supports ${allow} only.`,
    headers: { allow },
  });
}
