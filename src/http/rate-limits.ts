import { isIP } from 'node:net';
import type { Socket } from 'node:net';

import rateLimit, { normalizeIP } from '@fastify/rate-limit';
import type { FastifyInstance, FastifyRequest, preHandlerAsyncHookHandler } from 'fastify';

import { Problem, problemKind } from './problem.ts';

/** Requests a second that this process accepts. 0 is no limit. */
export type RateLimits = Readonly<{
  perAddress: number;
  /** Addresses that are counted at one time. The one that sent nothing for longest is forgotten. */
  countedMax?: number;
}>;

const WINDOW_MS = 1_000;
const COUNTED_MAX = 10_000;
/** A refused token counts as so many requests, because tokens must not be guessed. */
const REFUSED_TOKEN_COST = 10;
const LOOPBACK = /^(?:::ffff:)?127\.|^::1$/;

/**
 * Limits the requests of each address, before anything else is done for them. The counters are those of this
 * process, in memory. An IPv6 address counts as its network (/64), because one caller has all of it. Callers on
 * this host are not limited.
 */
export function limitRates(
  app: FastifyInstance,
  { perAddress, countedMax = COUNTED_MAX }: RateLimits,
): void {
  if (perAddress === 0) return;
  void app.register(rateLimit, {
    global: false,
    max: perAddress,
    timeWindow: WINDOW_MS,
    cache: countedMax,
    keyGenerator: createAddressReader(),
    allowList: isLocal,
    enableDraftSpec: true,
    errorResponseBuilder: (_, { max, ttl }) => tooMany('address', max, ttl),
  });
  let limit: preHandlerAsyncHookHandler | undefined;
  app.addHook('onRequest', async function (request, reply) {
    limit ??= app.rateLimit();
    await limit.call(this, request, reply);
  });
  let count: ReturnType<FastifyInstance['createRateLimit']> | undefined;
  app.addHook('onResponse', async (request, { statusCode }) => {
    if (statusCode !== 401) return;
    count ??= app.createRateLimit();
    for (let more = 1; more < REFUSED_TOKEN_COST; more += 1) await count(request);
  });
}

/**
 * Makes the function that returns the address or network to count for, or that of the proxy if the proxy did not
 * pass on an address. It remembers the latest one of each connection: parsing IPv6 takes 9 us.
 */
function createAddressReader(): (request: FastifyRequest) => string {
  const latest = new WeakMap<Socket, Readonly<{ ip: string; counted: string }>>();
  return ({ ip, socket }) => {
    const known = latest.get(socket);
    if (known?.ip === ip) return known.counted;
    const counted = normalizeIP(isIP(ip) === 0 ? (socket.remoteAddress ?? '') : ip);
    latest.set(socket, { ip, counted });
    return counted;
  };
}

function isLocal({ ip }: FastifyRequest): boolean {
  return LOOPBACK.test(ip);
}

function tooMany(whose: string, max: number, ttlMs: number): Problem {
  return new Problem(problemKind('rate_limited'), {
    detail:
      `This ${whose} has sent more than ${max} requests in one second. Nothing was done. Retry ` +
      'after the number of seconds in Retry-After.',
    retryAfterSeconds: ttlMs / 1000,
  });
}
