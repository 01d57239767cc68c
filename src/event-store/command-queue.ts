import { setTimeout } from 'node:timers';
import type { Task } from './group-commit-batch.ts';
import { CommandOverloaded } from './group-commit-errors.ts';

export type CommandQueueLimits = Readonly<{
  /** Commands in one batch. */
  batchMax: number;
  /** Commands that wait. */
  queueMax: number;
  /** Of these, commands that name the same stream: no order can fill the queue. */
  streamMax: number;
  /** Room beside `queueMax`, for commands with `hasReservedRoom` only. */
  reservedMax: number;
  /** How long a command may wait for its batch. */
  waitMaxMs: number;
}>;

/** Commands in the order of their coming, and the streams that unfinished batches hold. */
export type CommandQueue = Readonly<{
  /** @throws CommandOverloaded if it is full, or if one of the streams has its share of it already */
  push(task: Task): void;
  /** The oldest commands that do not rest and whose streams are free; those of one stream in their order. */
  takeBatch(): readonly Task[];
  /** Ends a batch; `again` are those of it that go first in the next. */
  release(batch: readonly Task[], again: readonly Task[]): void;
  /** Turns away those who wait too long; by itself, too, while every batch is held up. */
  dropLate(): void;
  length(): number;
}>;

export function createCommandQueue(limits: CommandQueueLimits): CommandQueue {
  const { batchMax, queueMax, streamMax, reservedMax, waitMaxMs } = limits;
  const busy = new Set<string>();
  const shares = createShares();
  let queue: Task[] = [];
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
    const late = queue.filter(({ queuedAt }) => queuedAt < oldest);
    if (late.length > 0) queue = queue.filter(({ queuedAt }) => queuedAt >= oldest);
    for (const { loads, reject } of late) {
      shares.remove(loads);
      reject(new CommandOverloaded());
    }
    planCheck();
  }

  return {
    push(task) {
      const { loads, hasReservedRoom } = task;
      const room = hasReservedRoom ? queueMax + reservedMax : queueMax;
      if (queue.length >= room) throw new CommandOverloaded();
      if (!hasReservedRoom && shares.largest(loads) >= streamMax) throw new CommandOverloaded();
      shares.add(loads);
      queue.push(task);
      planCheck();
    },
    takeBatch() {
      const { batch, rest } = split(queue, busy, batchMax);
      for (const { loads } of batch) shares.remove(loads);
      queue = rest;
      return batch;
    },
    release(batch, again) {
      for (const stream of batch.flatMap(({ loads }) => loads)) busy.delete(stream);
      for (const { loads } of again) shares.add(loads);
      queue.unshift(...again);
      planCheck();
    },
    dropLate,
    length: () => queue.length,
  };
}

/** The batch that may run now, whose streams are `busy` from here on, and all others in their order. */
function split(queue: readonly Task[], busy: Set<string>, batchMax: number) {
  const now = performance.now();
  const batch: Task[] = [];
  const later: Task[] = [];
  const waitedFor = new Set<string>();
  let scanned = 0;
  for (const task of queue) {
    if (batch.length === batchMax) break;
    scanned += 1;
    if (task.restsUntil > now) {
      later.push(task);
      continue;
    }
    const free = task.loads.every((stream) => !busy.has(stream) && !waitedFor.has(stream));
    for (const stream of task.loads) (free ? busy : waitedFor).add(stream);
    (free ? batch : later).push(task);
  }
  return { batch, rest: [...later, ...queue.slice(scanned)] };
}

/** How many waiting commands name each stream. */
function createShares() {
  const counts = new Map<string, number>();
  return {
    add: (names: readonly string[]) => {
      for (const name of names) counts.set(name, (counts.get(name) ?? 0) + 1);
    },
    remove: (names: readonly string[]) => {
      for (const name of names) {
        const left = (counts.get(name) ?? 0) - 1;
        if (left > 0) counts.set(name, left);
        else counts.delete(name);
      }
    },
    largest: (names: readonly string[]) =>
      names.reduce((largest, name) => Math.max(largest, counts.get(name) ?? 0), 0),
  };
}
