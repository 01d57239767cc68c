import { createLocalJWKSet, errors } from 'jose';
import type { JWTVerifyGetKey } from 'jose';
import type { Logger } from 'pino';
import { z } from 'zod';
import { Problem, problemKind } from '#src/http/problem.ts';
import { createWorker } from '#src/workers/worker.ts';
import type { Worker } from '#src/workers/worker.ts';

/** The keys of a large identity provider take a few kB. */
const BYTES_MAX = 256 * 1024;
const LIMITS = {
  /** For one fetch, from the first packet to the last byte. */
  timeoutMs: 5_000,
  /** How often the keys are fetched again, so that a withdrawn one stops working. */
  refreshMs: 300_000,
  /** How long after a fetch an unknown key causes no other one. */
  cooldownMs: 5_000,
  /** How long after a failed fetch a token causes no other one. */
  retryMs: 1_000,
};
const keySetShape = z.object({ keys: z.array(z.looseObject({ kty: z.string() })).min(1) });
const BACKOFF = { baseMs: 1_000, maxMs: 30_000 };

/** The public keys of an identity provider (JWKS). They stay usable while the provider is away. */
export type KeySet = Readonly<{
  /**
   * The key that a token names. Only JWT_JWKS_URL is asked for it, never an address from the token.
   * @throws Problem `authentication_unavailable` if the keys cannot be fetched
   * @throws one of jose's errors if the provider has no such key
   */
  find: JWTVerifyGetKey;
  /** Changes when other keys were fetched. */
  generation(): number;
  /** Fetches the keys at start and from time to time. */
  worker: Worker;
}>;

export type KeySetOptions = Readonly<{
  url: string;
  log: Pick<Logger, 'info' | 'error'>;
  limits?: Partial<typeof LIMITS>;
}>;

/** Keeps the keys behind `url` in memory. However many tokens arrive, one fetch runs at a time, with pauses between. */
export function createKeySet({ url, log, limits }: KeySetOptions): KeySet {
  const { timeoutMs, refreshMs, cooldownMs, retryMs } = { ...LIMITS, ...limits };
  let keys: JWTVerifyGetKey | undefined;
  let text = '';
  let generation = 0;
  let fetching: Promise<void> | undefined;
  let lastFailure: unknown;
  let pauseUntil = 0;
  /** Until then the worker need not fetch keys that a token has just had fetched. */
  let freshUntil = 0;

  const load = async () => {
    try {
      const fetched = await fetchText(url, timeoutMs);
      if (fetched !== text) {
        keys = createLocalJWKSet(parseKeySet(fetched));
        text = fetched;
        generation += 1;
      }
      lastFailure = undefined;
      pauseUntil = performance.now() + cooldownMs;
      freshUntil = performance.now() + refreshMs / 2;
    } catch (error) {
      lastFailure = error;
      pauseUntil = performance.now() + retryMs;
      throw new Error(`JWT_JWKS_URL: ${reasonOf(error)}`, { cause: error });
    } finally {
      fetching = undefined;
    }
  };
  const loadOnce = () => (fetching ??= load());
  /** For a token. A failure shows in `lastFailure`. */
  const loadUnlessPaused = async () => {
    if (fetching === undefined && performance.now() < pauseUntil) return;
    await loadOnce().catch(() => undefined);
  };
  const unavailable = () =>
    keysUnavailable(Math.max(retryMs, pauseUntil - performance.now()), lastFailure);

  return {
    find: async (header, token) => {
      if (!keys) await loadUnlessPaused();
      if (!keys) throw unavailable();
      try {
        return await keys(header, token);
      } catch (error) {
        if (!(error instanceof errors.JWKSNoMatchingKey)) throw error;
      }
      // The provider may have a new key.
      await loadUnlessPaused();
      if (lastFailure !== undefined) throw unavailable();
      return keys(header, token);
    },
    generation: () => generation,
    worker: createWorker({
      name: 'keys of the identity provider',
      tick: async () => {
        if (performance.now() >= freshUntil) await loadOnce();
      },
      idleMs: refreshMs,
      errorBackoff: BACKOFF,
      log,
    }),
  };
}

function keysUnavailable(retryAfterMs: number, cause: unknown): Problem {
  return new Problem(problemKind('authentication_unavailable'), {
    detail:
      'The keys of the identity provider cannot be fetched at the moment. Nothing was done. ' +
      'Retry after the number of seconds in Retry-After.',
    retryAfterSeconds: Math.ceil(retryAfterMs / 1_000),
    cause,
  });
}

/** The body of a 200. A redirect is refused, because it could lead anywhere. */
async function fetchText(url: string, timeoutMs: number): Promise<string> {
  const response = await fetch(url, {
    headers: { accept: 'application/jwk-set+json, application/json' },
    redirect: 'error',
    signal: AbortSignal.timeout(timeoutMs),
  });
  const chunks: Uint8Array[] = [];
  let size = 0;
  // Leaving the loop closes the connection.
  for await (const chunk of response.body ?? []) {
    size += chunk.length;
    if (size > BYTES_MAX) throw new Error(`the response has more than ${BYTES_MAX} bytes`);
    chunks.push(chunk);
  }
  if (response.status !== 200) throw new Error(`the response has the status ${response.status}`);
  return Buffer.concat(chunks).toString();
}

/** An empty set is refused: a provider that has lost its keys does not lock everybody out. */
function parseKeySet(text: string): z.infer<typeof keySetShape> {
  try {
    return keySetShape.parse(JSON.parse(text));
  } catch (error) {
    throw new Error('the response is not a JSON Web Key Set with keys', { cause: error });
  }
}

/** `fetch` says "fetch failed", and its cause says why. */
function reasonOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const { message, cause } = error;
  return cause instanceof Error && message === 'fetch failed' ? reasonOf(cause) : message;
}
