import type { IncomingHttpHeaders } from 'node:http';

import type { FastifyReply, FastifyRequest } from 'fastify';

import { responseHeaders } from './openapi-headers.ts';

const METHODS = 'GET, HEAD, POST, PUT, DELETE';
const REQUEST_HEADERS = [
  'Authorization',
  'Content-Type',
  'Idempotency-Key',
  'If-Match',
  'If-None-Match',
  'Prefer',
  'Traceparent',
  'X-Request-Id',
].join(', ');
const RESPONSE_HEADERS = Object.keys(responseHeaders).join(', ');
/** How long a browser may remember the response to a preflight. */
const PREFLIGHT_SECONDS = '600';

/** Which pages in a browser may call the service, besides its own. */
export type Cors = Readonly<{
  /** Whether the request comes from a page of an allowed origin. */
  allows(headers: IncomingHttpHeaders): boolean;
  /** Sets the headers that let such a page read a response. */
  setHeaders(request: FastifyRequest, reply: FastifyReply): void;
  /** Responds to the preflight of such a page. Any other request goes on. A hook `onRequest`. */
  respondToPreflight(request: FastifyRequest, reply: FastifyReply, done: () => void): void;
}>;

/**
 * Lets pages of these origins call the service. Credentials that a browser adds by itself, such as cookies, are not
 * allowed: a page sends its token in `Authorization`.
 */
export function createCors(origins: readonly string[]): Cors {
  const allowed = new Set(origins);
  const allows = ({ origin }: IncomingHttpHeaders) => origin !== undefined && allowed.has(origin);
  return {
    allows,
    setHeaders({ headers }, reply) {
      if (allowed.size === 0) return;
      reply.header('vary', 'origin');
      if (!allows(headers)) return;
      reply.header('access-control-allow-origin', headers.origin);
      reply.header('access-control-expose-headers', RESPONSE_HEADERS);
    },
    respondToPreflight({ method, headers }, reply, done) {
      const isPreflight = method === 'OPTIONS' && 'access-control-request-method' in headers;
      if (!isPreflight || !allows(headers)) return done();
      reply.headers({
        'access-control-allow-methods': METHODS,
        'access-control-allow-headers': REQUEST_HEADERS,
        'access-control-max-age': PREFLIGHT_SECONDS,
      });
      reply.code(204).send();
    },
  };
}
