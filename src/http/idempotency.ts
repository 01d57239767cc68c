import { hash } from 'node:crypto';

import { z } from 'zod';

import { canonicalJson } from './canonical-json.ts';
import { problemKinds } from './problem-kinds.ts';
import { Problem } from './problem.ts';

const BARE_KEY = /^[\x21\x23-\x5b\x5d-\x7e]{1,255}$/;
const QUOTED_KEY = /^"((?:[\x21\x23-\x5b\x5d-\x7e]|\\["\\]){1,255})"$/;
const RETRY_AFTER_SECONDS = 1;

/**
 * The schema of an Idempotency-Key header: a quoted string (RFC 8941) or the bare key; both forms
 * name the same key.
 */
export const idempotencyKey = z
  .string()
  .meta({ examples: ['8e03978e-40d5-43e8-bc93-6894a57f9324'] })
  .transform((text, context): string => {
    const key = parseIdempotencyKey(text);
    if (key !== undefined) return key;
    context.addIssue({
      code: 'custom',
      message: 'must be 1 to 255 visible ASCII characters, bare or as a quoted string',
    });
    return z.NEVER;
  });

function parseIdempotencyKey(text: string): string | undefined {
  if (BARE_KEY.test(text)) return text;
  return QUOTED_KEY.exec(text)?.[1]?.replaceAll(/\\(["\\])/g, '$1');
}

/** What makes two requests the same request: SHA-256 of all that decides their effect. */
export function hashRequest(
  request: Readonly<{
    method: string;
    path: string;
    ifMatch: string | undefined;
    rawBody: unknown;
  }>,
): Buffer {
  const { method, path, ifMatch, rawBody } = request;
  const body = rawBody === undefined ? '' : canonicalJson(rawBody);
  return hash('sha256', `${method}\n${path}\n${ifMatch ?? ''}\n${body}`, 'buffer');
}

/** Lets one request for each (principal, key) through at a time, in this process. */
export type InFlight = Readonly<{
  /** @throws Problem `idempotency_key_in_use` while another request with the key is under way */
  run<T>(principal: string, key: string, work: () => Promise<T>): Promise<T>;
  count(): number;
}>;

/**
 * Holds the keys of requests under way. Whoever sends one of them again hears 409 at once, whatever
 * the body; between processes the index on stored keys decides.
 */
export function createInFlight(): InFlight {
  const underWay = new Set<string>();
  return {
    run: async (principal, key, work) => {
      // A key has no space in it, so the pair cannot be read in two ways.
      const entry = `${key} ${principal}`;
      if (underWay.has(entry)) {
        throw new Problem(problemKinds.idempotencyKeyInUse, {
          detail: 'A request with this Idempotency-Key is under way. Repeat it in a second.',
          retryAfterSeconds: RETRY_AFTER_SECONDS,
        });
      }
      underWay.add(entry);
      try {
        return await work();
      } finally {
        underWay.delete(entry);
      }
    },
    count: () => underWay.size,
  };
}
