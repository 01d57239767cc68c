import { WriteFailed } from './event-store.ts';
import type { KeyRef, Loaded, Unit, UnitStore, Verdict } from './event-store.ts';
import {
  CommandUncertain,
  RowsLocked,
  StoreUnavailable,
  VersionConflict,
} from './group-commit-errors.ts';
import type { GroupCommitEvents, GroupCommitLimits, RepeatReason } from './group-commit.ts';

/** A command in the queue of the group commit. */
export type Task<Rows> = {
  readonly loads: readonly string[];
  readonly key: KeyRef | undefined;
  readonly hasReservedRoom: boolean;
  readonly queuedAt: number;
  readonly decide: (
    loaded: Loaded,
    refusedBy: Verdict | undefined,
  ) => Readonly<{ unit: Unit<Rows> | undefined; settle: () => void }>;
  readonly reject: (error: unknown) => void;
  /** Why its last unit was not written. */
  refusedBy?: Verdict;
  looksUpKey: boolean;
  attemptsLeft: number;
  /** Since when each try found a row locked by somebody else, and when the next one is due. */
  locked?: Readonly<{ from: number; tries: number }>;
  restsUntil: number;
};

type Member<Rows> = Readonly<{ task: Task<Rows>; unit: Unit<Rows>; settle: () => void }>;

/** How a batch is written, and who hears of it. */
type Writing<Rows> = Readonly<{
  store: UnitStore<Rows>;
  limits: Pick<GroupCommitLimits, 'oneByOneMsMax' | 'lockedMsMax'>;
  events: GroupCommitEvents<Rows>;
}>;

/** Between two tries of a command that needs a locked row; doubled each time, and half of it random. */
const REST_MS = { first: 4, max: 200 } as const;

const NOTHING_LOADED: Loaded = { stream: () => [], answer: () => null };

/** Loads, decides and writes one batch; settles its tasks, and returns those to be decided again. */
export async function runBatch<Rows>(
  store: UnitStore<Rows>,
  tasks: readonly Task<Rows>[],
  limits: Writing<Rows>['limits'],
  events: GroupCommitEvents<Rows>,
): Promise<Task<Rows>[]> {
  const loaded = await load(store, tasks).catch((error: unknown) => {
    if (error instanceof WriteFailed) events.failed(error, tasks.length);
    for (const { reject } of tasks) reject(new StoreUnavailable(error));
  });
  if (!loaded) return [];
  const again: Task<Rows>[] = [];
  const members = tasks.flatMap((task) => decideOn(task, loaded, again));
  if (members.length === 0) return again;
  return [...again, ...(await writeBatch({ store, limits, events }, members))];
}

function load<Rows>(store: UnitStore<Rows>, tasks: readonly Task<Rows>[]): Promise<Loaded> {
  const streamIds = [...new Set(tasks.flatMap(({ loads }) => loads))];
  const keys = tasks.flatMap(({ key, looksUpKey }) => (key && looksUpKey ? [key] : []));
  if (streamIds.length === 0 && keys.length === 0) return Promise.resolve(NOTHING_LOADED);
  return store.load(streamIds, keys);
}

/** A refusal counts only once the key is known to be new: a replay is told what the first was told. */
function decideOn<Rows>(task: Task<Rows>, loaded: Loaded, again: Task<Rows>[]): Member<Rows>[] {
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

async function writeBatch<Rows>(
  writing: Writing<Rows>,
  members: readonly Member<Rows>[],
): Promise<Task<Rows>[]> {
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

function settle<Rows>(
  writing: Writing<Rows>,
  member: Member<Rows>,
  verdict: Verdict | undefined,
): Task<Rows>[] {
  const { task } = member;
  if (verdict === 'ok') {
    member.settle();
    return [];
  }
  task.looksUpKey = true;
  const again = verdict === 'locked' ? rest(writing, task) : loseRace(task, verdict);
  if (again.length > 0) {
    writing.events.repeated?.(verdict === 'locked' ? 'row_locked' : 'lost_race', again.length);
  }
  return again;
}

/** Whoever holds the row may be done in a moment: the other slot, another replica. */
function rest<Rows>({ limits, events }: Writing<Rows>, task: Task<Rows>): Task<Rows>[] {
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

function loseRace<Rows>(task: Task<Rows>, verdict: Verdict | undefined): Task<Rows>[] {
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
async function afterFailure<Rows>(
  writing: Writing<Rows>,
  members: readonly Member<Rows>[],
  error: WriteFailed,
): Promise<Task<Rows>[]> {
  const { failure } = error;
  const blamesMember = failure === 'refused' || failure === 'contended';
  if (blamesMember && members.length > 1) {
    return oneByOne(writing, members, `batch_${failure}`);
  }
  for (const { task } of members) task.reject(answerTo(error));
  return [];
}

/** Gives up on the rest once the time is over: each may wait for a lock on a whole table. */
async function oneByOne<Rows>(
  writing: Writing<Rows>,
  members: readonly Member<Rows>[],
  reason: RepeatReason,
): Promise<Task<Rows>[]> {
  const endsAt = performance.now() + writing.limits.oneByOneMsMax;
  const again: Task<Rows>[] = [];
  for (const member of members) {
    if (performance.now() < endsAt) {
      writing.events.repeated?.(reason, 1);
      again.push(...(await writeBatch(writing, [member])));
    } else {
      member.task.reject(new StoreUnavailable('the batch took too long to be taken apart'));
    }
  }
  return again;
}

function answerTo(error: WriteFailed): Error {
  if (error.failure === 'unknown') return new CommandUncertain(error);
  return error.failure === 'refused' ? error : new StoreUnavailable(error);
}

/** An error that is no WriteFailed came from nowhere near the database's answer. */
function failureOf(error: unknown): WriteFailed {
  return error instanceof WriteFailed ? error : new WriteFailed('unknown', error);
}
