import { hash } from 'node:crypto';

import type { Pool } from 'pg';
import type { Logger } from 'pino';
import { z } from 'zod';
import { createWorker } from '#src/workers/worker.ts';
import type { Worker } from '#src/workers/worker.ts';

import { canonicalEntityTags } from './entity-tags.ts';
import type { EntityTags } from './entity-tags.ts';
import { Problem, problemKind } from './problem.ts';

const BARE_KEY = /^[\x21\x23-\x5b\x5d-\x7e]{1,255}$/;
const QUOTED_KEY = /^"((?:[\x21\x23-\x5b\x5d-\x7e]|\\["\\]){1,255})"$/;
/** Both forms, for JSON Schema. */
const KEY_PATTERN = String.raw`^([!#-\[\]-~]{1,255}|"([!#-\[\]-~]|\\["\\]){1,255}")$`;
/** A quoted key whose every character is escaped. */
const KEY_TEXT_LENGTH_MAX = 512;
const RETRY_AFTER_SECONDS = 1;
/** How long a key stands for its request. */
const KEPT_HOURS = 72;
const PRUNE_BATCH_MAX = 1_000;
const PRUNE_IDLE_MS = 60_000;

/** A command that was sent with an Idempotency-Key. */
export type KeyedRequest = Readonly<{
  ref: Readonly<{ principal: string; key: string }>;
  /** Identifies the request; it is stored with the response. */
  hash: Uint8Array;
  /** Whether a stored hash is of this same request. */
  isSame(storedHash: Uint8Array): boolean;
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

/** A request as its route understood it, in whatever way it was spelt. */
type UnderstoodRequest = Readonly<{
  params: unknown;
  body: unknown;
  ifMatch: EntityTags | undefined;
  ifNoneMatch: EntityTags | undefined;
}>;

/** The same request as it was spelt. */
type SpeltRequest = Readonly<{ path: string; body: unknown }>;

/**
 * Makes the function that identifies the keyed requests of one route; `path` has its parameters in
 * braces. A request is the SHA-256 of everything that decides its effect. What is stored is the hash of
 * the request as understood, so that its spelling does not matter. Releases before 0.2 stored the hash
 * of the request as spelt, and their keys are still recognised.
 */
export function createRequestIdentifier(
  route: Readonly<{ method: string; path: string; bodySchema: z.ZodType }>,
) {
  const { method } = route;
  const pathParts = route.path.split(/[{}]/);
  const withoutDefaults = defaultsRemover(route.bodySchema);
  return (
    ref: KeyedRequest['ref'],
    understood: UnderstoodRequest,
    spelt: SpeltRequest,
  ): KeyedRequest => {
    const { params, ifMatch, ifNoneMatch } = understood;
    const conditions = [
      ifMatch === undefined ? '' : canonicalEntityTags(ifMatch),
      ...(ifNoneMatch === undefined ? [] : [`not ${canonicalEntityTags(ifNoneMatch)}`]),
    ].join(' ');
    const path = canonicalPath(pathParts, params);
    const ofMeaning = digest(method, path, conditions, withoutDefaults(understood.body));
    const ofSpelling = () => digest(method, spelt.path, ifMatch?.text ?? '', spelt.body);
    return {
      ref,
      hash: ofMeaning,
      isSame: (stored) =>
        Buffer.compare(stored, ofMeaning) === 0 || Buffer.compare(stored, ofSpelling()) === 0,
    };
  };
}

function digest(method: string, path: string, conditions: string, body: unknown): Buffer {
  const text = body === undefined ? '' : canonicalJson(body);
  return hash('sha256', `${method}\n${path}\n${conditions}\n${text}`, 'buffer');
}

/** `parts` are in turn text and the name of a parameter. */
function canonicalPath(parts: readonly string[], params: unknown): string {
  const values = isObject(params) ? params : {};
  return parts
    .map((part, index) => (index % 2 === 0 ? part : encodeURIComponent(String(values[part]))))
    .join('');
}

/**
 * JSON text that is the same for equal values: members sorted by name, no spaces. Takes parsed
 * JSON, whose depth the body parser has bounded.
 */
export function canonicalJson(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(canonicalJson).join(',')}]`;
  if (!isObject(value)) return JSON.stringify(value) ?? 'null';
  let members = '';
  for (const name of Object.keys(value).toSorted()) {
    if (members !== '') members += ',';
    members += `${JSON.stringify(name)}:${canonicalJson(value[name])}`;
  }
  return `{${members}}`;
}

type Remover = (value: unknown) => unknown;

const unchanged: Remover = (value) => value;

/** Makes the function that leaves out the members of a checked value that equal their defaults. */
function defaultsRemover(schema: z.core.$ZodType): Remover {
  if (schema instanceof z.ZodOptional) return defaultsRemover(schema.def.innerType);
  if (schema instanceof z.ZodArray) {
    const removeIn = defaultsRemover(schema.def.element);
    if (removeIn === unchanged) return unchanged;
    return (value) => (Array.isArray(value) ? value.map(removeIn) : value);
  }
  if (!(schema instanceof z.ZodObject)) return unchanged;
  const members = Object.entries(schema.def.shape).map(([name, member]) =>
    member instanceof z.ZodDefault
      ? {
          name,
          defaultText: canonicalJson(member.def.defaultValue),
          removeIn: defaultsRemover(member.def.innerType),
        }
      : { name, defaultText: undefined, removeIn: defaultsRemover(member) },
  );
  const affected = members.filter(
    ({ defaultText, removeIn }) => defaultText !== undefined || removeIn !== unchanged,
  );
  if (affected.length === 0) return unchanged;
  return (value) => {
    if (!isObject(value)) return value;
    const kept: Record<string, unknown> = { ...value };
    for (const { name, defaultText, removeIn } of affected) {
      if (!(name in kept)) continue;
      if (defaultText !== undefined && canonicalJson(kept[name]) === defaultText) delete kept[name];
      else kept[name] = removeIn(kept[name]);
    }
    return kept;
  };
}

function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/**
 * Checks that what is stored under the key belongs to this request.
 * @throws Problem `idempotency_key_reused`
 */
export function requireSameRequest(storedHash: Uint8Array, keyed: KeyedRequest): void {
  if (keyed.isSame(storedHash)) return;
  throw new Problem(problemKind('idempotency_key_reused'));
}

/** Lets one request per (principal, key) through at a time, in this process. */
export type InFlight = Readonly<{
  /**
   * Runs the work of a request. A request without a key runs at once.
   * @throws Problem `idempotency_key_in_use` while another request with the key is in progress
   */
  run<T>(keyed: KeyedRequest | undefined, work: () => Promise<T>): Promise<T>;
}>;

/**
 * Holds the keys of requests in progress. Another request with such a key gets 409 at once, whatever its
 * body. Between processes the index on stored keys decides.
 */
export function createInFlight(): InFlight {
  const inProgress = new Set<string>();
  return {
    run: async (keyed, work) => {
      if (keyed === undefined) return work();
      const { principal, key } = keyed.ref;
      // A key has no space in it, so two pairs never make the same entry.
      const entry = `${key} ${principal}`;
      if (inProgress.has(entry)) {
        throw new Problem(problemKind('idempotency_key_in_use'), {
          detail: 'A request with this Idempotency-Key is in progress. Retry in a second.',
          retryAfterSeconds: RETRY_AFTER_SECONDS,
        });
      }
      inProgress.add(entry);
      try {
        return await work();
      } finally {
        inProgress.delete(entry);
      }
    },
  };
}

/** Deletes idempotency keys that are older than 72 hours, in small batches. */
export function createIdempotencyKeyPruner(pool: Pool, log: Logger): Worker {
  return createWorker({
    name: 'idempotency key pruner',
    tick: async () => {
      const { rowCount } = await pool.query(
        `delete from idempotency_keys where (principal, key) in (
           select principal, key from idempotency_keys
           where created_at < now() - make_interval(hours => $1)
           order by created_at limit $2)`,
        [KEPT_HOURS, PRUNE_BATCH_MAX],
      );
      return rowCount ?? 0;
    },
    idleMs: PRUNE_IDLE_MS,
    errorBackoff: { baseMs: 1_000, maxMs: 60_000 },
    log,
  });
}
