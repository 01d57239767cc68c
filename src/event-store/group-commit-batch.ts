import { WriteFailed } from './event-store.ts';
import type { KeyRef, Loaded, Unit, UnitStore, Verdict } from './event-store.ts';
import {
  CommandUncertain,
  RowsLocked,
  StoreUnavailable,
  VersionConflict,
} from './group-commit-errors.ts';
import type { GroupCommitEvents, GroupCommitLimits, RetryReason } from './group-commit.ts';

/** A command in the queue of the group commit. */
export type Task = {
  readonly loads: readonly string[];
  readonly key: KeyRef | undefined;
  readonly hasReservedRoom: boolean;
  readonly queuedAt: number;
  readonly decide: (
    loaded: Loaded,
    refusedBy: Verdict | undefined,
  ) => Readonly<{ unit: Unit | undefined; settle: () => void }>;
  readonly reject: (error: unknown) => void;
  /** Why its last unit was not written. */
  refusedBy?: Verdict;
  looksUpKey: boolean;
  attemptsLeft: number;
  /** Since when each try found a row locked by somebody else, and when the next one is due. */
  locked?: Readonly<{ from: number; tries: number }>;
  restsUntil: number;
};

type Member = Readonly<{ task: Task; unit: Unit; settle: () => void }>;

/** How a batch is written, and who hears of it. */
type Writing = Readonly<{
  store: UnitStore;
  limits: Pick<GroupCommitLimits, 'oneByOneMsMax' | 'lockedMsMax'>;
  events: GroupCommitEvents;
}>;

/** Between two tries of a command that needs a locked row; doubled each time, and half of it random. */
const REST_MS = { first: 4, max: 200 } as const;

const NOTHING_LOADED: Loaded = { stream: () => [], response: () => null };

/** Loads, decides and writes one batch; settles its tasks, and returns those to be decided again. */
export async function runBatch(
  store: UnitStore,
  tasks: readonly Task[],
  limits: Writing['limits'],
  events: GroupCommitEvents,
): Promise<Task[]> {
  const loaded = await load(store, tasks).catch((error: unknown) => {
    if (error instanceof WriteFailed) events.failed(error, tasks.length);
    for (const { reject } of tasks) reject(new StoreUnavailable(error));
  });
  if (!loaded) return [];
  const again: Task[] = [];
  const members = tasks.flatMap((task) => decideOn(task, loaded, again));
  if (members.length === 0) return again;
  return [...again, ...(await writeBatch({ store, limits, events }, members))];
}

function load(store: UnitStore, tasks: readonly Task[]): Promise<Loaded> {
  const streamIds = [...new Set(tasks.flatMap(({ loads }) => loads))];
  const keys = tasks.flatMap(({ key, looksUpKey }) => (key && looksUpKey ? [key] : []));
  if (streamIds.length === 0 && keys.length === 0) return Promise.resolve(NOTHING_LOADED);
  return store.load(streamIds, keys);
}

/** A refusal counts only once the key is known to be new: a replay is told what the first was told. */
function decideOn(task: Task, loaded: Loaded, again: Task[]): Member[] {
  try {
    const { unit, settle } = task.decide(loaded, task.refusedBy);
    if (unit) return [{ task, unit, settle }];
    settle();
  } catch (error) {
    if (task.key && !task.looksUpKey) {
      task.looksUpKey = true;
      again.push(task);
    } else {
      task.reject(error);
    }
  }
  return [];
}

async function writeBatch(writing: Writing, members: readonly Member[]): Promise<Task[]> {
  const { store, events } = writing;
  const startedAt = performance.now();
  const units = members.map(({ unit }) => unit);
  const verdicts = await store.write(units).catch((error: unknown) => failureOf(error));
  if (verdicts instanceof WriteFailed) {
    events.failed(verdicts, members.length);
    return afterFailure(writing, members, verdicts);
  }
  const written = members.filter((_, index) => verdicts[index] === 'ok');
  if (written.length > 0) {
    events.committed(
      written.map(({ unit }) => unit),
      performance.now() - startedAt,
    );
  }
  return members.flatMap((member, index) => settle(writing, member, verdicts[index]));
}

function settle(writing: Writing, member: Member, verdict: Verdict | undefined): Task[] {
  const { task } = member;
  if (verdict === 'ok') {
    member.settle();
    return [];
  }
  task.looksUpKey = true;
  const again = verdict === 'locked' ? rest(writing, task) : loseRace(task, verdict);
  if (again.length > 0) {
    writing.events.retried?.(verdict === 'locked' ? 'row_locked' : 'lost_race', again.length);
  }
  return again;
}

/** Whoever holds the row may be done in a moment: the other slot, another replica. */
function rest({ limits, events }: Writing, task: Task): Task[] {
  const now = performance.now();
  const { from, tries } = task.locked ?? { from: now, tries: 0 };
  if (now - from >= limits.lockedMsMax) {
    const error = new RowsLocked();
    events.failed(new WriteFailed('contended', error), 1);
    task.reject(error);
    return [];
  }
  task.locked = { from, tries: tries + 1 };
  task.restsUntil =
    now + Math.min(REST_MS.first * 2 ** tries, REST_MS.max) * (0.5 + Math.random() / 2);
  return [task];
}

function loseRace(task: Task, verdict: Verdict | undefined): Task[] {
  delete task.locked;
  task.restsUntil = 0;
  task.attemptsLeft -= 1;
  if (verdict !== undefined) task.refusedBy = verdict;
  if (task.attemptsLeft > 0) return [task];
  task.reject(new VersionConflict());
  return [];
}

/**
 * Only a batch that was surely rolled back may be sent again, and only because of one of its members is
 * it taken apart: a batch whose outcome is unknown may still land, and would then land twice.
 */
async function afterFailure(
  writing: Writing,
  members: readonly Member[],
  error: WriteFailed,
): Promise<Task[]> {
  const { failure } = error;
  const blamesMember = failure === 'refused' || failure === 'contended';
  if (blamesMember && members.length > 1) {
    return oneByOne(writing, members, `batch_${failure}`);
  }
  for (const { task } of members) task.reject(errorFor(error));
  return [];
}

/** Gives up on the rest once the time is over: each may wait for a lock on a whole table. */
async function oneByOne(
  writing: Writing,
  members: readonly Member[],
  reason: RetryReason,
): Promise<Task[]> {
  const endsAt = performance.now() + writing.limits.oneByOneMsMax;
  const again: Task[] = [];
  for (const member of members) {
    if (performance.now() < endsAt) {
      writing.events.retried?.(reason, 1);
      again.push(...(await writeBatch(writing, [member])));
    } else {
      member.task.reject(new StoreUnavailable('the batch took too long to be taken apart'));
    }
  }
  return again;
}

function errorFor(error: WriteFailed): Error {
  if (error.failure === 'unknown') return new CommandUncertain(error);
  return error.failure === 'refused' ? error : new StoreUnavailable(error);
}

/** An error that is no WriteFailed came from nowhere near the database's answer. */
function failureOf(error: unknown): WriteFailed {
  return error instanceof WriteFailed ? error : new WriteFailed('unknown', error);
}
