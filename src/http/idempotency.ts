import { z } from 'zod';

import { problemKinds } from './problem-kinds.ts';
import { Problem } from './problem.ts';

const BARE_KEY = /^[\x21\x23-\x5b\x5d-\x7e]{1,255}$/;
const QUOTED_KEY = /^"((?:[\x21\x23-\x5b\x5d-\x7e]|\\["\\]){1,255})"$/;
/** Both forms, for JSON Schema. */
const KEY_PATTERN = String.raw`^([!#-\[\]-~]{1,255}|"([!#-\[\]-~]|\\["\\]){1,255}")$`;
/** A quoted key whose every character is escaped. */
const KEY_TEXT_LENGTH_MAX = 512;
const RETRY_AFTER_SECONDS = 1;

/** Nobody signs in yet: every caller shares one space of idempotency keys. */
export const PRINCIPAL = 'anonymous';

/** A command sent under a key: whose key it is, and what tells whether a request is the same one. */
export type KeyedRequest = Readonly<{
  ref: Readonly<{ principal: string; key: string }>;
  /** Of this request: a stored hash that equals one of them is of the same; the first is stored. */
  hashes: readonly [Uint8Array, ...Uint8Array[]];
}>;

/**
 * The schema of an Idempotency-Key header: a quoted string (RFC 8941) or the bare key; both forms
 * name the same key.
 */
export const idempotencyKey = z
  .string()
  .meta({
    pattern: KEY_PATTERN,
    minLength: 1,
    maxLength: KEY_TEXT_LENGTH_MAX,
    description:
      'A key of your choice for this request. A retry with the same key takes effect once and gets ' +
      'the same response, for 72 hours.',
    examples: ['8e03978e-40d5-43e8-bc93-6894a57f9324'],
  })
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

/**
 * Sees to it that what is stored under the key belongs to this very request.
 * @throws Problem `idempotency_key_reused`
 */
export function requireSameRequest(storedHash: Uint8Array, { hashes }: KeyedRequest): void {
  if (hashes.some((hash) => Buffer.compare(storedHash, hash) === 0)) return;
  const { idempotencyKeyReused } = problemKinds;
  throw new Problem(idempotencyKeyReused, { detail: idempotencyKeyReused.advice });
}

/** Lets one request for each (principal, key) through at a time, in this process. */
export type InFlight = Readonly<{
  /**
   * Runs work that came without a key at once.
   * @throws Problem `idempotency_key_in_use` while another request with the key is under way
   */
  run<T>(keyed: KeyedRequest | undefined, work: () => Promise<T>): Promise<T>;
  count(): number;
}>;

/**
 * Holds the keys of requests under way. Whoever sends one of them again hears 409 at once, whatever
 * the body; between processes the index on stored keys decides.
 */
export function createInFlight(): InFlight {
  const underWay = new Set<string>();
  return {
    run: async (keyed, work) => {
      if (keyed === undefined) return work();
      const { principal, key } = keyed.ref;
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
