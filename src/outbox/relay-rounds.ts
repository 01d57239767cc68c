import { setTimeout as sleep } from 'node:timers/promises';
import type { Logger } from 'pino';
import { fullJitterMs, withDeadline } from '#src/workers/worker.ts';
import type { Backoff } from '#src/workers/worker.ts';
import { messageFrom, partitionFor } from './outbox.ts';
import type { OutboxRow, Publisher, TopicLimits } from './outbox.ts';
import type { OutboxStore } from './outbox-store.ts';

/** Bytes that a message takes in a request besides its payload: key, headers, framing. */
const ENVELOPE_BYTES = 1_024;
/** The size of a batch is an estimate, so it stays this much below the limit of the topic. */
const TOPIC_LIMIT_SHARE = 0.9;

export type RoundSettings = Readonly<{
  /** A batch without a response is aborted after this time. */
  sendTimeoutMs: number;
  /** Shortest time between two rounds while there is no backlog, so that batches fill. */
  roundIntervalMs: number;
  /** How long a round waits for its batches. After that it leaves the slow partitions behind. */
  roundTimeoutMs: number;
  /** How long a partition waits after failures. */
  backoff: Backoff;
  /** Rows and payload bytes read in a round, and sent in one request. */
  roundRowsMax: number;
  roundBytesMax: number;
  batchRowsMax: number;
  batchBytesMax: number;
}>;

export type PublishMetrics = Readonly<{
  published(messages: number): void;
  publishFailed(kind: 'refused' | 'unknown'): void;
}>;

export type RoundsOptions = Readonly<{
  topic: string;
  epoch: number;
  limits: TopicLimits;
  settings: RoundSettings;
  store: Pick<OutboxStore, 'waiting' | 'remove' | 'park'>;
  publisher: Pick<Publisher, 'publish'>;
  /** The outbox id at which a read may start. */
  lowestId: () => number;
  /** Whether a batch that starts now ends before the lease does, even if it runs into its timeout. */
  maySend: () => boolean;
  metrics: PublishMetrics;
  log: Pick<Logger, 'info' | 'error'>;
}>;

/** The work of one leader in one epoch. */
export type Rounds = Readonly<{
  /** Reads, sends and deletes once. Resolves to the number of messages that left the outbox. */
  run(signal: AbortSignal): Promise<number>;
  /** Waits for the batches in flight, at most `timeoutMs`, and deletes what Kafka acknowledged. */
  drain(timeoutMs: number): Promise<void>;
  /** Why the last failed batch failed; undefined when no partition is failing. */
  failure(): string | undefined;
}>;

/** What became of a batch. A row that is neither acknowledged nor parked will be sent again. */
type SendResult = Readonly<{ acked: readonly OutboxRow[]; failure?: string }>;
type EndedBatch = Readonly<{ partition: number; acked: readonly OutboxRow[] }>;

/**
 * Each partition has at most one batch in flight; the partitions do not wait for each other. A
 * round waits a little for its batches, so that they share one read and one delete.
 */
export function createRounds(options: RoundsOptions): Rounds {
  const { settings, store, lowestId, limits } = options;
  const { partitions } = limits;
  const bounds = batchBounds(settings, limits);
  const sendBatch = createBatchSender(options);
  const failures = createPartitionFailures(settings.backoff, options.log);
  const inFlight = new Map<number, Promise<void>>();
  /** Batches whose acknowledged rows are still to be deleted. */
  const ended: EndedBatch[] = [];
  let nextReadAtMs = 0;

  const unavailablePartitions = () =>
    Array.from({ length: partitions }, (_, partition) => partition).filter(
      (partition) =>
        inFlight.has(partition) ||
        ended.some((batch) => batch.partition === partition) ||
        failures.isResting(partition),
    );

  const read = async (signal: AbortSignal): Promise<OutboxRow[]> => {
    const waitMs = nextReadAtMs - performance.now();
    if (waitMs > 0) await sleep(waitMs, undefined, { signal });
    const startedAtMs = performance.now();
    const excluded = unavailablePartitions();
    const { roundRowsMax: rowsMax, roundBytesMax: bytesMax } = settings;
    const window = { fromId: lowestId(), partitions, excluded, rowsMax, bytesMax };
    // With all partitions excluded no row would match, and the query would scan the whole backlog.
    const rows = excluded.length === partitions ? [] : await store.waiting(window);
    nextReadAtMs = rows.length < settings.batchRowsMax ? startedAtMs + settings.roundIntervalMs : 0;
    return rows;
  };

  const send = async (partition: number, rows: readonly OutboxRow[]) => {
    const { acked, failure } = await sendBatch(partition, rows);
    failures.record(partition, failure);
    ended.push({ partition, acked });
    inFlight.delete(partition);
  };

  const start = (partition: number, rows: readonly OutboxRow[]) => {
    const sending = send(partition, rows);
    inFlight.set(partition, sending);
    return sending;
  };

  /** A partition stays unavailable until its rows are deleted, or they would be sent again. */
  const deleteAcknowledged = async () => {
    const batches = [...ended];
    const rows = batches.flatMap(({ acked }) => acked);
    if (rows.length > 0) await store.remove(rows);
    ended.splice(0, batches.length);
    return rows.length;
  };

  return {
    run: async (signal) => {
      const deletedBefore = await deleteAcknowledged();
      const batches = cutBatches(await read(signal), partitions, bounds);
      const sends = [...batches].map(([partition, rows]) => start(partition, rows));
      await waitAtMost(settings.roundTimeoutMs, sends);
      return deletedBefore + (await deleteAcknowledged());
    },
    drain: async (timeoutMs) => {
      await waitAtMost(timeoutMs, inFlight.values());
      await deleteAcknowledged();
    },
    failure: failures.last,
  };
}

async function waitAtMost(timeoutMs: number, work: Iterable<Promise<void>>): Promise<void> {
  await withDeadline<unknown>(Promise.all(work), timeoutMs, () => undefined);
}

/** What one request to Kafka may hold. Encoding it blocks the event loop, which HTTP shares. */
export type BatchBounds = Readonly<{ rowsMax: number; bytesMax: number }>;

function batchBounds(settings: RoundSettings, limits: TopicLimits): BatchBounds {
  const topicBytesMax = limits.batchBytesMax * TOPIC_LIMIT_SHARE;
  return {
    rowsMax: settings.batchRowsMax,
    bytesMax: Math.min(settings.batchBytesMax, topicBytesMax),
  };
}

/**
 * Cuts the first batch of each partition from rows in the order to send. A batch ends at the first
 * row that does not fit: a smaller row behind it may have the same key and must not overtake it. A
 * row that is too large by itself makes a batch of one.
 */
export function cutBatches(
  rows: readonly OutboxRow[],
  partitions: number,
  bounds: BatchBounds,
): Map<number, OutboxRow[]> {
  const byPartition = Map.groupBy(rows, (row) => partitionFor(row.key_hash, partitions));
  return new Map([...byPartition].map(([partition, queue]) => [partition, head(queue, bounds)]));
}

function head(queue: OutboxRow[], { rowsMax, bytesMax }: BatchBounds): OutboxRow[] {
  let bytes = 0;
  const end = queue.findIndex((row, index) => {
    bytes += Buffer.byteLength(row.payload) + ENVELOPE_BYTES;
    return index === rowsMax || (index > 0 && bytes > bytesMax);
  });
  return end === -1 ? queue : queue.slice(0, end);
}

/** Creates the function that sends one batch of a partition. That function never throws. */
function createBatchSender(options: RoundsOptions) {
  const { topic, epoch, settings, store, publisher, maySend, metrics, log } = options;

  /** @returns whether the key is parked */
  const park = async (
    { id: outboxId, ce_id: messageId, message_key: key }: OutboxRow,
    reason: string,
  ) => {
    const isParked = await store.park({ outboxId, messageId, reason, epoch });
    if (isParked) log.error({ key, outboxId, reason }, 'message refused, key parked');
    return isParked;
  };

  /**
   * Halves a batch that Kafka refuses until the refused message is alone, then parks its key. The
   * first half is settled before the second is sent, and no later message of a parked key is sent.
   * @returns why it stopped early, if it did
   */
  const send = async (partition: number, batch: readonly OutboxRow[], acked: OutboxRow[]) => {
    const parkedKeys = new Set<string>();
    const parts = [batch];
    for (let part = parts.shift(); part !== undefined; part = parts.shift()) {
      const rows = part.filter(({ message_key }) => !parkedKeys.has(message_key));
      const [first] = rows;
      if (first === undefined) continue;
      if (!maySend()) return 'the lease is about to end';
      const messages = rows.map(messageFrom);
      const timeoutMs = settings.sendTimeoutMs;
      const outcome = await publisher.publish({ topic, partition, messages, timeoutMs });
      if (outcome.kind === 'acked') {
        metrics.published(rows.length);
        acked.push(...rows);
        continue;
      }
      metrics.publishFailed(outcome.kind);
      if (outcome.kind === 'unknown') return outcome.reason;
      if (rows.length > 1) {
        const middle = Math.ceil(rows.length / 2);
        parts.unshift(rows.slice(0, middle), rows.slice(middle));
      } else if (await park(first, outcome.reason)) {
        parkedKeys.add(first.message_key);
      } else {
        return `${outcome.reason}, and it could not be parked`;
      }
    }
    return undefined;
  };

  return async (partition: number, batch: readonly OutboxRow[]): Promise<SendResult> => {
    const acked: OutboxRow[] = [];
    try {
      const failure = await send(partition, batch, acked);
      return failure === undefined ? { acked } : { acked, failure };
    } catch (error) {
      return { acked, failure: error instanceof Error ? error.message : String(error) };
    }
  };
}

/** The partitions whose last batch failed. Each rests longer with each failure in a row. */
function createPartitionFailures(backoff: Backoff, log: RoundsOptions['log']) {
  const failing = new Map<number, Readonly<{ failures: number; restsUntilMs: number }>>();
  let lastFailure: string | undefined;

  return {
    isResting: (partition: number) =>
      (failing.get(partition)?.restsUntilMs ?? 0) > performance.now(),
    record: (partition: number, failure: string | undefined) => {
      if (failure === undefined) {
        const wasFailing = failing.delete(partition);
        if (wasFailing && failing.size === 0) log.info({ partition }, 'publishing again');
        return;
      }
      if (failing.size === 0) log.error({ partition, failure }, 'publishing failed, events wait');
      const failures = (failing.get(partition)?.failures ?? 0) + 1;
      const restsUntilMs = performance.now() + fullJitterMs(failures, backoff);
      failing.set(partition, { failures, restsUntilMs });
      lastFailure = failure;
    },
    last: () => (failing.size > 0 ? lastFailure : undefined),
  };
}
