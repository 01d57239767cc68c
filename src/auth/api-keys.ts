import { timingSafeEqual } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import type { Pool } from 'pg';
import type { Logger } from 'pino';
import { z } from 'zod';
import { unauthenticated } from '#src/http/access.ts';
import { Problem, problemKind } from '#src/http/problem.ts';
import { createWorker, withDeadline } from '#src/workers/worker.ts';
import { isApiKey, parseApiKey } from './api-key.ts';
import type { ApiKey } from './api-key.ts';
import type { TokenKind } from './authentication.ts';
import type { Principal } from './principal.ts';

/** Keys that can be in use at once. All of them are held in memory. */
export const API_KEYS_MAX = 10_000;
/** How often the keys are read again. */
const READ_EVERY_MS = 1_000;
/** Keys that were read longer ago are not trusted, so a revoked key works no longer than this. */
const TRUSTED_MS = 4_000;
/** However many unknown keys are sent, reads are at least so far apart. */
const READ_GAP_MS = 100;
/** How long a request waits for the keys. */
const WAIT_MS_MAX = 2_000;
/** How often the last uses are written. */
const USES_EVERY_MS = 60_000;

/** A key that can be used, until `expiresAtMs` on the monotonic clock. */
type UsableKey = ApiKey & Readonly<{ principal: Principal; expiresAtMs: number }>;
/** The keys as they were at `readAtMs` on the monotonic clock. */
type Snapshot = Readonly<{
  version: number;
  keys: ReadonlyMap<string, UsableKey>;
  readAtMs: number;
}>;

/** The API keys of callers. */
export type ApiKeys = TokenKind &
  Readonly<{
    start(): void;
    stop(): Promise<void>;
  }>;

/**
 * Holds all API keys in memory and reads them again every second, so that a request takes no query. A key that is not
 * among them is looked for once more, in a read that all such requests share. While the keys cannot be read, no key is
 * accepted.
 */
export function createApiKeys(pool: Pool, log: Pick<Logger, 'info' | 'error'>): ApiKeys {
  const reader = createReader(pool);
  const uses = createUses(pool);
  const workers = [
    createWorker({
      name: 'API keys',
      tick: async () => void (await reader.readAgain()),
      idleMs: READ_EVERY_MS,
      errorBackoff: { baseMs: READ_EVERY_MS, maxMs: READ_EVERY_MS },
      log,
    }),
    createWorker({
      name: 'last uses of API keys',
      tick: uses.write,
      idleMs: USES_EVERY_MS,
      errorBackoff: { baseMs: USES_EVERY_MS, maxMs: USES_EVERY_MS },
      log,
    }),
  ];
  return {
    isMine: isApiKey,
    authenticate: async (token) => {
      const given = parseApiKey(token);
      if (!given) throw unauthenticated('The API key is misspelt or cut off.', 'invalid_token');
      const key = findKey(reader.trusted(), given) ?? findKey(await reader.readInTime(), given);
      if (!key) {
        throw unauthenticated('The API key is unknown, revoked or expired.', 'invalid_token');
      }
      uses.add(key.id);
      return key.principal;
    },
    start: () => {
      for (const worker of workers) worker.start();
    },
    stop: async () => {
      const written = uses.write().catch((error: unknown) => {
        log.error({ err: error }, 'could not write the last uses of API keys');
      });
      const inTime = withDeadline(written, WAIT_MS_MAX, () => {});
      await Promise.all([inTime, ...workers.map((worker) => worker.stop())]);
    },
  };
}

function findKey(snapshot: Snapshot | undefined, given: ApiKey): UsableKey | undefined {
  const key = snapshot?.keys.get(given.id);
  if (!key || !timingSafeEqual(key.hash, given.hash)) return undefined;
  return performance.now() < key.expiresAtMs ? key : undefined;
}

/** Reads the keys, in one read at a time. */
function createReader(pool: Pool) {
  let latest: Snapshot | undefined;
  let running: Promise<unknown> = Promise.resolve();
  let next: Promise<Snapshot> | undefined;
  let beganAtMs = -Infinity;

  const read = async () => {
    beganAtMs = performance.now();
    latest = await readSnapshot(pool, latest);
    return latest;
  };
  /** Shares a read that has not begun yet: one that is running may have missed a new key. */
  const readAgain = () => {
    next ??= (async () => {
      await running.catch(() => {});
      await delay(Math.max(0, beganAtMs + READ_GAP_MS - performance.now()));
      next = undefined;
      const reading = read();
      running = reading;
      return reading;
    })();
    return next;
  };
  return {
    readAgain,
    /** Undefined if the keys were read too long ago. */
    trusted: () =>
      latest && performance.now() - latest.readAtMs < TRUSTED_MS ? latest : undefined,
    /** @throws Problem `authentication_unavailable` */
    readInTime: async (): Promise<Snapshot> => {
      const reading = withDeadline(readAgain(), WAIT_MS_MAX, () =>
        Promise.reject(new Error('the API keys could not be read in time')),
      );
      return reading.catch((cause: unknown) => {
        throw new Problem(problemKind('authentication_unavailable'), { cause });
      });
    },
  };
}

const READ = `
  select version, case when version is distinct from $1 then (
    select coalesce(json_agg(json_build_object(
      'id', key_id, 'hash', encode(key_hash, 'hex'), 'scopes', scopes, 'customerId', customer_id,
      'expiresInMs', extract(epoch from expires_at - clock_timestamp()) * 1000)), '[]')
    from (
      select * from api_keys
      where revoked_at is null and (expires_at is null or expires_at > clock_timestamp())
      order by created_at, key_id limit ${API_KEYS_MAX}
    ) usable
  ) end as keys
  from api_keys_version`;

const readKeys = z
  .array(
    z.object({
      id: z.string(),
      hash: z.string().transform((text) => Buffer.from(text, 'hex')),
      scopes: z.array(z.string()),
      customerId: z.string().nullable(),
      expiresInMs: z.number().nullable(),
    }),
  )
  .nullable();

/** Reads the keys if they have changed since `earlier`. What is read is as of when the read began, or later. */
async function readSnapshot(pool: Pool, earlier: Snapshot | undefined): Promise<Snapshot> {
  const readAtMs = performance.now();
  const { rows } = await pool.query<{ version: number; keys: unknown }>({
    name: 'read_api_keys',
    text: READ,
    values: [earlier?.version ?? null],
  });
  const [row] = rows;
  if (!row) throw new Error('the table api_keys_version has no row');
  const changed = readKeys.parse(row.keys);
  if (changed === null && earlier) return { ...earlier, readAtMs };
  const keys = (changed ?? []).map(({ id, hash, scopes, customerId, expiresInMs }): UsableKey => {
    const customer = customerId === null ? {} : { customerId };
    const principal = { id: `key:${id}`, scopes: new Set(scopes), ...customer };
    return { id, hash, principal, expiresAtMs: readAtMs + (expiresInMs ?? Infinity) };
  });
  return { version: row.version, keys: new Map(keys.map((key) => [key.id, key])), readAtMs };
}

/** The order of the rows is the same in all replicas, so that they never wait for each other in a circle. */
const WRITE_USES = `
  insert into api_key_uses (key_id, last_used_at)
  select key_id, clock_timestamp() - ms_ago * interval '1 ms'
  from json_to_recordset($1) as used (key_id text, ms_ago float8) order by key_id
  on conflict (key_id) do update
  set last_used_at = greatest(api_key_uses.last_used_at, excluded.last_used_at)`;

/** When keys were last used, kept until it is written for all of them together. */
function createUses(pool: Pool) {
  let used = new Map<string, number>();
  return {
    add: (id: string) => void used.set(id, performance.now()),
    write: async () => {
      if (used.size === 0) return;
      const written = used;
      used = new Map();
      const now = performance.now();
      const rows = [...written].map(([id, atMs]) => ({ key_id: id, ms_ago: now - atMs }));
      await pool.query(WRITE_USES, [JSON.stringify(rows)]).catch((error: unknown) => {
        used = new Map([...written, ...used]);
        throw error;
      });
    },
  };
}
