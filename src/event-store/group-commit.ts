import { setImmediate } from 'node:timers';
import type { KeyRef, Loaded, Unit, UnitStore, Verdict, WriteFailed } from './event-store.ts';
import { runBatch } from './group-commit-batch.ts';
import type { Task } from './group-commit-batch.ts';
import { CommandOverloaded } from './group-commit-errors.ts';

/**
 * One command on its way to disk. `decide` sees the committed state of `loads` (and of `key`, where it
 * was looked up) and says what to write; it runs again, on newer state, whenever a race was lost. What
 * it throws is the command's answer and concerns no other command of the batch.
 */
export type Work<Rows, Result> = Readonly<{
  /** Streams to load first, and to keep out of every other unfinished batch. */
  loads: readonly string[];
  /** Looked up before deciding; not at the first attempt where `assumeNewKey` is set. */
  key?: KeyRef;
  /** The command creates its streams: look its key up only once the database says it is taken. */
  assumeNewKey?: boolean;
  /** How often to decide before a lost race is the caller's problem. */
  attemptsMax: number;
  /** `refusedBy` is the verdict on what it decided before: a lost race, or what the rows' owner says. */
  decide(loaded: Loaded, refusedBy?: Verdict): Decision<Rows, Result>;
}>;

/** `unit` absent: nothing to write, and `result` is the answer. */
export type Decision<Rows, Result> = Readonly<{ unit?: Unit<Rows>; result: Result }>;

export type GroupCommitLimits = Readonly<{
  /** Commands in one transaction. */
  batchMax: number;
  /** Transactions under way at once. */
  slots: number;
  /** Commands that wait. */
  queueMax: number;
  /** How long a command may wait for its transaction to start. */
  waitMaxMs: number;
}>;

/** What happened, for metrics and for those who wait for commits. */
export type GroupCommitEvents<Rows> = Readonly<{
  /** A batch was committed; `durationMs` is that of the write alone. */
  committed(units: readonly Unit<Rows>[], durationMs: number): void;
  /** A load or a write failed; `size` commands were concerned. */
  failed(error: WriteFailed, size: number): void;
}>;

/**
 * Commits commands in groups: those that arrive while a commit is under way share the next one, so one
 * fsync serves many. There is no timer: an idle service commits at once. A stream is in at most one
 * unfinished batch, so its next command always decides on a settled state.
 */
export type GroupCommit<Rows> = Readonly<{
  /**
   * @throws CommandOverloaded the queue is full, or the command waited too long: nothing was written
   * @throws StoreUnavailable nothing was written
   * @throws CommandUncertain it may have been written
   * @throws VersionConflict every attempt lost its race: nothing was written
   * @throws whatever `decide` throws
   */
  submit<Result>(work: Work<Rows, Result>): Promise<Result>;
  /** Commands that wait, not counting those under way. */
  waiting(): number;
  /** Resolves when nothing waits and nothing is under way. */
  idle(): Promise<void>;
}>;

export function createGroupCommit<Rows>(
  store: UnitStore<Rows>,
  limits: GroupCommitLimits,
  events: GroupCommitEvents<Rows>,
): GroupCommit<Rows> {
  const queue: Task<Rows>[] = [];
  const busy = new Set<string>();
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
    dropLate();
    while (running < limits.slots) {
      const batch = takeBatch(queue, busy, limits.batchMax);
      if (batch.length === 0) break;
      running += 1;
      void finish(batch);
    }
    if (running === 0 && queue.length === 0) for (const idler of idlers.splice(0)) idler();
  }

  function dropLate(): void {
    const oldest = performance.now() - limits.waitMaxMs;
    for (let first = queue[0]; first && first.queuedAt < oldest; first = queue[0]) {
      queue.shift();
      first.reject(new CommandOverloaded());
    }
  }

  async function finish(batch: readonly Task<Rows>[]): Promise<void> {
    const again = await runBatch(store, batch, events);
    for (const stream of batch.flatMap(({ loads }) => loads)) busy.delete(stream);
    queue.unshift(...again);
    running -= 1;
    pump();
  }

  return {
    submit: (work) =>
      new Promise((resolve, reject) => {
        if (queue.length >= limits.queueMax) throw new CommandOverloaded();
        queue.push(taskOf(work, resolve, reject));
        planPump();
      }),
    waiting: () => queue.length,
    idle() {
      if (running === 0 && queue.length === 0) return Promise.resolve();
      return new Promise((resolve) => {
        idlers.push(resolve);
      });
    },
  };
}

function taskOf<Rows, Result>(
  { loads, key, assumeNewKey = false, attemptsMax, decide }: Work<Rows, Result>,
  resolve: (result: Result) => void,
  reject: (error: unknown) => void,
): Task<Rows> {
  return {
    loads,
    key,
    looksUpKey: !assumeNewKey,
    attemptsLeft: attemptsMax,
    queuedAt: performance.now(),
    decide(loaded, refusedBy) {
      const { unit, result } = decide(loaded, refusedBy);
      return { unit, settle: () => resolve(result) };
    },
    reject,
  };
}

/** Takes the oldest tasks whose streams are free; those of one stream stay in their order. */
function takeBatch<Rows>(
  queue: Task<Rows>[],
  busy: Set<string>,
  batchMax: number,
): readonly Task<Rows>[] {
  const batch: Task<Rows>[] = [];
  const later: Task<Rows>[] = [];
  const waitedFor = new Set<string>();
  let scanned = 0;
  for (const task of queue) {
    if (batch.length === batchMax) break;
    scanned += 1;
    const free = task.loads.every((stream) => !busy.has(stream) && !waitedFor.has(stream));
    for (const stream of task.loads) (free ? busy : waitedFor).add(stream);
    (free ? batch : later).push(task);
  }
  queue.splice(0, scanned, ...later);
  return batch;
}
