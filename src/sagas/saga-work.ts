import type { Pool } from 'pg';
import type { Todo } from './saga-decisions.ts';
import { actionOf, reasonOf } from './saga.ts';
import type { Saga, SagaState } from './saga.ts';

/**
 * What a unit does to `saga_work`, as its columns are named. Times are on the database's clock, so they
 * are sent as spans; the deadline is told by the saga's own events.
 */
export type SagaWorkRow =
  | Readonly<{
      op: 'begin';
      saga_id: string;
      subject_id: string;
      definition: string;
      definition_version: number;
      owner: string | null;
      lease_ms: number | null;
      due_in_ms: number;
    }>
  | Readonly<{
      op: 'advance';
      saga_id: string;
      /** Fences: the row must be at this epoch. */
      epoch: number;
      state: SagaState;
      step: string | null;
      attempt: number;
      reason: string | null;
      /** Kept by its owner, whose lease starts anew; or given back, which ends the epoch. */
      owner: string | null;
      lease_ms: number | null;
      /** Null: nothing is to be done any more. */
      due_in_ms: number | null;
      deadline_at: string | null;
    }>
  /** Turns the live saga of a subject back: due at once, whoever holds it. */
  | Readonly<{ op: 'wake'; subject_id: string }>;

/** What the queue shows of a saga. */
export function standing(saga: Saga, todo: Todo) {
  const action = todo.kind === 'rest' ? undefined : todo.action;
  const { attempts = 0, triedFrom } = action ? actionOf(saga, action.name) : {};
  const deadline =
    action && triedFrom ? new Date(Date.parse(triedFrom) + action.deadlineMs).toISOString() : null;
  return {
    state: saga.state,
    step: action?.name ?? null,
    attempt: attempts,
    reason: reasonOf(saga),
    deadline_at: deadline,
  };
}

/** A saga that this process may work on, until its lease ends or another epoch begins. */
export type SagaClaim = Readonly<{
  sagaId: string;
  subjectId: string;
  definition: string;
  definitionVersion: number;
  epoch: number;
  /** Runs that ended in an error since the saga last got on. */
  failures: number;
}>;

/** A version of a definition that sagas may have been started with. */
export type DefinitionRef = Readonly<{ name: string; version: number }>;

type ClaimRow = Readonly<{
  saga_id: string;
  subject_id: string;
  definition: string;
  definition_version: number;
  epoch: number;
  failures: number;
}>;

/** Live sagas that this build has no definition for: it must not start and leave them lying. */
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
    `select definition as name, definition_version as version from saga_work
     where state in ('running', 'compensating', 'stuck') group by 1, 2 order by 1, 2`,
  );
  const missing = rows.filter(
    ({ name, version }) => !known.some((one) => one.name === name && one.version === version),
  );
  if (missing.length > 0) throw new SagaDefinitionMissing(missing);
}

/** Takes up to `limit` sagas that are due and that nobody holds, the longest due first. */
export async function claimSagas(
  pool: Pool,
  claimant: Readonly<{ owner: string; leaseMs: number; definitions: readonly DefinitionRef[] }>,
  limit: number,
): Promise<SagaClaim[]> {
  const { owner, leaseMs, definitions } = claimant;
  const { rows } = await pool.query<ClaimRow>({
    name: 'claim_sagas',
    text: `update saga_work as work
           set owner = $1, epoch = work.epoch + 1, updated_at = clock_timestamp(),
               lease_until = clock_timestamp() + $2 * interval '1 ms',
               due_at = clock_timestamp() + $2 * interval '1 ms'
           from (
             select saga_id from saga_work
             where due_at <= clock_timestamp()
               and (lease_until is null or lease_until <= clock_timestamp())
               and (definition, definition_version) in
                 (select * from unnest($3::text[], $4::integer[]))
             order by due_at limit $5 for update skip locked
           ) as due
           where work.saga_id = due.saga_id
           returning work.saga_id, work.subject_id, work.definition, work.definition_version,
             work.epoch, work.failures`,
    values: [
      owner,
      leaseMs,
      definitions.map(({ name }) => name),
      definitions.map(({ version }) => version),
      limit,
    ],
  });
  return rows.map((row) => ({
    sagaId: row.saga_id,
    subjectId: row.subject_id,
    definition: row.definition,
    definitionVersion: row.definition_version,
    epoch: row.epoch,
    failures: row.failures,
  }));
}

/** Starts the lease anew; false where the saga is somebody else's by now. */
export async function renewLease(
  pool: Pool,
  { sagaId, epoch }: Pick<SagaClaim, 'sagaId' | 'epoch'>,
  leaseMs: number,
): Promise<boolean> {
  const { rowCount } = await pool.query(
    `update saga_work
     set lease_until = clock_timestamp() + $3 * interval '1 ms',
         due_at = clock_timestamp() + $3 * interval '1 ms', updated_at = clock_timestamp()
     where saga_id = $1 and epoch = $2 and owner is not null`,
    [sagaId, epoch, leaseMs],
  );
  return rowCount === 1;
}

/**
 * Gives a saga back in the middle. The new epoch fences whatever its run may still have on its way to
 * the database.
 */
export async function giveBack(
  pool: Pool,
  { sagaId, epoch }: Pick<SagaClaim, 'sagaId' | 'epoch'>,
  { dueInMs, failed }: Readonly<{ dueInMs: number; failed: boolean }>,
): Promise<void> {
  await pool.query({
    name: 'give_back_saga',
    text: `update saga_work
           set owner = null, lease_until = null, epoch = epoch + 1, failures = failures + $4,
               due_at = clock_timestamp() + $3 * interval '1 ms', updated_at = clock_timestamp()
           where saga_id = $1 and epoch = $2 and state in ('running', 'compensating')`,
    values: [sagaId, epoch, dueInMs, failed ? 1 : 0],
  });
}

/**
 * Sets aside a saga whose runs fail again and again. Its own events do not say so: what fails may be the
 * writing of them.
 */
export async function setAside(
  pool: Pool,
  { sagaId, epoch }: Pick<SagaClaim, 'sagaId' | 'epoch'>,
  reason: string,
): Promise<void> {
  await pool.query(
    `update saga_work
     set state = 'stuck', reason = $3, owner = null, lease_until = null, due_at = null,
         epoch = epoch + 1, failures = failures + 1, updated_at = clock_timestamp()
     where saga_id = $1 and epoch = $2 and state in ('running', 'compensating')`,
    [sagaId, epoch, reason],
  );
}

/** Sagas that have not ended, by definition and state; those of `names` are told where there are none. */
export async function countLiveSagas(
  pool: Pool,
  names: readonly string[],
): Promise<Record<string, Record<string, number>>> {
  const { rows } = await pool.query<{ definition: string; state: SagaState; count: number }>(
    `select definition, state, count(*) from saga_work
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

/** How long ago the oldest saga started that has not ended; 0 where all have. */
export async function oldestLiveAgeSeconds(pool: Pool): Promise<number> {
  const { rows } = await pool.query<{ age: number }>(
    `select coalesce(extract(epoch from clock_timestamp() - min(created_at)), 0)::float8 as age
     from saga_work where state in ('running', 'compensating', 'stuck')`,
  );
  return rows[0]?.age ?? 0;
}
