import { setTimeout } from 'node:timers';
import type { Task } from './group-commit-batch.ts';
import { CommandOverloaded } from './group-commit-errors.ts';

export type CommandQueueLimits = Readonly<{
  /** Commands in one batch. */
  batchMax: number;
  /** Commands that wait. */
  queueMax: number;
  /** How long a command may wait for its batch. */
  waitMaxMs: number;
}>;

/** Commands in the order of their coming, and the streams that unfinished batches hold. */
export type CommandQueue<Rows> = Readonly<{
  /** @throws CommandOverloaded if it is full */
  push(task: Task<Rows>): void;
  /** The oldest commands whose streams are free; those of one stream stay in their order. */
  takeBatch(): readonly Task<Rows>[];
  /** Ends a batch; `again` are those of it that go first in the next. */
  release(batch: readonly Task<Rows>[], again: readonly Task<Rows>[]): void;
  /** Turns away those who wait too long; by itself, too, while every batch is held up. */
  dropLate(): void;
  length(): number;
}>;

export function createCommandQueue<Rows>(limits: CommandQueueLimits): CommandQueue<Rows> {
  const { batchMax, queueMax, waitMaxMs } = limits;
  const busy = new Set<string>();
  let queue: Task<Rows>[] = [];
  let check: NodeJS.Timeout | undefined;

  function planCheck(): void {
    if (check !== undefined || queue.length === 0) return;
    check = setTimeout(() => {
      check = undefined;
      dropLate();
    }, waitMaxMs).unref();
  }

  function dropLate(): void {
    const oldest = performance.now() - waitMaxMs;
    const late = queue.findIndex(({ queuedAt }) => queuedAt >= oldest);
    for (const { reject } of queue.splice(0, late < 0 ? queue.length : late)) {
      reject(new CommandOverloaded());
    }
    planCheck();
  }

  return {
    push(task) {
      if (queue.length >= queueMax) throw new CommandOverloaded();
      queue.push(task);
      planCheck();
    },
    takeBatch() {
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
      queue = scanned === queue.length ? later : [...later, ...queue.slice(scanned)];
      return batch;
    },
    release(batch, again) {
      for (const stream of batch.flatMap(({ loads }) => loads)) busy.delete(stream);
      queue.unshift(...again);
    },
    dropLate,
    length: () => queue.length,
  };
}
