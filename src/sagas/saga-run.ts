import { setTimeout as delay } from 'node:timers/promises';
import {
  CommandOverloaded,
  RowsLocked,
  StoreUnavailable,
} from '#src/event-store/group-commit-errors.ts';
import { fullJitterMs } from '#src/workers/worker.ts';
import { CallNotMade, callStep } from './saga-call.ts';
import { commitSaga } from './saga-commit.ts';
import type { SagaCommitted } from './saga-commit.ts';
import { eventsOfOutcome } from './saga-decisions.ts';
import type { Advance, StepOutcome, Todo } from './saga-decisions.ts';
import { cancelledStep } from './saga-definition.ts';
import type { CallAction } from './saga-definition.ts';
import type { SagaKind } from './saga-kind.ts';
import type { SagaRunnerDependencies, SagaRunnerLimits } from './saga-runner.ts';
import { giveBack, renewLease, standing } from './saga-work.ts';
import type { SagaClaim, SagaWorkRow } from './saga-work.ts';
import { actionOf, reasonOf } from './saga.ts';
import type { Saga } from './saga.ts';

/** How long to wait before a commit is tried again that was surely not written. */
const COMMIT_RETRY = { baseMs: 50, maxMs: 2_000 } as const;
/**
 * How often the outcome of a call is tried to be recorded while somebody keeps a row locked. Then the saga
 * gives its place to others, and the call is looked up next time.
 */
const LOCKED_TRIES_MAX = 5;

/** Who runs, and what ends a run before its time. */
export type SagaHolder = Readonly<{
  owner: string;
  leaseMs: number;
  /** No further step is begun. */
  stopping: AbortSignal;
  /** Calls under way are cut off, and their outcome is left to whoever comes next. */
  cutting: AbortSignal;
}>;

/** A saga in the hands of this process. */
type Run<Subject, Rows> = Readonly<{
  dependencies: SagaRunnerDependencies<Subject, Rows>;
  holder: SagaHolder;
  kind: SagaKind<Subject, Rows>;
  claim: SagaClaim;
}>;

/** A call that was made, and what became of it. */
type Report = Readonly<{ action: CallAction; outcome: StepOutcome }>;

/** Works on a saga until it has to wait, has come to rest, or is somebody else's. */
export async function runSaga<Subject, Rows>(
  run: Run<Subject, Rows>,
  heldFrom: number,
): Promise<void> {
  const { dependencies, holder, claim } = run;
  const { pool, log, observe } = dependencies;
  const { sagaId } = claim;
  let heldUntil = heldFrom + holder.leaseMs;
  let report: Report | undefined;
  for (;;) {
    const label = report?.action.name ?? 'start';
    await observe?.(`before commit ${label}`, sagaId);
    const committedFrom = performance.now();
    const committed = await record(run, report, heldUntil);
    await observe?.(`after commit ${label}`, sagaId);
    if (committed === 'locked') return waitForPlace(run, report ? LOCKED_TRIES_MAX : 1);
    if (!committed) return log.info({ sagaId, step: label }, 'saga has gone on elsewhere');

    const { saga, todo, written } = committed;
    if (written) heldUntil = committedFrom + holder.leaseMs;
    if (todo.kind === 'wait') return;
    if (todo.kind === 'rest') return tellRest(run, saga);
    if (holder.stopping.aborted) return giveBack(pool, claim, { dueInMs: 0, failed: false });
    if (heldUntil - performance.now() < tryMsMax(dependencies.limits)) {
      const renewedFrom = performance.now();
      if (!(await renewLease(pool, claim, holder.leaseMs))) return;
      heldUntil = renewedFrom + holder.leaseMs;
    }
    report = await call(run, saga, todo);
    if (holder.cutting.aborted) return;
    if (!report) return waitForPlace(run, 1);
  }
}

/**
 * Records the report and all that follows from it. What was surely not written is tried again for as
 * long as the lease lasts; only a few times where somebody keeps a row locked, and only where there is
 * something to lose. Sagas that want the same row would otherwise hold every place of this process.
 */
async function record<Subject, Rows>(
  run: Run<Subject, Rows>,
  report: Report | undefined,
  heldUntil: number,
): Promise<SagaCommitted | 'locked' | null> {
  const { dependencies, holder, kind, claim } = run;
  const { commit } = dependencies;
  for (let failures = 1; ; failures += 1) {
    try {
      return await commitSaga(commit, kind, dependencies, {
        sagaId: claim.sagaId,
        subjectId: claim.subjectId,
        news: (saga, situation) => {
          if (!report) return [];
          const news = eventsOfOutcome(saga, report.action, report.outcome, situation);
          return news.length > 0 ? news : null;
        },
        work: (advanced) => workOf(run, advanced, report),
        hasReservedRoom: true,
      });
    } catch (error) {
      const triesMax = report ? LOCKED_TRIES_MAX : 1;
      if (error instanceof RowsLocked && failures >= triesMax) return 'locked';
      const wasNotWritten = error instanceof CommandOverloaded || error instanceof StoreUnavailable;
      if (!wasNotWritten || performance.now() > heldUntil) throw error;
      const waitMs = fullJitterMs(failures, COMMIT_RETRY);
      await delay(waitMs, undefined, { signal: holder.cutting });
    }
  }
}

function workOf<Subject, Rows>(
  { dependencies, holder, claim }: Run<Subject, Rows>,
  { saga, todo }: Advance,
  report: Report | undefined,
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
    return Math.ceil(Math.min(Math.max(backoffMs, retryAfterMs(report)), leftMs));
  };
  return {
    op: 'advance',
    saga_id: claim.sagaId,
    epoch: claim.epoch,
    ...standing(saga, todo),
    owner: goesOn ? owner : null,
    lease_ms: goesOn ? leaseMs : null,
    due_in_ms: goesOn ? leaseMs : waitMs(),
  };
}

function retryAfterMs(report: Report | undefined): number {
  return report && 'retryAfterMs' in report.outcome ? (report.outcome.retryAfterMs ?? 0) : 0;
}

async function call<Subject, Rows>(
  { dependencies, holder, kind, claim }: Run<Subject, Rows>,
  saga: Saga,
  { action, fresh }: Extract<Todo, { kind: 'call' }>,
): Promise<Report | undefined> {
  const { clock, limits, log, events, observe } = dependencies;
  const { sagaId } = claim;
  const { name } = action;
  const { key, request, requestedAt } = actionOf(saga, name);
  const calls = kind.calls[name];
  if (key === null || requestedAt === null || !calls) throw new Error(`${name} cannot be called`);
  const startedAt = performance.now();
  const deadline = startDeadline(tryMsMax(limits), holder.cutting);
  // A cancel is as old as the call that it settles: a provider that forgot the one forgot the other.
  const settled = cancelledStep(kind.definition, name)?.action.name;
  const sentAt = (settled && actionOf(saga, settled).requestedAt) ?? requestedAt;
  const options = {
    fresh,
    mayResend: clock.now().getTime() - Date.parse(sentAt) < limits.resendMsMax,
    signal: deadline.signal,
    around: async <Result>(what: 'send' | 'look_up' | 'cancel', make: () => Promise<Result>) => {
      await observe?.(`before ${what} ${name}`, sagaId);
      const result = await make();
      await observe?.(`after ${what} ${name}`, sagaId);
      return result;
    },
  };
  const outcome = await callStep(calls, { key, request }, options)
    .catch(unlessNotMade)
    .finally(deadline.end);
  if (!outcome) return undefined;
  events?.called(kind.definition.name, name, outcome.outcome, performance.now() - startedAt);
  if (outcome.outcome !== 'ok') {
    const reason = 'reason' in outcome ? outcome.reason : undefined;
    log.info({ sagaId, step: name, outcome: outcome.outcome, reason }, 'saga step not done');
  }
  return { action, outcome };
}

/** The saga's place in this process is for others until a provider has one for it, or a row is free. */
function waitForPlace<Subject, Rows>(
  { dependencies, claim }: Run<Subject, Rows>,
  tries: number,
): Promise<void> {
  const { pool, limits } = dependencies;
  const dueInMs = Math.ceil(fullJitterMs(tries, limits.retry));
  return giveBack(pool, claim, { dueInMs, failed: false });
}

function unlessNotMade(error: unknown): undefined {
  if (!(error instanceof CallNotMade)) throw error;
}

/** A try is two calls at most: a look-up, and the call itself. */
function tryMsMax({ callTimeoutMs }: Pick<SagaRunnerLimits, 'callTimeoutMs'>): number {
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

function tellRest<Subject, Rows>(
  { dependencies: { log }, claim: { sagaId } }: Run<Subject, Rows>,
  saga: Saga,
): void {
  const { state } = saga;
  const reason = reasonOf(saga);
  if (state === 'stuck') log.warn({ sagaId, reason }, 'saga stuck: it needs an operator');
  else log.info({ sagaId, state }, 'saga ended');
}
