import { isIP } from 'node:net';
import type { Socket } from 'node:net';

import rateLimit, { normalizeIP } from '@fastify/rate-limit';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';

import { ANONYMOUS, NOBODY } from '#src/auth/principal.ts';
import { isLoopback } from '#src/network/loopback.ts';
import { Problem, problemKind } from './problem.ts';

declare module 'fastify' {
  interface FastifyRequest {
    /** The address that the request counts for; undefined for a caller on this host. */
    countedAddress: string | undefined;
  }
}

/** Requests a second that this process accepts. 0 is no limit. */
export type RateLimits = Readonly<{
  perAddress: number;
  perPrincipal: number;
  /** Addresses that are counted at one time. The one that was silent for longest is forgotten. */
  addressesMax?: number;
}>;

const WINDOW_MS = 1_000;
const ADDRESSES_MAX = 10_000;
/** A refused token counts as so many requests, because tokens must not be guessed. */
const REFUSED_TOKEN_COST = 10;

/** Counts a request. @throws Problem `rate_limited` above the limit */
export type Limit = (request: FastifyRequest, reply: FastifyReply) => Promise<void>;

/**
 * Limits the requests of each address, before anything else is done for them, and those of each principal, before
 * their bodies are read. The counters are those of this process, in memory. Callers on this host are not limited.
 * @returns the limit of addresses, for requests that reach no hook
 */
export function limitRates(
  app: FastifyInstance,
  { perAddress, perPrincipal, addressesMax = ADDRESSES_MAX }: RateLimits,
): Limit {
  void app.register(rateLimit, {
    global: false,
    max: perAddress,
    timeWindow: WINDOW_MS,
    cache: addressesMax,
    keyGenerator: ({ countedAddress = '' }) => countedAddress,
  });
  app.decorateRequest('countedAddress');
  const read = createAddressReader();
  app.addHook('onRequest', (request, _, done) => {
    request.countedAddress = read(request);
    done();
  });
  const limitAddress = perAddress > 0 ? limitAddresses(app) : async () => {};
  if (perPrincipal > 0) limitPrincipals(app, perPrincipal);
  return (request, reply) => {
    request.countedAddress = read(request);
    return limitAddress(request, reply);
  };
}

/** Counts a request. The plugin makes it, once it has been loaded. */
type Count = ReturnType<FastifyInstance['createRateLimit']>;

function limitAddresses(app: FastifyInstance): Limit {
  let latest: Count | undefined;
  const count: Count = (request) => (latest ??= app.createRateLimit())(request);
  const limit: Limit = async (request, reply) => {
    if (request.countedAddress === undefined) return;
    await refuseAbove(count(request), 'address', reply);
  };
  app.addHook('onRequest', limit);
  app.addHook('onResponse', async (request, { statusCode }) => {
    if (statusCode !== 401 || request.countedAddress === undefined) return;
    for (let more = 1; more < REFUSED_TOKEN_COST; more += 1) await count(request);
  });
  return limit;
}

function limitPrincipals(app: FastifyInstance, max: number): void {
  let count: Count | undefined;
  app.addHook('preParsing', async (request, reply) => {
    if (request.countedAddress === undefined || isUnknown(request)) return;
    count ??= app.createRateLimit({ max, keyGenerator: ({ principal }) => principal.id });
    await refuseAbove(count(request), 'principal', reply);
  });
}

/** Tells the caller its limit. @throws Problem `rate_limited` above it */
async function refuseAbove(
  counted: ReturnType<Count>,
  whose: string,
  reply: FastifyReply,
): Promise<void> {
  const result = await counted;
  if (result.isAllowed) return;
  const { isExceeded, max, remaining, ttl, ttlInSeconds } = result;
  reply.headers({
    'ratelimit-limit': max,
    'ratelimit-remaining': remaining,
    'ratelimit-reset': ttlInSeconds,
  });
  if (!isExceeded) return;
  throw new Problem(problemKind('rate_limited'), {
    detail:
      `This ${whose} has sent more than ${max} requests in one second. Nothing was done. Retry ` +
      'after the number of seconds in Retry-After.',
    retryAfterSeconds: ttl / 1000,
  });
}

/**
 * What a caller with this address counts for: of IPv6 its network (/64), because one caller has all of it; undefined
 * on this host.
 */
export function countedAddress(address: string): string | undefined {
  return isLoopback(address) ? undefined : normalizeIP(address);
}

/**
 * Makes the function that returns what a request counts for. If a proxy did not pass on an address, it is the proxy.
 * The function remembers the latest one of each connection: parsing IPv6 takes 9 us.
 */
function createAddressReader(): (request: FastifyRequest) => string | undefined {
  const latest = new WeakMap<Socket, Readonly<{ ip: string; counted: string | undefined }>>();
  return ({ ip, socket }) => {
    const known = latest.get(socket);
    if (known?.ip === ip) return known.counted;
    const counted = countedAddress(isIP(ip) === 0 ? (socket.remoteAddress ?? '') : ip);
    latest.set(socket, { ip, counted });
    return counted;
  };
}

function isUnknown({ principal }: FastifyRequest): boolean {
  return principal === ANONYMOUS || principal === NOBODY;
}
