import type { Logger } from 'pino';
import type { Backoff } from '#src/workers/worker.ts';
import type { BatchSender } from './batch-sender.ts';
import { waitAtMost } from './deadline.ts';
import type { OutboxRow } from './outbox.ts';
import { createRests } from './rests.ts';

export type LanesOptions = Readonly<{
  send: BatchSender;
  /** Removes acknowledged rows from the outbox. */
  remove: (ids: readonly number[]) => Promise<void>;
  backoff: Backoff;
  log: Pick<Logger, 'info' | 'error'>;
}>;

/** The partitions side by side, each with one batch under way at most. */
export type Lanes = Readonly<{
  /** Partitions whose batch is under way, or that rest after a failure. */
  unavailable(): number[];
  /** Sends a partition's batch; resolves when it ended, well or badly. */
  start(partition: number, rows: readonly OutboxRow[]): Promise<void>;
  /** Removes the rows of batches that ended; resolves to how many. */
  removeAcknowledged(): Promise<number>;
  /** Waits for every batch under way, at most `timeoutMs`. */
  settle(timeoutMs: number): Promise<void>;
  /** Why the last failed batch failed, as long as some partition fails. */
  failure(): string | undefined;
}>;

type EndedBatch = Readonly<{ partition: number; ackedIds: readonly number[] }>;

export function createLanes({ send, remove, backoff, log }: LanesOptions): Lanes {
  const rests = createRests(backoff);
  const busy = new Set<number>();
  const underWay = new Set<Promise<void>>();
  const ended: EndedBatch[] = [];
  let lastFailure: string | undefined;

  const note = (partition: number, failure: string | undefined) => {
    const wasFailing = rests.hasFailures();
    if (failure === undefined) {
      rests.succeed(partition);
      if (wasFailing && !rests.hasFailures()) log.info({ partition }, 'publishing again');
    } else {
      rests.fail(partition);
      lastFailure = failure;
      if (!wasFailing) log.error({ partition, failure }, 'publishing failed, events wait');
    }
  };

  const sendBatch = async (partition: number, rows: readonly OutboxRow[]) => {
    const { ackedIds, failure } = await send(partition, rows);
    note(partition, failure);
    ended.push({ partition, ackedIds });
  };

  return {
    unavailable: () => [...new Set([...busy, ...rests.resting()])],
    start: (partition, rows) => {
      busy.add(partition);
      const sending = sendBatch(partition, rows).finally(() => underWay.delete(sending));
      underWay.add(sending);
      return sending;
    },
    /** A partition is free again only once its rows are gone, or they would go out again. */
    removeAcknowledged: async () => {
      const batches = ended.splice(0);
      const ids = batches.flatMap(({ ackedIds }) => ackedIds);
      try {
        if (ids.length > 0) await remove(ids);
      } catch (error) {
        ended.push(...batches);
        throw error;
      }
      for (const { partition } of batches) busy.delete(partition);
      return ids.length;
    },
    settle: (timeoutMs) => waitAtMost(timeoutMs, underWay),
    failure: () => (rests.hasFailures() ? lastFailure : undefined),
  };
}
