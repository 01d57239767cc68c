import { setTimeout as sleep } from 'node:timers/promises';
import { isDeepStrictEqual } from 'node:util';
import type { Pool } from 'pg';
import type { Logger } from 'pino';
import { createWorker, fullJitterMs, withDeadline } from '#src/workers/worker.ts';
import type { Worker } from '#src/workers/worker.ts';
import { createLease } from './lease.ts';
import type { Lease } from './lease.ts';
import { cutBatches, messageFrom } from './outbox.ts';
import type { OutboxRow, Publisher, TopicLimits } from './outbox.ts';
import type { OutboxBacklog, OutboxMonitor } from './outbox-monitor.ts';
import { createOutboxStore, relayLease } from './outbox-store.ts';
import type { OutboxStore } from './outbox-store.ts';

/** The size of a batch is an estimate, so it stays this much below the limit of the topic. */
const TOPIC_LIMIT_SHARE = 0.9;

/** For production; tests shorten the waits. */
export const relayDefaults = {
  /** After a leader was killed, the next one starts at most this much later. */
  leaseTtlMs: 8_000,
  leasePollMs: 1_000,
  /** A batch without a response is aborted after this time: half the lease, for a late renewal. */
  sendTimeoutMs: 4_000,
  /** Longest wait for a wake. Events of other replicas are found this late. */
  idleMs: 200,
  /** Shortest time between two reads while there is no backlog, so that batches fill. */
  roundIntervalMs: 20,
  /** How long a round waits for its batches. After that it leaves the slow partitions behind. */
  roundTimeoutMs: 250,
  /** How often the relay checks the topic for new partitions. */
  topicCheckMs: 10_000,
  /** How long a partition waits after failures. */
  backoff: { baseMs: 200, maxMs: 5_000 },
  /** How long a stop may take. */
  stopMs: 3_000,
  /** Rows and payload bytes that one read returns. */
  roundRowsMax: 2_000,
  roundBytesMax: 4 * 1024 * 1024,
  /** Rows and bytes of one request to Kafka. Encoding it blocks the event loop, which HTTP shares. */
  batchRowsMax: 500,
  batchBytesMax: 768 * 1024,
};

export type RelaySettings = Readonly<typeof relayDefaults>;

/** What the relay counts, each with the labels of its counter. */
export type RelayMetrics = Readonly<{
  published: { inc(labels: Readonly<{ topic: string }>, messages: number): void };
  publishErrors: { inc(labels: Readonly<{ topic: string; reason: 'refused' | 'unknown' }>): void };
  leaseTransitions: { inc(labels: Readonly<{ lease: string }>): void };
}>;

export type RelayOptions = Readonly<{
  pool: Pool;
  topic: string;
  /** Without a publisher the relay is off, and events wait in the outbox for another relay. */
  publisher: Publisher | undefined;
  monitor: Pick<OutboxMonitor, 'backlog' | 'lowestId'>;
  metrics: RelayMetrics;
  log: Logger;
  settings?: Partial<RelaySettings>;
}>;

/** The state of the relay and its outbox, for health and metrics. */
export type RelayStatus = OutboxBacklog &
  Readonly<{
    /** `stopped`: this process leads but waits for an operator; `stoppedReason` says why. */
    mode: 'off' | 'standby' | 'leading' | 'stopped';
    epoch?: number;
    stoppedReason?: string;
    lastError?: string;
  }>;

export type Relay = Readonly<{
  /** Returns at once. Postgres and Kafka need not be available yet. */
  start(): void;
  /** Says that there are new rows. */
  wake(): void;
  /** Finishes the batches in flight and releases the lease. Takes a bounded time and never throws. */
  stop(): Promise<void>;
  status(): RelayStatus;
}>;

/**
 * Publishes the outbox of one topic. Any number of processes may run a relay; a lease lets one of
 * them lead. Every leader starts at the lowest row. So a message may be sent twice, but never
 * before its predecessor.
 */
export function createRelay(options: RelayOptions): Relay {
  const { publisher, monitor, log, topic } = options;
  if (publisher !== undefined) return createRunningRelay(options, publisher);
  return {
    start: () => log.warn({ topic }, 'the relay is off: events wait in the outbox'),
    wake: () => undefined,
    stop: () => Promise.resolve(),
    status: () => ({ mode: 'off', ...monitor.backlog() }),
  };
}

/** What a running relay works with. */
export type RelayParts = Omit<RelayOptions, 'pool' | 'settings'> &
  Readonly<{ publisher: Publisher; store: OutboxStore; lease: Lease; settings: RelaySettings }>;

/** What a leader found when it checked the topic. */
type TopicState = Readonly<{
  epoch: number;
  limits: TopicLimits;
  /** If not, nothing may be sent, because keys would move to other partitions. */
  isAsExpected: boolean;
}>;

/** A relay, what it last found and its work of the current epoch. */
type RunningRelay = RelayParts & { found: TopicState | undefined; leader: Leader | undefined };

function createRunningRelay(options: RelayOptions, publisher: Publisher): Relay {
  const { pool, topic, monitor, metrics, log } = options;
  const settings = { ...relayDefaults, ...options.settings };
  const { idleMs, topicCheckMs, backoff: errorBackoff } = settings;
  const lease = createLease({
    pool,
    name: relayLease(topic),
    ttlMs: settings.leaseTtlMs,
    pollMs: settings.leasePollMs,
    log,
    onChange: (isHeld) => {
      const epoch = lease.current()?.epoch;
      metrics.leaseTransitions.inc({ lease: 'relay' });
      log.info({ topic, epoch }, isHeld ? 'relay leads' : 'relay stands by');
      if (!isHeld) publisher.abort();
      topicCheck.wake();
    },
  });
  const store = createOutboxStore(pool, topic);
  const parts = { topic, publisher, store, lease, monitor, metrics, log, settings };
  const relay: RunningRelay = { ...parts, found: undefined, leader: undefined };
  const topicCheck = createWorker({
    name: `topic ${topic}`,
    tick: async () => {
      if (await checkTopic(relay)) loop.wake();
    },
    idleMs: topicCheckMs,
    errorBackoff,
    log,
  });
  const tick = (signal: AbortSignal) => lead(relay, signal);
  const loop = createWorker({ name: `relay ${topic}`, tick, idleMs, errorBackoff, log });

  return {
    start: () => {
      for (const part of [lease, topicCheck, loop]) part.start();
    },
    wake: loop.wake,
    stop: () => stopInTime(relay, topicCheck, loop),
    status: () => statusOf(relay, topicCheck.lastError(), loop.lastError()),
  };
}

async function stopInTime(relay: RunningRelay, topicCheck: Worker, loop: Worker): Promise<void> {
  const { topic, publisher, lease, log, settings } = relay;
  /** The lease is released last, when nothing is in flight any more. */
  const stopInOrder = async () => {
    await loop.stop();
    if (relay.leader !== undefined) {
      await drain(relay, relay.leader, settings.stopMs / 2).catch((error: unknown) => {
        log.warn({ err: error }, 'acknowledged events stay in the outbox and will be sent again');
      });
    }
    await publisher.close();
    await Promise.all([topicCheck.stop(), lease.stop()]);
  };
  const stopped = stopInOrder().catch((error: unknown) => {
    log.warn({ topic, err: error }, 'the relay stopped with an error');
  });
  await withDeadline(stopped, settings.stopMs, () => {
    publisher.abort();
    log.warn({ topic }, 'the relay did not stop in time; its lease will expire');
  });
}

function statusOf(relay: RunningRelay, topicError?: string, loopError?: string): RelayStatus {
  const { lease, monitor, found, leader } = relay;
  const epoch = lease.current()?.epoch;
  if (epoch === undefined) return { mode: 'standby', ...monitor.backlog() };
  const isStopped = found?.isAsExpected === false;
  const failing = leader === undefined ? [] : [...leader.failing.values()];
  const error = topicError ?? failing.at(-1)?.reason ?? loopError;
  return {
    mode: isStopped ? 'stopped' : 'leading',
    epoch,
    ...(isStopped && { stoppedReason: 'partitions_changed' }),
    ...(error !== undefined && { lastError: error }),
    ...monitor.backlog(),
  };
}

/** Looks at the topic for a new leader, and from time to time. @returns whether anything changed */
async function checkTopic(relay: RunningRelay): Promise<boolean> {
  const { topic, publisher, store, lease, settings, log } = relay;
  const epoch = lease.current()?.epoch;
  if (epoch === undefined) return false;
  const limits = await publisher.openTopic(topic);
  const partitionsExpected = await store.rememberPartitions(limits.partitions);
  const found = { epoch, limits, isAsExpected: limits.partitions === partitionsExpected };
  if (isDeepStrictEqual(found, relay.found)) return false;
  relay.found = found;
  if (!found.isAsExpected) {
    log.error(
      { topic, partitions: limits.partitions, partitionsExpected },
      'relay stopped: the number of partitions of the topic changed',
    );
  }
  if (limits.batchBytesMax < settings.batchBytesMax) {
    log.warn({ topic, ...limits }, 'the topic accepts only smaller batches than usual');
  }
  if (await store.hasOtherTopics()) {
    log.warn({ topic }, 'the outbox holds events for other topics, which are not published');
  }
  return true;
}

/** Runs one round if this process leads and the topic is as expected. */
async function lead(relay: RunningRelay, signal: AbortSignal): Promise<number> {
  const { found, settings } = relay;
  if (!found?.isAsExpected || !maySend(relay, found.epoch)) return 0;
  if (relay.leader?.found !== found) {
    if (relay.leader !== undefined) await drain(relay, relay.leader, settings.sendTimeoutMs);
    relay.leader = { found, batches: new Map(), failing: new Map(), nextReadAtMs: 0 };
  }
  return runRound(relay, relay.leader, signal);
}

/** Whether a batch that starts now ends before the lease does, even if it runs into its timeout. */
function maySend({ lease, settings }: RelayParts, epoch: number): boolean {
  const held = lease.current();
  return held?.epoch === epoch && held.remainingMs > settings.sendTimeoutMs;
}

/** The work of one leader in one epoch, on the topic as it found it. */
export type Leader = {
  readonly found: TopicState;
  /** The batch of each partition, from the read of its rows until they are deleted. */
  readonly batches: Map<number, Batch>;
  /** Partitions whose last batch failed. Each rests longer with each failure in a row. */
  readonly failing: Map<number, { failures: number; restsUntilMs: number; reason: string }>;
  nextReadAtMs: number;
};

/** A row that is neither acknowledged nor parked when its batch ends will be sent again. */
type Batch = { readonly acked: OutboxRow[]; isEnded: boolean; readonly ending: Promise<void> };

/**
 * Reads, sends and deletes once. Each partition has at most one batch in flight; the partitions do
 * not wait for each other. A round waits a little for its batches, so that they share one read and
 * one delete.
 * @returns the number of messages that left the outbox
 */
export async function runRound(
  relay: RelayParts,
  leader: Leader,
  signal: AbortSignal,
): Promise<number> {
  const deletedBefore = await deleteAcknowledged(relay, leader);
  const rows = await readWaiting(relay, leader, signal);
  const { settings } = relay;
  const { partitions, batchBytesMax } = leader.found.limits;
  const bytesMax = Math.min(settings.batchBytesMax, batchBytesMax * TOPIC_LIMIT_SHARE);
  const batches = cutBatches(rows, partitions, { rowsMax: settings.batchRowsMax, bytesMax });
  const endings = [...batches].map(([partition, batch]) =>
    startBatch(relay, leader, partition, batch),
  );
  await withDeadline<unknown>(Promise.all(endings), settings.roundTimeoutMs, () => undefined);
  return deletedBefore + (await deleteAcknowledged(relay, leader));
}

/** Waits for the batches in flight, at most `timeoutMs`, and deletes what Kafka acknowledged. */
async function drain(relay: RelayParts, leader: Leader, timeoutMs: number): Promise<void> {
  const endings = [...leader.batches.values()].map(({ ending }) => ending);
  await withDeadline<unknown>(Promise.all(endings), timeoutMs, () => undefined);
  await deleteAcknowledged(relay, leader);
}

/** Reads what partitions that are neither sending nor resting may send next. */
async function readWaiting(
  { store, monitor, settings }: RelayParts,
  leader: Leader,
  signal: AbortSignal,
): Promise<readonly OutboxRow[]> {
  const waitMs = leader.nextReadAtMs - performance.now();
  if (waitMs > 0) await sleep(waitMs, undefined, { signal });
  const startedAtMs = performance.now();
  const { partitions } = leader.found.limits;
  const excluded = Array.from({ length: partitions }, (_, partition) => partition).filter(
    (partition) =>
      leader.batches.has(partition) ||
      (leader.failing.get(partition)?.restsUntilMs ?? 0) > startedAtMs,
  );
  const { roundRowsMax: rowsMax, roundBytesMax: bytesMax } = settings;
  const window = { fromId: monitor.lowestId(), partitions, excluded, rowsMax, bytesMax };
  // With all partitions excluded no row would match, and the query would scan the whole backlog.
  const rows = excluded.length === partitions ? [] : await store.waiting(window);
  const isBacklog = rows.length >= settings.batchRowsMax;
  leader.nextReadAtMs = isBacklog ? 0 : startedAtMs + settings.roundIntervalMs;
  return rows;
}

function startBatch(
  relay: RelayParts,
  leader: Leader,
  partition: number,
  rows: readonly OutboxRow[],
): Promise<void> {
  const acked: OutboxRow[] = [];
  const end = async () => {
    const sent = sendBatch(relay, leader.found.epoch, partition, rows, acked);
    const failure = await sent.catch((error: unknown) =>
      error instanceof Error ? error.message : String(error),
    );
    recordOutcome(relay, leader, partition, failure);
    batch.isEnded = true;
  };
  const batch: Batch = { acked, isEnded: false, ending: end() };
  leader.batches.set(partition, batch);
  return batch.ending;
}

/**
 * Sends a batch and adds the acknowledged rows to `acked`. A batch that Kafka refuses is halved
 * until the refused message is alone, and its key is parked. The first half is settled before the
 * second is sent, and no later message of a parked key is sent.
 * @returns why it stopped early, if it did
 */
async function sendBatch(
  relay: RelayParts,
  epoch: number,
  partition: number,
  batch: readonly OutboxRow[],
  acked: OutboxRow[],
): Promise<string | undefined> {
  const { topic, store, publisher, metrics, log, settings } = relay;
  const parkedKeys = new Set<string>();

  const send = async (part: readonly OutboxRow[]): Promise<string | undefined> => {
    const rows = part.filter(({ message_key }) => !parkedKeys.has(message_key));
    const [first] = rows;
    if (first === undefined) return undefined;
    if (!maySend(relay, epoch)) return 'the lease is about to end';
    const messages = rows.map(messageFrom);
    const timeoutMs = settings.sendTimeoutMs;
    const outcome = await publisher.publish({ topic, partition, messages, timeoutMs });
    if (outcome.kind === 'acked') {
      metrics.published.inc({ topic }, rows.length);
      acked.push(...rows);
      return undefined;
    }
    const { kind, reason } = outcome;
    metrics.publishErrors.inc({ topic, reason: kind });
    if (kind === 'unknown') return reason;
    if (rows.length > 1) {
      const middle = Math.ceil(rows.length / 2);
      return (await send(rows.slice(0, middle))) ?? send(rows.slice(middle));
    }
    const { id: outboxId, ce_id: messageId, message_key: key } = first;
    const isParked = await store.park({ outboxId, messageId, reason, epoch });
    if (!isParked) return `${reason}, and it could not be parked`;
    log.error({ key, outboxId, reason }, 'message refused, key parked');
    parkedKeys.add(key);
    return undefined;
  };
  return send(batch);
}

function recordOutcome(
  { log, settings }: RelayParts,
  { failing }: Leader,
  partition: number,
  reason: string | undefined,
): void {
  const before = failing.get(partition);
  failing.delete(partition);
  if (reason === undefined) {
    if (before !== undefined && failing.size === 0) log.info({ partition }, 'publishing again');
    return;
  }
  const failures = (before?.failures ?? 0) + 1;
  const isFirst = failures === 1 && failing.size === 0;
  if (isFirst) log.error({ partition, failure: reason }, 'publishing failed, events wait');
  const restsUntilMs = performance.now() + fullJitterMs(failures, settings.backoff);
  failing.set(partition, { failures, restsUntilMs, reason });
}

/** Deletes acknowledged rows. Their partition waits for it, or they would be sent again. */
async function deleteAcknowledged({ store }: RelayParts, { batches }: Leader): Promise<number> {
  const ended = [...batches].filter(([, { isEnded }]) => isEnded);
  const rows = ended.flatMap(([, { acked }]) => acked);
  if (rows.length > 0) await store.remove(rows);
  for (const [partition] of ended) batches.delete(partition);
  return rows.length;
}
