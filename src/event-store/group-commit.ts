import { setImmediate, setTimeout } from 'node:timers';
import type { KeyRef, Loaded, Unit, UnitStore, Verdict, WriteFailed } from './event-store.ts';
import { runBatch } from './group-commit-batch.ts';
import type { Task } from './group-commit-batch.ts';
import { createCommandQueue } from './command-queue.ts';
import type { CommandQueueLimits } from './command-queue.ts';

/**
 * One command on its way to disk. `decide` sees the committed state of `loads` (and of `key`, where it
 * was looked up) and says what to write; it runs again, on newer state, whenever a race was lost. What
 * it throws is the command's answer and concerns no other command of the batch.
 */
export type Work<Result> = Readonly<{
  /** Streams to load first, and to keep out of every other unfinished batch. */
  loads: readonly string[];
  /** Looked up before deciding; not at the first attempt where `assumeNewKey` is set. */
  key?: KeyRef;
  /**
   * The command creates its streams: look its key up only once the database says that it is taken, or
   * before a refusal of `decide` is believed.
   */
  assumeNewKey?: boolean;
  /** How often to decide before a lost race is the caller's problem. */
  attemptsMax: number;
  /**
   * The command may use the room that the queue keeps beside its own, because its caller has a bound of
   * its own and cannot turn anybody away: it records what has happened already.
   */
  hasReservedRoom?: boolean;
  /** `refusedBy` is the verdict on what it decided before: a lost race, or what the rows' owner says. */
  decide(loaded: Loaded, refusedBy?: Verdict): Decision<Result>;
}>;

/** `unit` absent: nothing to write, and `result` is the answer. */
export type Decision<Result> = Readonly<{ unit?: Unit; result: Result }>;

export type GroupCommitLimits = CommandQueueLimits &
  Readonly<{
    /** Transactions under way at once. */
    slots: number;
    /** How long the members of a batch that failed because of one of them may be tried one by one. */
    oneByOneMsMax: number;
    /** How long a command is tried again while somebody else has locked a row that it needs. */
    lockedMsMax: number;
  }>;

/** What happened, for metrics and for those who wait for commits. */
export type GroupCommitEvents = Readonly<{
  /** A batch was committed; `durationMs` is that of the write alone. */
  committed(units: readonly Unit[], durationMs: number): void;
  /** A load or a write failed; `size` commands were concerned. */
  failed(error: WriteFailed, size: number): void;
  /** Commands are tried again, by themselves. */
  retried?(reason: RetryReason, size: number): void;
}>;

/**
 * A command decides again when others were faster or have locked a row that it needs, and is written alone
 * when its batch failed.
 */
export type RetryReason = 'lost_race' | 'row_locked' | 'batch_refused' | 'batch_contended';

/**
 * Commits commands in groups: those that arrive while a commit is under way share the next one, so one
 * fsync serves many. There is no timer: an idle service commits at once. A stream is in at most one
 * unfinished batch, so its next command always decides on a settled state. A command that needs a row that
 * somebody else has locked rests for some milliseconds and is decided again; the others do not wait for it.
 */
export type GroupCommit = Readonly<{
  /**
   * @throws CommandOverloaded the queue or a stream's share of it is full, or the command waited too long:
   *   nothing was written
   * @throws RowsLocked somebody else kept a row locked: nothing was written
   * @throws StoreUnavailable nothing was written
   * @throws CommandUncertain it may have been written
   * @throws VersionConflict every attempt lost its race: nothing was written
   * @throws whatever `decide` throws
   */
  submit<Result>(work: Work<Result>): Promise<Result>;
  /** Commands that wait, not counting those under way. */
  waiting(): number;
  /** Resolves when nothing waits and nothing is under way. */
  idle(): Promise<void>;
}>;

export function createGroupCommit(
  store: UnitStore,
  limits: GroupCommitLimits,
  events: GroupCommitEvents,
): GroupCommit {
  const queue = createCommandQueue(limits);
  const idlers: (() => void)[] = [];
  let running = 0;
  let pumpPlanned = false;

  /** Waits for nothing but the sockets that are readable now, whose commands share the batch. */
  function planPump(): void {
    if (pumpPlanned || running >= limits.slots) return;
    pumpPlanned = true;
    setImmediate(() => {
      pumpPlanned = false;
      pump();
    });
  }

  function pump(): void {
    queue.dropLate();
    while (running < limits.slots) {
      const batch = queue.takeBatch();
      if (batch.length === 0) break;
      running += 1;
      void finish(batch);
    }
    if (isIdle()) for (const idler of idlers.splice(0)) idler();
  }

  async function finish(batch: readonly Task[]): Promise<void> {
    const again = await runBatch(store, batch, limits, events);
    queue.release(batch, again);
    running -= 1;
    const now = performance.now();
    for (const { restsUntil } of again) {
      if (restsUntil > now) setTimeout(pump, Math.ceil(restsUntil - now) + 1); // never before it is due
    }
    pump();
  }

  function isIdle(): boolean {
    return running === 0 && queue.length() === 0;
  }

  return {
    submit: (work) =>
      new Promise((resolve, reject) => {
        queue.push(taskOf(work, resolve, reject));
        planPump();
      }),
    waiting: queue.length,
    idle() {
      if (isIdle()) return Promise.resolve();
      return new Promise((resolve) => {
        idlers.push(resolve);
      });
    },
  };
}

function taskOf<Result>(
  { loads, key, attemptsMax, decide, ...options }: Work<Result>,
  resolve: (result: Result) => void,
  reject: (error: unknown) => void,
): Task {
  return {
    loads,
    key,
    hasReservedRoom: options.hasReservedRoom ?? false,
    looksUpKey: !options.assumeNewKey,
    attemptsLeft: attemptsMax,
    queuedAt: performance.now(),
    restsUntil: 0,
    decide(loaded, refusedBy) {
      const { unit, result } = decide(loaded, refusedBy);
      return { unit, settle: () => resolve(result) };
    },
    reject,
  };
}
