import type { IncomingHttpHeaders } from 'node:http';
import type { FastifyInstance } from 'fastify';

import { ANONYMOUS, NOBODY } from '#src/auth/principal.ts';
import type { Access, Principal } from '#src/auth/principal.ts';
import { Problem, problemKind } from './problem.ts';
import type { ProblemKind } from './problem.ts';

declare module 'fastify' {
  interface FastifyContextConfig {
    /** Who may call the route. A route without it does not start. */
    access?: Access;
    /** What only customers are refused with, besides what every caller can be. */
    customerProblems?: readonly ProblemKind[];
  }
  interface FastifyRequest {
    /** Who sent the request. Set before the body is read. */
    principal: Principal;
  }
}

/** Finds out who sent a request. @throws Problem `unauthenticated` or `authentication_unavailable` */
export type Authenticate = (headers: IncomingHttpHeaders) => Promise<Principal>;

/** `off`: everybody may call everything. */
export type Authentication = 'off' | Authenticate;

/**
 * Lets only those through whom the route names in `config.access`, and sets `request.principal`. It does so for
 * every route that is added to `app` from now on, before the body is read.
 */
export function enforceAccess(app: FastifyInstance, authentication: Authentication): void {
  app.decorateRequest('principal');
  app.addHook('onRoute', ({ method, url, config }) => {
    if (config?.access !== undefined) return;
    throw new Error(`${String(method)} ${url}: config.access must say who may call it`);
  });
  if (authentication === 'off') {
    app.addHook('onRequest', (request, _, done) => {
      request.principal = ANONYMOUS;
      done();
    });
    return;
  }
  app.addHook('onRequest', async (request) => {
    const { access } = request.routeOptions.config;
    request.principal =
      access === 'public' ? NOBODY : permitted(await authentication(request.headers), access);
  });
}

/** @throws Problem `insufficient_scope` or `services_only` */
function permitted(principal: Principal, access: Exclude<Access, 'public'> | undefined): Principal {
  if (access === undefined) throw new Error('a route without access was called');
  const { scope, customers } = access;
  if (!principal.scopes.has(scope)) {
    throw new Problem(problemKind('insufficient_scope'), {
      detail: `This operation requires the scope ${scope}. Nothing was done.`,
      headers: challenge({ error: 'insufficient_scope', scope }),
    });
  }
  if (!customers) requireService(principal);
  return principal;
}

/**
 * Refuses a customer what only a service may do.
 * @throws Problem `services_only`
 */
export function requireService({ customerId }: Principal, detail?: string): void {
  if (customerId !== undefined) throw new Problem(problemKind('services_only'), { detail });
}

/** A request without a valid token. `detail` says what is wrong with it and repeats nothing of it. */
export function unauthenticated(detail: string, error?: 'invalid_token'): Problem {
  return new Problem(problemKind('unauthenticated'), {
    detail,
    headers: challenge(error && { error }),
  });
}

/** RFC 6750. */
function challenge(parameters: Readonly<Record<string, string>> = {}): Record<string, string> {
  const all = Object.entries({ realm: 'orders', ...parameters });
  return { 'www-authenticate': `Bearer ${all.map(([name, is]) => `${name}="${is}"`).join(', ')}` };
}
