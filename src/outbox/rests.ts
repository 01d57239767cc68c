import { fullJitterMs } from '#src/workers/worker.ts';
import type { Backoff } from '#src/workers/worker.ts';

/** Which partitions rest after a failure, and until when. */
export type Rests = Readonly<{
  resting(): number[];
  /** Makes a partition rest, longer with each failure in a row. */
  fail(partition: number): void;
  /** Ends the partition's row of failures. */
  succeed(partition: number): void;
  hasFailures(): boolean;
}>;

export function createRests(backoff: Backoff): Rests {
  const failing = new Map<number, { failures: number; endsAtMs: number }>();
  return {
    resting: () => {
      const nowMs = performance.now();
      return [...failing].flatMap(([partition, { endsAtMs }]) =>
        endsAtMs > nowMs ? [partition] : [],
      );
    },
    fail: (partition) => {
      const failures = (failing.get(partition)?.failures ?? 0) + 1;
      const endsAtMs = performance.now() + fullJitterMs(failures, backoff);
      failing.set(partition, { failures, endsAtMs });
    },
    succeed: (partition) => failing.delete(partition),
    hasFailures: () => failing.size > 0,
  };
}
