import { isDeepStrictEqual } from 'node:util';
import type { Pool } from 'pg';
import type { Logger } from 'pino';
import { createWorker, withDeadline } from '#src/workers/worker.ts';
import { createLease } from './lease.ts';
import type { Lease } from './lease.ts';
import type { Publisher, TopicLimits } from './outbox.ts';
import type { OutboxBacklog, OutboxMonitor } from './outbox-monitor.ts';
import { createOutboxStore, relayLease } from './outbox-store.ts';
import type { OutboxStore } from './outbox-store.ts';
import { createRounds } from './relay-rounds.ts';
import type { PublishMetrics, Rounds, RoundSettings } from './relay-rounds.ts';

export type RelaySettings = RoundSettings &
  Readonly<{
    /** After a leader was killed, the next one starts at most this much later. */
    leaseTtlMs: number;
    leasePollMs: number;
    /** Longest wait for a wake. Events of other replicas are found this late. */
    idleMs: number;
    /** How often the relay checks the topic for new partitions. */
    topicCheckMs: number;
    /** How long a stop may take. */
    stopMs: number;
  }>;

/** For production; tests shorten the waits. */
export const relayDefaults: RelaySettings = {
  leaseTtlMs: 8_000,
  leasePollMs: 1_000,
  sendTimeoutMs: 4_000, // half the lease, so that a late renewal does no harm
  idleMs: 200,
  roundIntervalMs: 20,
  roundTimeoutMs: 250,
  topicCheckMs: 10_000,
  backoff: { baseMs: 200, maxMs: 5_000 },
  stopMs: 3_000,
  roundRowsMax: 2_000,
  roundBytesMax: 4 * 1024 * 1024,
  batchRowsMax: 500,
  batchBytesMax: 768 * 1024,
};

export type RelayMetrics = PublishMetrics & Readonly<{ leaseChanged(isHeld: boolean): void }>;

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
  if (publisher !== undefined) return createRunningRelay({ ...options, publisher });
  return {
    start: () => log.warn({ topic }, 'the relay is off: events wait in the outbox'),
    wake: () => undefined,
    stop: () => Promise.resolve(),
    status: () => ({ mode: 'off', ...monitor.backlog() }),
  };
}

type RunningRelayOptions = Omit<RelayOptions, 'settings'> & Readonly<{ publisher: Publisher }>;

/** What the parts of a running relay share. */
type Parts = RunningRelayOptions &
  Readonly<{ settings: RelaySettings; store: OutboxStore; lease: Lease }>;

function createRunningRelay(options: RunningRelayOptions & Pick<RelayOptions, 'settings'>): Relay {
  const { pool, topic, publisher, monitor, metrics, log } = options;
  const settings = { ...relayDefaults, ...options.settings };
  const lease = createLease({
    pool,
    name: relayLease(topic),
    ttlMs: settings.leaseTtlMs,
    pollMs: settings.leasePollMs,
    log,
    onChange: (isHeld) => {
      const epoch = lease.current()?.epoch;
      metrics.leaseChanged(isHeld);
      log.info({ topic, epoch }, isHeld ? 'relay leads' : 'relay stands by');
      if (!isHeld) publisher.abort();
      topicCheck.wake();
    },
  });
  const parts = { ...options, settings, store: createOutboxStore(pool, topic), lease };
  const topicCheck = createTopicCheck(parts, () => loop.wake());
  const loop = createRoundLoop(parts, topicCheck);

  /** The lease is released last, when nothing is in flight any more. */
  const stopInOrder = async () => {
    await loop.stop();
    await publisher.close();
    await Promise.all([topicCheck.stop(), lease.stop()]);
  };

  return {
    start: () => {
      for (const part of [lease, topicCheck, loop]) part.start();
    },
    wake: loop.wake,
    stop: async () => {
      const stopped = stopInOrder().catch((error: unknown) =>
        log.warn({ topic, err: error }, 'the relay stopped with an error'),
      );
      await withDeadline(stopped, settings.stopMs, () => {
        publisher.abort();
        log.warn({ topic }, 'the relay did not stop in time; its lease will expire');
      });
    },
    status: () => {
      const epoch = lease.current()?.epoch;
      if (epoch === undefined) return { mode: 'standby', ...monitor.backlog() };
      const stoppedReason = topicCheck.stoppedReason();
      const lastError = topicCheck.lastError() ?? loop.lastError();
      return {
        mode: stoppedReason === undefined ? 'leading' : 'stopped',
        epoch,
        ...(stoppedReason !== undefined && { stoppedReason }),
        ...(lastError !== undefined && { lastError }),
        ...monitor.backlog(),
      };
    },
  };
}

/** What a leader found when it looked at the topic. */
type TopicState = Readonly<{ epoch: number; limits: TopicLimits; partitionsExpected: number }>;

type TopicCheck = ReturnType<typeof createTopicCheck>;

/**
 * Opens the topic for a new leader, and checks it from time to time because its partitions may
 * change. While their number is not the expected one, nothing may be sent: keys would move to other
 * partitions.
 */
function createTopicCheck(parts: Parts, onChange: () => void) {
  const { topic, publisher, store, lease, settings, log } = parts;
  let state: TopicState | undefined;
  let lastError: string | undefined;

  const isAsExpected = ({ limits, partitionsExpected }: TopicState) =>
    limits.partitions === partitionsExpected;

  const report = async (found: TopicState) => {
    const { limits, partitionsExpected } = found;
    if (!isAsExpected(found)) {
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
  };

  const worker = createWorker({
    name: `topic ${topic}`,
    tick: async () => {
      const epoch = lease.current()?.epoch;
      if (epoch === undefined) return 0;
      const limits = await publisher.openTopic(topic);
      const partitionsExpected = await store.rememberPartitions(limits.partitions);
      const found = { epoch, limits, partitionsExpected };
      if (isDeepStrictEqual(found, state)) return 0;
      state = found;
      await report(found);
      onChange();
      return 0;
    },
    idleMs: settings.topicCheckMs,
    errorBackoff: settings.backoff,
    log,
    onTick: (result) => {
      lastError = 'error' in result ? String(result.error) : undefined;
    },
  });

  return {
    ...worker,
    /** The topic as last found, if messages may be sent to it. */
    open: () => (state !== undefined && isAsExpected(state) ? state : undefined),
    stoppedReason: () =>
      state !== undefined && !isAsExpected(state) ? 'partitions_changed' : undefined,
    lastError: () => lastError,
  };
}

/** Runs rounds while this process leads and the topic is open. They start anew with each epoch. */
function createRoundLoop(parts: Parts, topicCheck: TopicCheck) {
  const { topic, lease, monitor, settings, log } = parts;
  let current: Readonly<{ state: TopicState; rounds: Rounds }> | undefined;
  let lastError: string | undefined;

  const maySend = ({ epoch }: TopicState) => {
    const held = lease.current();
    return held?.epoch === epoch && held.remainingMs > settings.sendTimeoutMs;
  };

  const worker = createWorker({
    name: `relay ${topic}`,
    tick: async (signal) => {
      const state = topicCheck.open();
      if (state === undefined || !maySend(state)) return 0;
      if (current?.state !== state) {
        await current?.rounds.drain(settings.sendTimeoutMs);
        const rounds = createRounds({
          ...parts,
          epoch: state.epoch,
          limits: state.limits,
          lowestId: monitor.lowestId,
          maySend: () => maySend(state),
        });
        current = { state, rounds };
      }
      return current.rounds.run(signal);
    },
    idleMs: settings.idleMs,
    errorBackoff: settings.backoff,
    log,
    onTick: (result) => {
      lastError = 'error' in result ? String(result.error) : undefined;
    },
  });

  return {
    start: worker.start,
    wake: worker.wake,
    stop: async () => {
      await worker.stop();
      await current?.rounds.drain(settings.stopMs / 2).catch((error: unknown) => {
        log.warn({ err: error }, 'acknowledged events stay in the outbox and will be sent again');
      });
    },
    lastError: () => current?.rounds.failure() ?? lastError,
  };
}
