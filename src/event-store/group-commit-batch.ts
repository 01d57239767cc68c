import { WriteFailed } from './event-store.ts';
import type { KeyRef, Loaded, Unit, UnitStore, Verdict } from './event-store.ts';
import { CommandUncertain, StoreUnavailable, VersionConflict } from './group-commit-errors.ts';
import type { GroupCommitEvents, RepeatReason } from './group-commit.ts';

/** A command in the queue of the group commit. */
export type Task<Rows> = {
  readonly loads: readonly string[];
  readonly key: KeyRef | undefined;
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
};

type Member<Rows> = Readonly<{ task: Task<Rows>; unit: Unit<Rows>; settle: () => void }>;

/** How long the members of a batch may be tried one by one. */
const ONE_BY_ONE_MS_MAX = 2_000;

const NOTHING_LOADED: Loaded = { stream: () => [], answer: () => null };

/** Loads, decides and writes one batch; settles its tasks, and returns those to be decided again. */
export async function runBatch<Rows>(
  store: UnitStore<Rows>,
  tasks: readonly Task<Rows>[],
  events: GroupCommitEvents<Rows>,
): Promise<Task<Rows>[]> {
  const loaded = await load(store, tasks).catch((error: unknown) => {
    if (error instanceof WriteFailed) events.failed(error, tasks.length);
    for (const { reject } of tasks) reject(new StoreUnavailable(error));
  });
  if (!loaded) return [];
  const again: Task<Rows>[] = [];
  const members = tasks.flatMap((task) => decideOn(task, loaded, again));
  return members.length > 0 ? [...again, ...(await writeBatch(store, members, events))] : again;
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
  store: UnitStore<Rows>,
  members: readonly Member<Rows>[],
  events: GroupCommitEvents<Rows>,
): Promise<Task<Rows>[]> {
  const startedAt = performance.now();
  const units = members.map(({ unit }) => unit);
  const verdicts = await store.write(units).catch((error: unknown) => failureOf(error));
  if (verdicts instanceof WriteFailed) {
    events.failed(verdicts, members.length);
    return afterFailure(store, members, verdicts, events);
  }
  const written = members.filter((_, index) => verdicts[index] === 'ok');
  if (written.length > 0) {
    events.committed(
      written.map(({ unit }) => unit),
      performance.now() - startedAt,
    );
  }
  const again = members.flatMap((member, index) => settle(member, verdicts[index]));
  if (again.length > 0) events.repeated?.('lost_race', again.length);
  return again;
}

function settle<Rows>(member: Member<Rows>, verdict: Verdict | undefined): Task<Rows>[] {
  const { task } = member;
  if (verdict === 'ok') {
    member.settle();
    return [];
  }
  task.attemptsLeft -= 1;
  task.looksUpKey = true;
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
  store: UnitStore<Rows>,
  members: readonly Member<Rows>[],
  error: WriteFailed,
  events: GroupCommitEvents<Rows>,
): Promise<Task<Rows>[]> {
  const { failure } = error;
  const blamesMember = failure === 'refused' || failure === 'contended';
  if (blamesMember && members.length > 1) {
    return oneByOne(store, members, `batch_${failure}`, events);
  }
  for (const { task } of members) task.reject(answerTo(error));
  return [];
}

/** Gives up on the rest once the time is over: each wait for somebody else's lock takes a while. */
async function oneByOne<Rows>(
  store: UnitStore<Rows>,
  members: readonly Member<Rows>[],
  reason: RepeatReason,
  events: GroupCommitEvents<Rows>,
): Promise<Task<Rows>[]> {
  const endsAt = performance.now() + ONE_BY_ONE_MS_MAX;
  const again: Task<Rows>[] = [];
  for (const member of members) {
    if (performance.now() < endsAt) {
      events.repeated?.(reason, 1);
      again.push(...(await writeBatch(store, [member], events)));
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
