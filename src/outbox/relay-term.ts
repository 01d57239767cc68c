import { setTimeout as sleep } from 'node:timers/promises';
import type { Logger } from 'pino';
import { fullJitterMs } from '#src/workers/worker.ts';
import type { Backoff } from '#src/workers/worker.ts';
import type { BatchSender } from './batch-sender.ts';
import { cutBatches } from './batches.ts';
import type { BatchBounds } from './batches.ts';
import { waitAtMost } from './deadline.ts';
import type { OutboxRow, TopicLimits } from './outbox.ts';
import type { OutboxStore } from './outbox-store.ts';
import type { RelaySettings } from './relay-settings.ts';

/** Room in the topic's limit for what the estimate of a batch leaves out. */
const TOPIC_LIMIT_SHARE = 0.9;

export type RelayTermOptions = Readonly<{
  limits: TopicLimits;
  settings: RelaySettings;
  store: Pick<OutboxStore, 'waiting' | 'remove'>;
  send: BatchSender;
  /** Where a read may start. */
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

type EndedBatch = Readonly<{ partition: number; acked: readonly OutboxRow[] }>;

/**
 * The partitions go side by side, each with one batch under way at most. A round waits for its batches a
 * little, so that they share one read and one removal. A slow partition is then left behind and the
 * others go on.
 */
export function createRelayTerm(options: RelayTermOptions): RelayTerm {
  const { settings, store, send, lowestId } = options;
  const { partitions } = options.limits;
  const bounds = boundsOf(options);
  const states = createPartitionStates(settings.backoff, options.log);
  const underWay = new Set<Promise<void>>();
  const ended: EndedBatch[] = [];
  let nextRoundAtMs = 0;

  /** Nothing is read for nobody: no row would pass, so the whole backlog would be walked. */
  const readWindow = async (signal: AbortSignal) => {
    const earlyMs = nextRoundAtMs - performance.now();
    if (earlyMs > 0) await sleep(earlyMs, undefined, { signal });
    const startedAtMs = performance.now();
    const excluded = states.unavailable();
    const { roundRowsMax: rowsMax, roundBytesMax: bytesMax } = settings;
    const window = { fromId: lowestId(), partitions, excluded, rowsMax, bytesMax };
    const rows = excluded.length === partitions ? [] : await store.waiting(window);
    nextRoundAtMs = rows.length < settings.batchRowsMax ? startedAtMs + settings.roundMs : 0;
    return rows;
  };

  const sendBatch = async (partition: number, rows: readonly OutboxRow[]) => {
    states.begin(partition);
    const { acked, failure } = await send(partition, rows);
    states.end(partition, failure);
    ended.push({ partition, acked });
  };

  const start = (partition: number, rows: readonly OutboxRow[]) => {
    const sending = sendBatch(partition, rows).finally(() => underWay.delete(sending));
    underWay.add(sending);
    return sending;
  };

  /** A partition is free again only once its rows are gone, or they would go out again. */
  const removeAcknowledged = async () => {
    const batches = ended.splice(0);
    const rows = batches.flatMap(({ acked }) => acked);
    try {
      if (rows.length > 0) await store.remove(rows);
    } catch (error) {
      ended.push(...batches);
      throw error;
    }
    for (const { partition } of batches) states.free(partition);
    return rows.length;
  };

  return {
    round: async (signal) => {
      const removedLate = await removeAcknowledged();
      const batches = [...cutBatches(await readWindow(signal), partitions, bounds)];
      const sends = batches.map(([partition, rows]) => start(partition, rows));
      await waitAtMost(settings.patienceMs, sends);
      return removedLate + (await removeAcknowledged());
    },
    drain: async (timeoutMs) => {
      await waitAtMost(timeoutMs, underWay);
      await removeAcknowledged();
    },
    failure: states.failure,
  };
}

function boundsOf({ settings, limits }: RelayTermOptions): BatchBounds {
  const { batchRowsMax, batchBytesMax } = settings;
  const topicBytesMax = limits.batchBytesMax * TOPIC_LIMIT_SHARE;
  return { rowsMax: batchRowsMax, bytesMax: Math.min(batchBytesMax, topicBytesMax) };
}

type PartitionState = Readonly<{ isBusy: boolean; failures: number; restsUntilMs: number }>;

const IDLE: PartitionState = { isBusy: false, failures: 0, restsUntilMs: 0 };

/** Which partitions have a batch under way, and which rest after failures, longer with each in a row. */
function createPartitionStates(backoff: Backoff, log: RelayTermOptions['log']) {
  const states = new Map<number, PartitionState>();
  let lastFailure: string | undefined;

  const change = (partition: number, to: Partial<PartitionState>) => {
    states.set(partition, { ...IDLE, ...states.get(partition), ...to });
  };
  const isAnyFailing = () => [...states.values()].some(({ failures }) => failures > 0);

  return {
    unavailable: () => {
      const nowMs = performance.now();
      return [...states].flatMap(([partition, { isBusy, restsUntilMs }]) =>
        isBusy || restsUntilMs > nowMs ? [partition] : [],
      );
    },
    begin: (partition: number) => change(partition, { isBusy: true }),
    /** It stays busy until it is freed. */
    end: (partition: number, failure: string | undefined) => {
      const wasFailing = isAnyFailing();
      if (failure === undefined) {
        change(partition, { failures: 0, restsUntilMs: 0 });
        if (wasFailing && !isAnyFailing()) log.info({ partition }, 'publishing again');
      } else {
        const failures = (states.get(partition)?.failures ?? 0) + 1;
        const restsUntilMs = performance.now() + fullJitterMs(failures, backoff);
        change(partition, { failures, restsUntilMs });
        lastFailure = failure;
        if (!wasFailing) log.error({ partition, failure }, 'publishing failed, events wait');
      }
    },
    free: (partition: number) => change(partition, { isBusy: false }),
    failure: () => (isAnyFailing() ? lastFailure : undefined),
  };
}
