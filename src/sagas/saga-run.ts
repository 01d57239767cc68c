import { CommandOverloaded, RowsLocked, StoreUnavailable } from '#src/event-store/event-store.ts';
import type { SagaWorkRow } from '#src/event-store/event-store.ts';
import { setTimeout as delay } from 'node:timers/promises';
import type { Pool } from 'pg';
import type { Logger } from 'pino';
import type { DatabaseClock } from '#src/database/clock.ts';
import type { GroupCommit } from '#src/event-store/group-commit.ts';
import { fullJitterMs } from '#src/workers/worker.ts';
import type { Backoff } from '#src/workers/worker.ts';
import { commitSaga } from './saga-commit.ts';
import type { SagaCommitContext, SagaCommitted } from './saga-commit.ts';
import { eventsOfOutcome } from './saga-decisions.ts';
import type { Advance, Todo } from './saga-decisions.ts';
import { CallNotMade, cancelledStep } from './saga-definition.ts';
import type {
  CallAction,
  KeyedRequest,
  SagaDefinition,
  StepCall,
  StepOutcome,
  UnknownOutcome,
} from './saga-definition.ts';
import { giveBack, progressColumns, renewLease } from './saga-store.ts';
import type { SagaClaim } from './saga-store.ts';
import { actionOf, reasonOf } from './saga.ts';
import type { Saga } from './saga.ts';

/** How long to wait before a commit that was certainly not written is tried again. */
const COMMIT_RETRY = { baseMs: 50, maxMs: 2_000 } as const;
/**
 * How often to try to record the outcome of a call while somebody else keeps a row locked. After that the
 * saga is given back, and the next owner looks the call up.
 */
const LOCKED_TRIES_MAX = 5;

export type SagaRunnerLimits = Readonly<{
  /** Of one call. An attempt is at most two calls. */
  callTimeoutMs: number;
  /** How much longer than an attempt a lease lasts, because the outcome is still to be written. */
  leaseMarginMs: number;
  /** How many sagas this process works on at once. */
  concurrency: number;
  /** How often to look for sagas that are due. */
  pollMs: number;
  /** Between the attempts of a step. */
  retry: Backoff;
  /** The provider may have forgotten an older key: such a call is only looked up. */
  resendMsMax: number;
  /** How long a stop waits for calls that are under way. */
  stopMsMax: number;
}>;

/** What happened, for metrics. */
export type SagaRunnerEvents = Readonly<{
  called(definition: string, step: string, outcome: string, durationMs: number): void;
}>;

export type SagaRunDependencies = SagaCommitContext &
  Readonly<{
    commit: Pick<GroupCommit, 'submit'>;
    pool: Pool;
    /** For all deadlines. */
    clock: DatabaseClock;
    /** The call of each action that is one. */
    calls: Readonly<Record<string, StepCall>>;
    limits: SagaRunnerLimits;
    log: Pick<Logger, 'info' | 'warn' | 'error'>;
    events?: SagaRunnerEvents;
  }>;

/** The process that works on sagas, and what ends its work early. */
export type SagaOwner = Readonly<{
  owner: string;
  leaseMs: number;
  /** No further step is begun. */
  stopping: AbortSignal;
  /** Calls that are under way are cut off. The next owner looks their outcome up. */
  cutting: AbortSignal;
}>;

/** A saga that this process holds. */
export type HeldSaga = Readonly<{
  dependencies: SagaRunDependencies;
  holder: SagaOwner;
  definition: SagaDefinition;
  claim: SagaClaim;
}>;

/** An attempt that was made, and its outcome. */
type Attempt = Readonly<{ action: CallAction; outcome: StepOutcome }>;

/** Works on a saga until it has to wait, has ended, is stuck, or belongs to another process. */
export async function runSaga(held: HeldSaga, heldFrom: number): Promise<void> {
  const { dependencies, holder, claim } = held;
  const { pool, log } = dependencies;
  const { sagaId } = claim;
  let heldUntil = heldFrom + holder.leaseMs;
  let attempt: Attempt | undefined;
  for (;;) {
    const committedFrom = performance.now();
    const committed = await record(held, attempt, heldUntil);
    if (committed === 'locked') return giveBackForLater(held, attempt ? LOCKED_TRIES_MAX : 1);
    if (!committed) {
      return log.info({ sagaId, step: attempt?.action.name }, 'saga has gone on elsewhere');
    }

    const { saga, todo, written } = committed;
    if (written) heldUntil = committedFrom + holder.leaseMs;
    if (todo.kind === 'wait') return;
    if (todo.kind === 'rest') return logEnd(held, saga);
    if (holder.stopping.aborted) return giveBack(pool, claim, { dueInMs: 0, failed: false });
    if (heldUntil - performance.now() < attemptMsMax(dependencies.limits)) {
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
 * Records the attempt and everything that follows from it. A commit that was certainly not written is tried
 * again while the lease lasts. If somebody else keeps a row locked, there are only a few tries, and only one
 * if no outcome would be lost: otherwise sagas that wait for one row could fill this process.
 */
async function record(
  held: HeldSaga,
  attempt: Attempt | undefined,
  heldUntil: number,
): Promise<SagaCommitted | 'locked' | null> {
  const { dependencies, holder, definition, claim } = held;
  for (let failures = 1; ; failures += 1) {
    try {
      return await commitSaga(dependencies.commit, definition, dependencies, {
        sagaId: claim.sagaId,
        subjectId: claim.subjectId,
        newEvents: (saga, situation) => {
          if (!attempt) return [];
          const events = eventsOfOutcome(saga, attempt.action, attempt.outcome, situation);
          return events.length > 0 ? events : null;
        },
        work: (advanced) => workRow(held, advanced, attempt),
        hasReservedRoom: true,
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

function workRow(
  { dependencies, holder, claim }: HeldSaga,
  { saga, todo }: Advance,
  attempt: Attempt | undefined,
): SagaWorkRow {
  const { owner, leaseMs } = holder;
  const goesOn = todo.kind === 'call';
  const waitMs = () => {
    if (todo.kind !== 'wait') return null;
    const { attempts, triedFrom } = actionOf(saga, todo.action.name);
    const backoffMs = fullJitterMs(attempts, dependencies.limits.retry);
    const nowMs = dependencies.clock.now().getTime();
    const triedFromMs = triedFrom === null ? nowMs : Date.parse(triedFrom);
    const leftMs = Math.max(0, triedFromMs + todo.action.deadlineMs - nowMs);
    return Math.ceil(Math.min(Math.max(backoffMs, retryAfterMs(attempt)), leftMs));
  };
  return {
    op: 'advance',
    saga_id: claim.sagaId,
    epoch: claim.epoch,
    ...progressColumns(saga, todo),
    owner: goesOn ? owner : null,
    lease_ms: goesOn ? leaseMs : null,
    due_in_ms: goesOn ? leaseMs : waitMs(),
  };
}

function retryAfterMs(attempt: Attempt | undefined): number {
  return attempt && 'retryAfterMs' in attempt.outcome ? (attempt.outcome.retryAfterMs ?? 0) : 0;
}

/** Undefined if no call could be made. */
async function makeAttempt(
  { dependencies, holder, definition, claim }: HeldSaga,
  saga: Saga,
  { action, fresh }: Extract<Todo, { kind: 'call' }>,
): Promise<Attempt | undefined> {
  const { calls, clock, limits, log, events } = dependencies;
  const { sagaId } = claim;
  const { name } = action;
  const { key, request, requestedAt } = actionOf(saga, name);
  const call = calls[name];
  if (key === null || requestedAt === null || !call) throw new Error(`${name} cannot be called`);
  const startedAt = performance.now();
  const deadline = startDeadline(attemptMsMax(limits), holder.cutting);
  // A cancel is as old as the call that it cancels: a provider that forgot the one forgot the other.
  const cancelled = cancelledStep(definition, name)?.action.name;
  const sentAt = (cancelled && actionOf(saga, cancelled).requestedAt) ?? requestedAt;
  const options = {
    fresh,
    mayResend: clock.now().getTime() - Date.parse(sentAt) < limits.resendMsMax,
    signal: deadline.signal,
  };
  try {
    const outcome = await callStep(call, { key, request }, options);
    events?.called(definition.name, name, outcome.outcome, performance.now() - startedAt);
    if (outcome.outcome !== 'ok') {
      const reason = 'reason' in outcome ? outcome.reason : undefined;
      log.info({ sagaId, step: name, outcome: outcome.outcome, reason }, 'saga step not done');
    }
    return { action, outcome };
  } catch (error) {
    if (error instanceof CallNotMade) return undefined;
    throw error;
  } finally {
    deadline.end();
  }
}

export type CallOptions = Readonly<{
  /** No call can have been made under this key yet. */
  fresh: boolean;
  /** The key is young enough that the provider still knows it. */
  mayResend: boolean;
  signal: AbortSignal;
}>;

/**
 * Makes one attempt at a step. A call that may have been sent before is looked up first. It is sent again,
 * with the same key, only if the provider says that nothing has happened under the key.
 * @throws CallNotMade
 */
export async function callStep(
  call: StepCall,
  keyed: KeyedRequest,
  { fresh, mayResend, signal }: CallOptions,
): Promise<StepOutcome> {
  if ('cancel' in call) {
    if (!mayResend) {
      const reason = 'the key is too old for the provider to be asked about it';
      return { outcome: 'unknown', reason, hopeless: true };
    }
    const cancelled = await call.cancel(keyed, signal);
    return cancelled.outcome === 'unknown' ? withoutStated(cancelled) : cancelled;
  }
  if (!fresh) {
    const found = await call.lookUp(keyed, signal);
    if (found.outcome === 'found') return { outcome: 'ok', result: found.result };
    if (found.outcome === 'unknown') {
      const unknown = withoutStated(found);
      return found.stated === undefined ? unknown : { ...unknown, hopeless: true };
    }
    if (!mayResend) {
      const reason = 'not there, and the key is too old to be sent again';
      return { outcome: 'unknown', reason, hopeless: true };
    }
  }
  const sent = await call.send(keyed, signal);
  return sent.outcome === 'unknown' ? withoutStated(sent) : sent;
}

function withoutStated({ outcome, reason, retryAfterMs }: UnknownOutcome) {
  return { outcome, reason, ...(retryAfterMs !== undefined && { retryAfterMs }) };
}

/** Gives the saga back until a provider takes calls again, or a row is free. Other sagas run meanwhile. */
function giveBackForLater({ dependencies, claim }: HeldSaga, tries: number): Promise<void> {
  const { pool, limits } = dependencies;
  const dueInMs = Math.ceil(fullJitterMs(tries, limits.retry));
  return giveBack(pool, claim, { dueInMs, failed: false });
}

/** An attempt is at most two calls: a look-up, and the call itself. */
function attemptMsMax({ callTimeoutMs }: Pick<SagaRunnerLimits, 'callTimeoutMs'>): number {
  return 2 * callTimeoutMs;
}

/** A signal that fires after the time, or with `outer`. `AbortSignal.timeout` would keep its timer. */
function startDeadline(timeoutMs: number, outer: AbortSignal) {
  const controller = new AbortController();
  const abort = () => controller.abort();
  const timer = setTimeout(abort, timeoutMs);
  outer.addEventListener('abort', abort, { once: true });
  if (outer.aborted) abort();
  const end = () => {
    clearTimeout(timer);
    outer.removeEventListener('abort', abort);
  };
  return { signal: controller.signal, end };
}

function logEnd({ dependencies: { log }, claim: { sagaId } }: HeldSaga, saga: Saga): void {
  const { state } = saga;
  const reason = reasonOf(saga);
  if (state === 'stuck') log.warn({ sagaId, reason }, 'saga stuck: it needs an operator');
  else log.info({ sagaId, state }, 'saga ended');
}
