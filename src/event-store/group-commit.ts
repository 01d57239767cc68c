import { setImmediate, setTimeout } from 'node:timers';
import {
  CommandOverloaded,
  CommandUncertain,
  RowsLocked,
  StoreUnavailable,
  VersionConflict,
  WriteFailed,
} from './event-store.ts';
import type { KeyRef, Loaded, Unit, UnitStore, Verdict } from './event-store.ts';

/**
 * Commits commands in groups: the commands that arrive while a commit is under way share the next one, so one
 * fsync serves many. No timer collects them, so an idle service commits at once. A stream is in at most one
 * unfinished batch: the next command on it decides on a settled state.
 */
export type GroupCommit = Readonly<{
  /**
   * @throws CommandOverloaded, StoreUnavailable, CommandUncertain or VersionConflict
   * @throws WriteFailed if the database refuses the unit
   * @throws what `decide` throws
   */
  submit<Result>(work: Work<Result>): Promise<Result>;
  /** The number of commands in the queue. */
  waiting(): number;
  /** Resolves when the queue is empty and no batch is unfinished. */
  idle(): Promise<void>;
}>;

/** One command. */
export type Work<Result> = Readonly<{
  /** The streams to load. While the command is in a batch, they are in no other. */
  loads: readonly string[];
  /** Looked up before `decide` is called, but see `assumeNewKey`. */
  key?: KeyRef;
  /** Looks the key up only if the database says that it is taken, or if `decide` throws. */
  assumeNewKey?: boolean;
  /** How often to call `decide` before a lost race is a VersionConflict. */
  attemptsMax: number;
  /** May use the reserved room: the caller limits its commands itself, and records what has happened. */
  hasReservedRoom?: boolean;
  /**
   * Decides on what is committed. It is called again, with newer state, after a lost race; `refusedBy` is then
   * the verdict on the unit before. An error that it throws concerns this command alone.
   */
  decide(loaded: Loaded, refusedBy?: Verdict): Decision<Result>;
}>;

/** What to write, and the result of the command once it is written. Without a unit, nothing is written. */
export type Decision<Result> = Readonly<{ unit?: Unit; result: Result }>;

export type GroupCommitLimits = Readonly<{
  /** Batches under way at once. */
  slots: number;
  /** Commands in one batch. */
  batchMax: number;
  /** Commands in the queue. */
  queueMax: number;
  /** Commands in the queue that load the same stream, so that no order can fill the queue. */
  streamMax: number;
  /** Room beside `queueMax` for commands with `hasReservedRoom`. */
  reservedMax: number;
  /** How long a command may wait for its batch. */
  waitMaxMs: number;
  /** How long the units of a failed batch may be written one by one. */
  oneByOneMsMax: number;
  /** How long a command is retried while another transaction has locked a row that it needs. */
  lockedMsMax: number;
}>;

/** Called when something happens, for metrics and for the parts that wait for commits. */
export type GroupCommitEvents = Readonly<{
  /** These units of one batch were written. `durationMs` is the time of the write alone. */
  committed(units: readonly Unit[], durationMs: number): void;
  /** A load or a write of `size` commands failed. */
  failed(error: WriteFailed, size: number): void;
  /** A command is decided again, or its unit is written alone after its batch failed. */
  retried?(reason: 'lost_race' | 'row_locked' | 'batch_refused' | 'batch_contended'): void;
}>;

type Context = Readonly<{ store: UnitStore; limits: GroupCommitLimits; events: GroupCommitEvents }>;

export function createGroupCommit(
  store: UnitStore,
  limits: GroupCommitLimits,
  events: GroupCommitEvents,
): GroupCommit {
  const context = { store, limits, events };
  const queue = createQueue(limits);
  const idlers: (() => void)[] = [];
  let running = 0;
  let isPlanned = false;

  /** The commands of all sockets that are readable now share the batch. */
  function planBatches(): void {
    if (isPlanned || running >= limits.slots) return;
    isPlanned = true;
    setImmediate(() => {
      isPlanned = false;
      startBatches();
    });
  }

  function startBatches(): void {
    queue.rejectLate();
    while (running < limits.slots) {
      const batch = queue.takeBatch();
      if (batch.length === 0) break;
      running += 1;
      void run(batch);
    }
    if (isIdle()) for (const idler of idlers.splice(0)) idler();
  }

  async function run(batch: readonly Task[]): Promise<void> {
    await runBatch(context, batch);
    const again = queue.release(batch);
    running -= 1;
    const now = performance.now();
    for (const { restsUntil } of again) {
      if (restsUntil > now) setTimeout(startBatches, Math.ceil(restsUntil - now) + 1); // never too early
    }
    startBatches();
  }

  const isIdle = () => running === 0 && queue.length() === 0;

  return {
    submit: (work) =>
      new Promise((resolve, reject) => {
        queue.push(toTask(work, resolve, reject));
        planBatches();
      }),
    waiting: queue.length,
    idle: () =>
      new Promise((resolve) => {
        if (isIdle()) resolve();
        else idlers.push(resolve);
      }),
  };
}

/** A command on its way to its result. A task that its batch leaves unsettled is decided again. */
type Task = Pick<Work<unknown>, 'loads' | 'key' | 'hasReservedRoom'> & {
  readonly queuedAt: number;
  readonly decide: (loaded: Loaded) => Unit | undefined;
  /** Settles with the result of the last decision. */
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
  isSettled: boolean;
  looksUpKey: boolean;
  attemptsLeft: number;
  refusedBy?: Verdict;
  /** Since when every attempt has found a row locked. */
  locked?: Readonly<{ since: number; attempts: number }>;
  restsUntil: number;
};

function toTask<Result>(
  { assumeNewKey, attemptsMax, decide, ...work }: Work<Result>,
  resolve: (result: Result) => void,
  reject: (error: unknown) => void,
): Task {
  let result: Result;
  const task: Task = {
    ...work,
    queuedAt: performance.now(),
    decide(loaded) {
      const decision = decide(loaded, task.refusedBy);
      result = decision.result;
      return decision.unit;
    },
    resolve() {
      task.isSettled = true;
      resolve(result);
    },
    reject(error) {
      task.isSettled = true;
      reject(error);
    },
    isSettled: false,
    looksUpKey: !assumeNewKey,
    attemptsLeft: attemptsMax,
    restsUntil: 0,
  };
  return task;
}

/** The commands that wait, oldest first, and the streams of the unfinished batches. */
function createQueue({ batchMax, queueMax, streamMax, reservedMax, waitMaxMs }: GroupCommitLimits) {
  let tasks: Task[] = [];
  /** How many of the tasks load each stream. */
  const shares = new Map<string, number>();
  const busy = new Set<string>();
  let lateCheck: NodeJS.Timeout | undefined;

  function hasRoomFor({ loads, hasReservedRoom }: Task): boolean {
    if (hasReservedRoom) return tasks.length < queueMax + reservedMax;
    return (
      tasks.length < queueMax && loads.every((stream) => (shares.get(stream) ?? 0) < streamMax)
    );
  }

  function count({ loads }: Task, change: 1 | -1): void {
    for (const stream of loads) {
      const share = (shares.get(stream) ?? 0) + change;
      if (share > 0) shares.set(stream, share);
      else shares.delete(stream);
    }
  }

  /** No batch may start for long, so the queue looks for late commands by itself too. */
  function planLateCheck(): void {
    if (tasks.length === 0) return;
    lateCheck ??= setTimeout(() => {
      lateCheck = undefined;
      rejectLate();
    }, waitMaxMs).unref();
  }

  function rejectLate(): void {
    const oldest = performance.now() - waitMaxMs;
    const late = tasks.filter(({ queuedAt }) => queuedAt < oldest);
    if (late.length > 0) tasks = tasks.filter(({ queuedAt }) => queuedAt >= oldest);
    for (const task of late) {
      count(task, -1);
      task.reject(new CommandOverloaded());
    }
    planLateCheck();
  }

  return {
    length: () => tasks.length,
    rejectLate,
    /** @throws CommandOverloaded */
    push(task: Task): void {
      if (!hasRoomFor(task)) throw new CommandOverloaded();
      count(task, 1);
      tasks.push(task);
      planLateCheck();
    },
    /** Takes the oldest commands that do not rest and whose streams are free. Marks their streams as busy. */
    takeBatch(): readonly Task[] {
      const { batch, rest } = split(tasks, busy, batchMax);
      for (const task of batch) count(task, -1);
      tasks = rest;
      return batch;
    },
    /** Frees the streams of a batch, puts its unsettled tasks at the head of the queue and returns them. */
    release(batch: readonly Task[]): readonly Task[] {
      const again = batch.filter(({ isSettled }) => !isSettled);
      for (const { loads } of batch) for (const stream of loads) busy.delete(stream);
      for (const task of again) count(task, 1);
      tasks.unshift(...again);
      return again;
    },
  };
}

/** Commands on one stream keep their order, but none waits for a command that rests. */
function split(tasks: readonly Task[], busy: Set<string>, batchMax: number) {
  const now = performance.now();
  const batch: Task[] = [];
  const later: Task[] = [];
  const waitedFor = new Set<string>();
  let seen = 0;
  for (const task of tasks) {
    if (batch.length === batchMax) break;
    seen += 1;
    if (task.restsUntil > now) {
      later.push(task);
      continue;
    }
    const isFree = task.loads.every((stream) => !busy.has(stream) && !waitedFor.has(stream));
    for (const stream of task.loads) (isFree ? busy : waitedFor).add(stream);
    (isFree ? batch : later).push(task);
  }
  return { batch, rest: [...later, ...tasks.slice(seen)] };
}

type Member = Readonly<{ task: Task; unit: Unit }>;

async function runBatch(context: Context, tasks: readonly Task[]): Promise<void> {
  const loaded = await load(context.store, tasks).catch((error: unknown) => {
    context.events.failed(WriteFailed.from(error), tasks.length);
    for (const { reject } of tasks) reject(new StoreUnavailable(error));
  });
  if (!loaded) return;
  const members = tasks.flatMap((task) => decideTask(task, loaded));
  if (members.length > 0) await writeBatch(context, members);
}

function load(store: UnitStore, tasks: readonly Task[]): Promise<Loaded> {
  const streamIds = [...new Set(tasks.flatMap(({ loads }) => loads))];
  const keys = tasks.flatMap(({ key, looksUpKey }) => (key && looksUpKey ? [key] : []));
  if (streamIds.length > 0 || keys.length > 0) return store.load(streamIds, keys);
  return Promise.resolve({ stream: () => [], response: () => null });
}

function decideTask(task: Task, loaded: Loaded): Member[] {
  try {
    const unit = task.decide(loaded);
    if (unit) return [{ task, unit }];
    task.resolve();
  } catch (error) {
    // An earlier request with this key may have succeeded: its response counts then, not this error.
    if (!task.key || task.looksUpKey) task.reject(error);
    task.looksUpKey = true;
  }
  return [];
}

/**
 * A batch is sent again only if it was surely rolled back, and only if one of its units is to blame: each is then
 * written alone. A batch of unknown outcome may still be committed, and would then be written twice.
 */
async function writeBatch(context: Context, members: readonly Member[]): Promise<void> {
  const { store, events } = context;
  const startedAt = performance.now();
  const units = members.map(({ unit }) => unit);
  const verdicts = await store.write(units).catch((error: unknown) => WriteFailed.from(error));
  if (verdicts instanceof WriteFailed) {
    const { failure } = verdicts;
    events.failed(verdicts, members.length);
    if (members.length > 1 && (failure === 'refused' || failure === 'contended')) {
      await writeOneByOne(context, members, failure);
    } else {
      for (const { task } of members) task.reject(toCommandError(verdicts));
    }
    return;
  }
  const written = units.filter((_, index) => verdicts[index] === 'ok');
  if (written.length > 0) events.committed(written, performance.now() - startedAt);
  for (const [index, { task }] of members.entries()) {
    const verdict = verdicts[index];
    if (verdict === 'ok') task.resolve();
    else retry(context, task, verdict);
  }
}

/** Stops when the time is over, because each unit may wait for the same lock. */
async function writeOneByOne(
  context: Context,
  members: readonly Member[],
  failure: 'refused' | 'contended',
): Promise<void> {
  const endsAt = performance.now() + context.limits.oneByOneMsMax;
  for (const member of members) {
    if (performance.now() < endsAt) {
      context.events.retried?.(`batch_${failure}`);
      await writeBatch(context, [member]);
    } else {
      member.task.reject(new StoreUnavailable('writing the batch one by one took too long'));
    }
  }
}

function toCommandError(error: WriteFailed): Error {
  if (error.failure === 'unknown') return new CommandUncertain(error);
  return error.failure === 'refused' ? error : new StoreUnavailable(error);
}

/** Leaves the task unsettled, unless it has been retried enough. */
function retry(context: Context, task: Task, verdict: Verdict | undefined): void {
  task.looksUpKey = true;
  if (verdict === 'locked') {
    rest(context, task);
    return;
  }
  delete task.locked;
  task.attemptsLeft -= 1;
  if (verdict) task.refusedBy = verdict;
  if (task.attemptsLeft > 0) context.events.retried?.('lost_race');
  else task.reject(new VersionConflict());
}

/** Pauses between the attempts of a command that needs a locked row. They double, and half is random. */
const REST_MS = { first: 4, max: 200 } as const;

/** The other transaction, often another batch, may end soon. */
function rest({ limits, events }: Context, task: Task): void {
  const now = performance.now();
  const { since, attempts } = task.locked ?? { since: now, attempts: 0 };
  if (now - since >= limits.lockedMsMax) {
    const error = new RowsLocked();
    events.failed(new WriteFailed('contended', error), 1);
    task.reject(error);
    return;
  }
  const pauseMs = Math.min(REST_MS.first * 2 ** attempts, REST_MS.max);
  task.restsUntil = now + pauseMs * (0.5 + Math.random() / 2);
  task.locked = { since, attempts: attempts + 1 };
  events.retried?.('row_locked');
}
