import { randomUUID } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import type { Pool } from 'pg';
import type { Logger } from 'pino';
import type { DatabaseClock } from '#src/database/clock.ts';
import { isOutage } from '#src/database/database-errors.ts';
import {
  CommandOverloaded,
  CommandUncertain,
  RowsLocked,
  StoreUnavailable,
} from '#src/event-store/event-store.ts';
import type { SagaWorkRow } from '#src/event-store/event-store.ts';
import type { GroupCommit } from '#src/event-store/group-commit.ts';
import { createWorker, fullJitterMs } from '#src/workers/worker.ts';
import { CallNotMade, attemptCall } from './saga-call.ts';
import type { StepOutcome } from './saga-call.ts';
import { beginSaga, decideCommit } from './saga-commit.ts';
import type {
  BegunSaga,
  SagaCommit,
  SagaCommitContext,
  SagaCommitted,
  SagaHolder,
  SagaStart,
} from './saga-commit.ts';
import { eventsOfOutcome } from './saga-decisions.ts';
import type { Todo } from './saga-decisions.ts';
import { cancelledStep } from './saga-definition.ts';
import type { CallAction, SagaDefinition } from './saga-definition.ts';
import {
  createClaimSagas,
  giveBack,
  renewLease,
  requireDefinitions,
  setAside,
} from './saga-store.ts';
import type { SagaClaim } from './saga-store.ts';
import { actionOf, reasonOf } from './saga.ts';
import type { Saga } from './saga.ts';

const CLAIM_MAX = 50;
/** How many runs of a saga may fail in a row before it waits for an operator. */
const FAILED_RUNS_MAX = 20;
/** The epoch of a new saga. Every claim starts a new one. */
const FIRST_EPOCH = 1;
/** How long to wait before a commit that was certainly not written is tried again. */
const COMMIT_RETRY = { baseMs: 50, maxMs: 2_000 } as const;
/**
 * How often to try to record the outcome of a call while somebody else keeps a row locked. After that the
 * saga is given back, and the next owner looks the call up.
 */
const LOCKED_TRIES_MAX = 5;

export type SagaRunnerLimits = SagaCommitContext['limits'] &
  Readonly<{
    /** Of one call. An attempt is at most two calls. */
    callTimeoutMs: number;
    /** How much longer than an attempt a lease lasts, because the outcome is still to be written. */
    leaseMarginMs: number;
    /** How many sagas this process works on at once. */
    concurrency: number;
    /** How often to look for sagas that are due. */
    pollMs: number;
    /** The provider may have forgotten an older key: such a call is only looked up. */
    resendMsMax: number;
    /** How long a stop waits for calls that are under way. */
    stopMsMax: number;
  }>;

/** Called after every attempt at a step, for metrics. */
export type OnAttempt = (
  definition: string,
  step: string,
  outcome: string,
  durationMs: number,
) => void;

export type SagaRunnerDependencies = SagaCommitContext &
  Readonly<{
    /** Every version that may be live. New sagas take the last of their name. */
    definitions: readonly SagaDefinition[];
    commit: Pick<GroupCommit, 'submit'>;
    pool: Pool;
    clock: DatabaseClock;
    limits: SagaRunnerLimits;
    log: Pick<Logger, 'info' | 'warn' | 'error'>;
    /** While this process may not write, it takes up no saga: another process could. */
    isPaused?: () => boolean;
    onAttempt?: OnAttempt;
  }>;

/** Works on sagas: those that this process starts, and those that are due and not held by anybody. */
export type SagaRunner = Readonly<{
  /** @throws SagaDefinitionMissing if a live saga has none of the definitions */
  start(): Promise<void>;
  /**
   * What the unit that starts a saga must contain, by the newest version of the named definition. If this process
   * has room, it holds the saga from the commit on. If not, a claim takes it up.
   */
  begin(name: string, start: SagaStart): BegunSaga;
  /** Must be called for every unit that was committed, so that sagas that are due start at once. */
  committed(rows: readonly SagaWorkRow[]): void;
  /** Stops claiming and waits a while for calls under way. Sagas whose calls do not end keep their lease. */
  stop(): Promise<void>;
}>;

/** The process that works on sagas, and what ends its work early. */
type Holder = SagaHolder &
  Readonly<{
    /** No further step is begun. */
    stopping: AbortSignal;
    /** Calls that are under way are cut off. The next owner looks their outcome up. */
    cutting: AbortSignal;
  }>;

/** A saga that this process holds. */
type HeldSaga = Readonly<{
  dependencies: SagaRunnerDependencies;
  holder: Holder;
  definition: SagaDefinition;
  claim: SagaClaim;
}>;

/** An attempt that was made, and its outcome. */
type Attempt = Readonly<{ action: CallAction; outcome: StepOutcome }>;

export function createSagaRunner(dependencies: SagaRunnerDependencies): SagaRunner {
  const { pool, definitions, clock, limits, log, isPaused = () => false } = dependencies;
  const owner = randomUUID();
  const leaseMs = attemptMsMax(limits) + limits.leaseMarginMs;
  const [stopping, cutting] = [new AbortController(), new AbortController()];
  const holder = { owner, leaseMs, stopping: stopping.signal, cutting: cutting.signal };
  const claim = createClaimSagas(pool, { owner, leaseMs, definitions });
  const running = new Set<Promise<void>>();
  let hasBacklog = false;

  const take = (claimed: SagaClaim, heldFrom: number) => {
    const work = runGuarded(dependencies, holder, claimed, heldFrom).finally(() => {
      running.delete(work);
      if (hasBacklog) worker.wake();
    });
    running.add(work);
  };

  const worker = createWorker({
    name: 'sagas',
    idleMs: limits.pollMs,
    errorBackoff: { baseMs: limits.pollMs, maxMs: 10 * limits.pollMs },
    log,
    tick: async () => {
      const room = isPaused() ? 0 : Math.min(limits.concurrency - running.size, CLAIM_MAX);
      hasBacklog = room <= 0;
      if (hasBacklog) return 0;
      await clock.refresh();
      const heldFrom = performance.now();
      const claims = await claim(room);
      hasBacklog = claims.length === room;
      for (const claimed of claims) take(claimed, heldFrom);
      return claims.length;
    },
  });

  return {
    start: async () => {
      await Promise.all([requireDefinitions(pool, definitions), clock.refresh()]);
      if (definitions.length > 0) worker.start();
    },
    begin: (name, start) => {
      // Sagas that already wait come first: a new saga joins them.
      const hasRoom = !hasBacklog && running.size < limits.concurrency && !stopping.signal.aborted;
      const definition = definitions.findLast((known) => known.name === name);
      if (!definition) throw new Error(`there is no definition of ${name} to start a saga with`);
      return beginSaga(definition, start, hasRoom ? holder : null);
    },
    committed: (rows) => {
      for (const row of rows) {
        if (row.op === 'begin' && row.owner === owner) take(firstClaim(row), performance.now());
        else if (row.op !== 'advance' || row.due_in_ms === 0) worker.wake();
      }
    },
    stop: async () => {
      stopping.abort();
      await worker.stop();
      const cut = setTimeout(() => cutting.abort(), limits.stopMsMax);
      while (running.size > 0) await Promise.all(running);
      clearTimeout(cut);
    },
  };
}

/** The claim on a saga that this process has started. Its lease began with the commit. */
function firstClaim(row: Extract<SagaWorkRow, { op: 'begin' }>): SagaClaim {
  return {
    sagaId: row.saga_id,
    orderId: row.subject_id,
    definition: row.definition,
    definitionVersion: row.definition_version,
    epoch: FIRST_EPOCH,
    failures: 0,
  };
}

/** Runs a saga. If the run fails, the saga is given back or, after many failures, waits for an operator. */
async function runGuarded(
  dependencies: SagaRunnerDependencies,
  holder: Holder,
  claim: SagaClaim,
  heldFrom: number,
): Promise<void> {
  const { pool, definitions, limits, log } = dependencies;
  const { sagaId, definitionVersion, failures } = claim;
  try {
    const definition = definitions.find(
      ({ name, version }) => name === claim.definition && version === definitionVersion,
    );
    if (!definition) {
      throw new Error(`${claim.definition} version ${definitionVersion} is not known here`);
    }
    await dependencies.clock.ready();
    await runSaga({ dependencies, holder, definition, claim }, heldFrom);
  } catch (err) {
    if (holder.cutting.aborted) return; // the lease runs out
    log.error({ sagaId, failures, err }, 'saga run failed, giving it back');
    const dueInMs = Math.ceil(fullJitterMs(failures + 1, limits.retry));
    const failed = !isOfDatabase(err);
    const givenBack =
      !failed || failures + 1 < FAILED_RUNS_MAX
        ? giveBack(pool, claim, { dueInMs, failed })
        : setAside(pool, claim, `${FAILED_RUNS_MAX} runs failed, the last with ${nameOf(err)}`);
    await givenBack.catch((err: unknown) => {
      log.error({ sagaId, err }, 'saga not given back: its lease must end');
    });
  }
}

/** The saga is not at fault: an outage of the database must not make it wait for an operator. */
function isOfDatabase(error: unknown): boolean {
  return (
    isOutage(error) ||
    error instanceof StoreUnavailable ||
    error instanceof CommandUncertain ||
    error instanceof CommandOverloaded
  );
}

/** Not the message, which may quote what a caller sent. */
function nameOf(error: unknown): string {
  return error instanceof Error ? error.name : 'an unknown error';
}

/**
 * Works on a saga until it has to wait, has ended, is stuck, or belongs to another process: it commits, makes
 * the call that the commit has announced, commits its outcome, and so on.
 */
async function runSaga(held: HeldSaga, heldFrom: number): Promise<void> {
  const { dependencies, holder, claim } = held;
  const { pool, log, limits } = dependencies;
  const { sagaId } = claim;
  let heldUntil = heldFrom + holder.leaseMs;
  let attempt: Attempt | undefined;
  for (;;) {
    const committedFrom = performance.now();
    const committed = await commitAttempt(held, attempt, heldUntil);
    if (committed === 'locked') return giveBackForLater(held, attempt ? LOCKED_TRIES_MAX : 1);
    if (!committed) {
      return log.info({ sagaId, step: attempt?.action.name }, 'saga has gone on elsewhere');
    }
    const { saga, todo, written } = committed;
    if (written) heldUntil = committedFrom + holder.leaseMs;
    if (todo.kind === 'wait') return;
    if (todo.kind === 'rest') return logEnd(held, saga);
    if (holder.stopping.aborted) return giveBack(pool, claim, { dueInMs: 0, failed: false });
    if (heldUntil - performance.now() < attemptMsMax(limits)) {
      const renewedFrom = performance.now();
      if (!(await renewLease(pool, claim, holder.leaseMs))) return;
      heldUntil = renewedFrom + holder.leaseMs;
    }
    attempt = await makeAttempt(held, saga, todo);
    if (holder.cutting.aborted) return;
    if (!attempt) return giveBackForLater(held, 1);
  }
}

/**
 * Commits the attempt and everything that follows from it; decided again after each lost race. A commit that was
 * certainly not written is tried again while the lease lasts. If somebody else keeps a row locked, there are
 * only a few tries, and only one if no outcome would be lost: otherwise sagas that wait for one row could fill
 * this process.
 * @returns null if another owner has the saga now, or if the outcome was recorded already
 */
async function commitAttempt(
  { dependencies, holder, definition, claim }: HeldSaga,
  attempt: Attempt | undefined,
  heldUntil: number,
): Promise<SagaCommitted | 'locked' | null> {
  const commit: SagaCommit = {
    ...claim,
    holder,
    retryAfterMs: attempt && 'retryAfterMs' in attempt.outcome ? attempt.outcome.retryAfterMs : 0,
    newEvents: (saga, situation) => {
      if (!attempt) return [];
      const events = eventsOfOutcome(saga, attempt.action, attempt.outcome, situation);
      return events.length > 0 ? events : null;
    },
  };
  for (let failures = 1; ; failures += 1) {
    try {
      return await dependencies.commit.submit({
        loads: [claim.sagaId, claim.orderId],
        attemptsMax: Infinity,
        hasReservedRoom: true, // the number of sagas at once bounds these commits
        decide: (loaded, refusedBy) =>
          decideCommit(definition, dependencies, commit, loaded, refusedBy),
      });
    } catch (error) {
      const triesMax = attempt ? LOCKED_TRIES_MAX : 1;
      if (error instanceof RowsLocked && failures >= triesMax) return 'locked';
      const wasNotWritten = error instanceof CommandOverloaded || error instanceof StoreUnavailable;
      if (!wasNotWritten || performance.now() > heldUntil) throw error;
      const waitMs = fullJitterMs(failures, COMMIT_RETRY);
      await delay(waitMs, undefined, { signal: holder.cutting });
    }
  }
}

/** Undefined if no call could be made. */
async function makeAttempt(
  { dependencies, holder, definition, claim }: HeldSaga,
  saga: Saga,
  { action, fresh }: Extract<Todo, { kind: 'call' }>,
): Promise<Attempt | undefined> {
  const { clock, limits, log, onAttempt } = dependencies;
  const { name } = action;
  const { key, request, requestedAt } = actionOf(saga, name);
  const call = definition.calls[name];
  if (key === null || requestedAt === null || !call) throw new Error(`${name} cannot be called`);
  // A cancel is as old as the call that it cancels: a provider that forgot the one forgot the other.
  const cancelled = cancelledStep(definition, name)?.action.name;
  const sentAt = (cancelled && actionOf(saga, cancelled).requestedAt) ?? requestedAt;
  const mayResend = clock.now().getTime() - Date.parse(sentAt) < limits.resendMsMax;
  const options = { fresh, mayResend, timeoutMs: attemptMsMax(limits), cutting: holder.cutting };
  const startedAt = performance.now();
  try {
    const outcome = await attemptCall(call, { key, request }, options);
    onAttempt?.(definition.name, name, outcome.outcome, performance.now() - startedAt);
    if (outcome.outcome !== 'ok') {
      const reason = 'reason' in outcome ? outcome.reason : undefined;
      const { sagaId } = claim;
      log.info({ sagaId, step: name, outcome: outcome.outcome, reason }, 'saga step not done');
    }
    return { action, outcome };
  } catch (error) {
    if (!(error instanceof CallNotMade)) throw error;
    const { cause: err } = error;
    if (err !== undefined) log.warn({ sagaId: claim.sagaId, step: name, err }, error.message);
    return undefined;
  }
}

/** Gives the saga back until a provider takes calls again, or a row is free. Other sagas run meanwhile. */
function giveBackForLater({ dependencies, claim }: HeldSaga, tries: number): Promise<void> {
  const dueInMs = Math.ceil(fullJitterMs(tries, dependencies.limits.retry));
  return giveBack(dependencies.pool, claim, { dueInMs, failed: false });
}

/** An attempt is at most two calls: a look-up, and the call itself. */
function attemptMsMax({ callTimeoutMs }: Pick<SagaRunnerLimits, 'callTimeoutMs'>): number {
  return 2 * callTimeoutMs;
}

function logEnd({ dependencies: { log }, claim: { sagaId } }: HeldSaga, saga: Saga): void {
  const { state } = saga;
  const reason = reasonOf(saga);
  if (state === 'stuck') log.warn({ sagaId, reason }, 'saga stuck: it needs an operator');
  else log.info({ sagaId, state }, 'saga ended');
}
