import { setTimeout as delay } from 'node:timers/promises';
import type { Pool } from 'pg';
import type { SagaState } from './saga.ts';

/** A saga that this process may work on until its lease ends or another epoch begins. */
export type SagaClaim = Readonly<{
  sagaId: string;
  orderId: string;
  definition: string;
  definitionVersion: number;
  epoch: number;
  /** Runs that have ended in an error since the saga's last commit. */
  failures: number;
}>;

/** A version of a definition that sagas may have been started with. */
export type DefinitionRef = Readonly<{ name: string; version: number }>;

/** This build lacks the definition of a live saga. It must not start, because the saga would stand still. */
export class SagaDefinitionMissing extends Error {
  constructor(missing: readonly DefinitionRef[]) {
    const names = missing.map(({ name, version }) => `${name} version ${version}`);
    super(`there are live sagas of definitions that are not known here: ${names.join(', ')}`);
    this.name = 'SagaDefinitionMissing';
  }
}

/** @throws SagaDefinitionMissing */
export async function requireDefinitions(
  pool: Pool,
  known: readonly DefinitionRef[],
): Promise<void> {
  const { rows } = await pool.query<DefinitionRef>(
    `select definition as name, definition_version as version from only saga_work
     where state in ('running', 'compensating', 'stuck') group by 1, 2 order by 1, 2`,
  );
  const missing = rows.filter(
    ({ name, version }) => !known.some((one) => one.name === name && one.version === version),
  );
  if (missing.length > 0) throw new SagaDefinitionMissing(missing);
}

/** The process that claims, and which sagas it can work on. */
export type Claimant = Readonly<{
  owner: string;
  leaseMs: number;
  definitions: readonly DefinitionRef[];
}>;

/** Claims up to `limit` sagas that are due and that nobody holds, the longest due first. */
export type ClaimSagas = (limit: number) => Promise<SagaClaim[]>;

/** How far back a claim looks from now, beside two leases: how late a row may be committed. */
const LOOK_BACK_MARGIN_MS = 30_000;
/** How often a claim looks at everything: after this long, and for at most a twentieth of the time. */
const FULL_LOOK = { everyMs: 10_000, restPerMs: 20 } as const;

/**
 * Finished steps leave dead entries in the index by due time, and an old snapshot (a backup, a report) keeps
 * them there. To skip them, a claim starts at the oldest saga that the last claim found, or a little before now.
 * From time to time a claim looks at everything, and so finds what was due earlier.
 */
export function createClaimSagas(pool: Pool, claimant: Claimant): ClaimSagas {
  const { owner, leaseMs, definitions } = claimant;
  const lookBackMs = 2 * leaseMs + LOOK_BACK_MARGIN_MS;
  let from: Date | null = null;
  let nextFullLook = 0;
  return async (limit) => {
    const startedAt = performance.now();
    const isFullLook = startedAt >= nextFullLook;
    const { rows } = await pool.query<SagaClaim & Readonly<{ wasDueAt: Date }>>({
      name: 'claim_sagas',
      text: `select saga_id as "sagaId", subject_id as "orderId", definition,
               definition_version as "definitionVersion", epoch, failures, was_due_at as "wasDueAt"
             from claim_sagas($1, $2, $3, $4, $5, $6, $7)`,
      values: [
        owner,
        leaseMs,
        definitions.map(({ name }) => name),
        definitions.map(({ version }) => version),
        limit,
        isFullLook ? null : from,
        isFullLook ? null : lookBackMs,
      ],
    });
    const tookMs = performance.now() - startedAt;
    if (isFullLook) {
      const restMs = Math.max(FULL_LOOK.everyMs, FULL_LOOK.restPerMs * tookMs);
      nextFullLook = startedAt + tookMs + restMs;
    }
    const oldest = Math.min(...rows.map(({ wasDueAt }) => wasDueAt.getTime()));
    from = rows.length === limit && limit > 0 ? new Date(oldest) : null;
    return rows;
  };
}

/** How often to try again while the row of a saga is locked, and how long to wait in between. */
const FREE_ROW = { triesMax: 4, waitMs: 50 } as const;

/**
 * Changes the row of a saga if it is still at this epoch. False if it is not, or if somebody else keeps the row
 * locked: the lease then runs out. It does not wait for the lock in the database, because the relay uses the
 * same pool.
 */
async function changeRow(
  pool: Pool,
  { sagaId, epoch }: Pick<SagaClaim, 'sagaId' | 'epoch'>,
  { set, where, values }: Readonly<{ set: string; where: string; values: readonly unknown[] }>,
): Promise<boolean> {
  for (let tries = 1; ; tries += 1) {
    const { rowCount } = await pool.query(
      `update only saga_work set ${set}, updated_at = clock_timestamp()
       where saga_id = (
         select saga_id from only saga_work where saga_id = $1 and epoch = $2 and ${where}
         for update skip locked)`,
      [sagaId, epoch, ...values],
    );
    if (rowCount === 1) return true;
    if (tries === FREE_ROW.triesMax) return false;
    await delay(FREE_ROW.waitMs);
  }
}

/** Renews the lease. False if another process has the saga by now. */
export function renewLease(
  pool: Pool,
  claim: Pick<SagaClaim, 'sagaId' | 'epoch'>,
  leaseMs: number,
): Promise<boolean> {
  return changeRow(pool, claim, {
    set: `lease_until = clock_timestamp() + $3 * interval '1 ms',
          due_at = clock_timestamp() + $3 * interval '1 ms'`,
    where: 'owner is not null',
    values: [leaseMs],
  });
}

/** Gives a saga back before its end. The new epoch fences writes of its run that are still under way. */
export async function giveBack(
  pool: Pool,
  claim: Pick<SagaClaim, 'sagaId' | 'epoch'>,
  { dueInMs, failed }: Readonly<{ dueInMs: number; failed: boolean }>,
): Promise<void> {
  await changeRow(pool, claim, {
    set: `owner = null, lease_until = null, epoch = epoch + 1, failures = failures + $4,
          due_at = clock_timestamp() + $3 * interval '1 ms'`,
    where: `state in ('running', 'compensating')`,
    values: [dueInMs, failed ? 1 : 0],
  });
}

/**
 * Makes a saga whose runs fail again and again wait for an operator. Only the queue shows this, not the saga's
 * events, because writing events may be what fails.
 */
export async function setAside(
  pool: Pool,
  claim: Pick<SagaClaim, 'sagaId' | 'epoch'>,
  reason: string,
): Promise<void> {
  await changeRow(pool, claim, {
    set: `state = 'stuck', reason = $3, owner = null, lease_until = null, due_at = null,
          epoch = epoch + 1, failures = failures + 1`,
    where: `state in ('running', 'compensating')`,
    values: [reason],
  });
}

/** Counts sagas that have not ended, by definition and state. The definitions in `names` are always counted. */
export async function countLiveSagas(
  pool: Pool,
  names: readonly string[],
): Promise<Record<string, Record<string, number>>> {
  const { rows } = await pool.query<{ definition: string; state: SagaState; count: number }>(
    `select definition, state, count(*) from only saga_work
     where state in ('running', 'compensating', 'stuck') group by definition, state`,
  );
  const none = { running: 0, compensating: 0, stuck: 0 };
  const counts: Record<string, Record<string, number>> = {};
  for (const name of names) counts[name] = { ...none };
  for (const { definition, state, count } of rows) {
    counts[definition] = { ...none, ...counts[definition], [state]: count };
  }
  return counts;
}

/** The age of the oldest saga that has not ended. 0 if all have. */
export async function oldestLiveAgeSeconds(pool: Pool): Promise<number> {
  const { rows } = await pool.query<{ age: number }>(
    `select coalesce(extract(epoch from clock_timestamp() - min(created_at)), 0)::float8 as age
     from only saga_work where state in ('running', 'compensating', 'stuck')`,
  );
  return rows[0]?.age ?? 0;
}
