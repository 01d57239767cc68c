import { setTimeout as delay } from 'node:timers/promises';

/**
 * Runs `task` when every earlier one of the same name has ended, so that whatever holds one name up takes
 * one connection and not all. `onLate` makes the error of who waited too long; its task does not run.
 */
export type TakeTurns = <Result>(name: string, task: () => Promise<Result>) => Promise<Result>;

export function createTurns(waitMaxMs: number, onLate: () => Error): TakeTurns {
  const lastOf = new Map<string, Promise<unknown>>();
  return async (name, task) => {
    const before = lastOf.get(name);
    const ended = Promise.withResolvers<void>();
    const turn = Promise.all([before, ended.promise]);
    lastOf.set(name, turn);
    try {
      if (before) await inTime(before, waitMaxMs, onLate);
      return await task();
    } finally {
      ended.resolve();
      void turn.then(() => lastOf.get(name) === turn && lastOf.delete(name));
    }
  };
}

async function inTime(wait: Promise<unknown>, waitMaxMs: number, onLate: () => Error) {
  const timer = new AbortController();
  const late = delay(waitMaxMs, undefined, { signal: timer.signal }).then(
    () => true,
    () => false,
  );
  const isLate = await Promise.race([wait.then(() => false), late]);
  timer.abort();
  if (isLate) throw onLate();
}
