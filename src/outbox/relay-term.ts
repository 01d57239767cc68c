import { setTimeout as sleep } from 'node:timers/promises';
import type { Logger } from 'pino';
import type { BatchSender } from './batch-sender.ts';
import { cutBatches } from './batches.ts';
import { waitAtMost } from './deadline.ts';
import { createLanes } from './lanes.ts';
import type { TopicLimits } from './outbox.ts';
import type { OutboxStore } from './outbox-store.ts';
import type { RelaySettings } from './relay-settings.ts';

/** Room in the topic's limit for what the estimate of a batch leaves out. */
const TOPIC_LIMIT_SHARE = 0.9;

export type RelayTermOptions = Readonly<{
  limits: TopicLimits;
  settings: RelaySettings;
  store: Pick<OutboxStore, 'waiting' | 'remove'>;
  send: BatchSender;
  /** No row of the outbox is below it. */
  lowestId: () => number;
  log: Pick<Logger, 'info' | 'error'>;
}>;

/** The work of one leader, from taking the lease to losing it. */
export type RelayTerm = Readonly<{
  /** Reads, sends and removes once; resolves to how many messages left the outbox. */
  round(signal: AbortSignal): Promise<number>;
  /** Waits for what is under way, at most `timeoutMs`, and removes what was acknowledged. */
  drain(timeoutMs: number): Promise<void>;
  /** Why the last failed batch failed, as long as some partition fails. */
  failure(): string | undefined;
}>;

/**
 * A round waits for its batches a little, so that they share one read and one removal. A slow partition
 * is then left behind and the others go on.
 */
export function createRelayTerm(options: RelayTermOptions): RelayTerm {
  const { limits, settings, store, send, lowestId, log } = options;
  const { partitions } = limits;
  const bounds = {
    rowsMax: settings.batchRowsMax,
    bytesMax: Math.min(settings.batchBytesMax, limits.batchBytesMax * TOPIC_LIMIT_SHARE),
  };
  const { backoff } = settings;
  const lanes = createLanes({ send, remove: store.remove, backoff, log });
  let nextRoundAtMs = 0;

  /** Nothing is read for nobody: no row would pass, so the whole backlog would be walked. */
  const readWindow = async (signal: AbortSignal) => {
    const earlyMs = nextRoundAtMs - performance.now();
    if (earlyMs > 0) await sleep(earlyMs, undefined, { signal });
    const startedAtMs = performance.now();
    const excluded = lanes.unavailable();
    const rows =
      excluded.length === partitions
        ? []
        : await store.waiting({
            fromId: lowestId(),
            partitions,
            excluded,
            rowsMax: settings.roundRowsMax,
            bytesMax: settings.roundBytesMax,
          });
    nextRoundAtMs = rows.length < settings.batchRowsMax ? startedAtMs + settings.roundMs : 0;
    return rows;
  };

  return {
    round: async (signal) => {
      const removedLate = await lanes.removeAcknowledged();
      const rows = await readWindow(signal);
      const sends = [...cutBatches(rows, partitions, bounds)].map(([partition, batch]) =>
        lanes.start(partition, batch),
      );
      await waitAtMost(settings.patienceMs, sends);
      return removedLate + (await lanes.removeAcknowledged());
    },
    drain: async (timeoutMs) => {
      await lanes.settle(timeoutMs);
      await lanes.removeAcknowledged();
    },
    failure: lanes.failure,
  };
}
