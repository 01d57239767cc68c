import type { Pool } from 'pg';
import type { Logger } from 'pino';
import { createWorker } from '#src/workers/worker.ts';
import { createBatchSender } from './batch-sender.ts';
import type { RelayMetrics } from './batch-sender.ts';
import { withDeadline } from './deadline.ts';
import { createLease } from './lease.ts';
import type { Lease } from './lease.ts';
import type { Publisher, TopicLimits } from './outbox.ts';
import type { OutboxBacklog, OutboxMonitor } from './outbox-monitor.ts';
import { createOutboxStore } from './outbox-store.ts';
import { relayDefaults } from './relay-settings.ts';
import type { RelaySettings } from './relay-settings.ts';
import { createRelayTerm } from './relay-term.ts';
import type { RelayTerm } from './relay-term.ts';
import { createTopicWatch } from './topic-watch.ts';
import type { TopicWatch } from './topic-watch.ts';

export type RelayOptions = Readonly<{
  pool: Pool;
  topic: string;
  /** Without one the relay is off: events wait in the outbox for whoever else takes them. */
  publisher: Publisher | undefined;
  monitor: Pick<OutboxMonitor, 'backlog' | 'lowestId'>;
  metrics: RelayMetrics;
  log: Logger;
  settings?: Partial<RelaySettings>;
}>;

/** How the relay and its outbox are, for health and metrics. */
export type RelayStatus = OutboxBacklog &
  Readonly<{
    /** `stopped`: leads but waits for an operator; `stoppedReason` says what for. */
    mode: 'off' | 'standby' | 'leading' | 'stopped';
    epoch?: number;
    stoppedReason?: string;
    lastError?: string;
  }>;

export type Relay = Readonly<{
  /** Returns at once; Postgres and Kafka may both be away still. */
  start(): void;
  /** Says that there are new rows. */
  wake(): void;
  /** Ends the batches under way and hands the lease over; takes a bounded time and never throws. */
  stop(): Promise<void>;
  status(): RelayStatus;
}>;

/** The name under which relays of a topic agree who leads. */
export function relayLease(topic: string): string {
  return `relay ${topic}`;
}

/**
 * Publishes the outbox of one topic. Any number of processes may run one: a lease lets one lead, and
 * every leader starts at the lowest row, so that a message may come twice but never before its
 * predecessor.
 */
export function createRelay(options: RelayOptions): Relay {
  const { publisher, monitor, log, topic } = options;
  if (publisher !== undefined) return createRunningRelay({ ...options, publisher });
  return {
    start: () => log.warn({ topic }, 'no relay here: events wait in the outbox'),
    wake: () => undefined,
    stop: () => Promise.resolve(),
    status: () => ({ mode: 'off', ...monitor.backlog() }),
  };
}

type RunningRelayOptions = RelayOptions & Readonly<{ publisher: Publisher }>;

function createRunningRelay(options: RunningRelayOptions): Relay {
  const { topic, publisher, monitor, metrics, log } = options;
  const settings = { ...relayDefaults, ...options.settings };
  const store = createOutboxStore(options.pool, topic);

  const lease = createLease({
    pool: options.pool,
    name: relayLease(topic),
    ttlMs: settings.leaseTtlMs,
    pollMs: settings.leasePollMs,
    log,
    onChange: (isHeld) => {
      metrics.leaseChanged(isHeld);
      log.info(
        { topic, epoch: lease.current()?.epoch },
        isHeld ? 'relay leads' : 'relay stands by',
      );
      if (!isHeld) publisher.abort();
      topicWatch.wake();
    },
  });
  const topicWatch = createTopicWatch({
    topic,
    publisher,
    store,
    epoch: () => lease.current()?.epoch,
    checkMs: settings.topicCheckMs,
    backoff: settings.backoff,
    batchBytesMax: settings.batchBytesMax,
    log,
    onReady: () => rounds.wake(),
  });
  const rounds = createRounds({ ...options, settings, store, lease, topicWatch });

  return {
    start: () => {
      for (const part of [lease, topicWatch, rounds]) part.start();
    },
    wake: rounds.wake,
    stop: async () => {
      const stopped = stopInOrder({ rounds, topicWatch, lease, publisher }).catch(
        (error: unknown) => log.warn({ topic, err: error }, 'relay stopped, not quite in order'),
      );
      await withDeadline(stopped, settings.stopMs, () => {
        publisher.abort();
        log.warn({ topic }, 'relay did not stop in time; its lease runs out by itself');
      });
    },
    status: () => statusOf({ lease, topicWatch, rounds, backlog: monitor.backlog() }),
  };
}

type RoundsOptions = RunningRelayOptions &
  Readonly<{
    settings: RelaySettings;
    store: ReturnType<typeof createOutboxStore>;
    lease: Lease;
    topicWatch: TopicWatch;
  }>;

/** Rounds while this process leads and the topic is open; a new term for every epoch. */
function createRounds(options: RoundsOptions) {
  const { topic, publisher, monitor, settings, store, lease, topicWatch, metrics, log } = options;
  let current: Readonly<{ epoch: number; limits: TopicLimits; term: RelayTerm }> | undefined;
  let lastError: string | undefined;

  const maySend = (epoch: number) => {
    const held = lease.current();
    return held?.epoch === epoch && held.remainingMs > settings.sendTimeoutMs;
  };

  const createTerm = (epoch: number, limits: TopicLimits) => {
    const send = createBatchSender({
      topic,
      lease: relayLease(topic),
      epoch,
      sendTimeoutMs: settings.sendTimeoutMs,
      store,
      publisher,
      maySend: () => maySend(epoch),
      metrics,
      log,
    });
    return createRelayTerm({ limits, settings, store, send, lowestId: monitor.lowestId, log });
  };

  const round = async (signal: AbortSignal): Promise<number> => {
    const epoch = lease.current()?.epoch;
    const limits = epoch === undefined ? undefined : topicWatch.limits(epoch);
    if (epoch === undefined || limits === undefined || !maySend(epoch)) return 0;
    if (current?.epoch !== epoch || current.limits !== limits) {
      await current?.term.drain(settings.sendTimeoutMs);
      current = { epoch, limits, term: createTerm(epoch, limits) };
    }
    return current.term.round(signal);
  };

  const worker = createWorker({
    name: `relay ${topic}`,
    tick: round,
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
      await current?.term.drain(settings.stopMs / 2).catch((error: unknown) => {
        log.warn({ err: error }, 'acknowledged events stay in the outbox and will be sent again');
      });
    },
    lastError: () => current?.term.failure() ?? lastError,
  };
}

type Parts = Readonly<{
  lease: Lease;
  topicWatch: TopicWatch;
  rounds: ReturnType<typeof createRounds>;
}>;

/** The lease goes last, when nothing of ours is under way any more. */
async function stopInOrder(parts: Parts & Readonly<{ publisher: Publisher }>): Promise<void> {
  const { lease, topicWatch, rounds, publisher } = parts;
  await rounds.stop();
  await publisher.close();
  await Promise.all([topicWatch.stop(), lease.stop()]);
}

function statusOf({
  lease,
  topicWatch,
  rounds,
  backlog,
}: Parts & Readonly<{ backlog: OutboxBacklog }>): RelayStatus {
  const epoch = lease.current()?.epoch;
  const lastError = topicWatch.lastError() ?? rounds.lastError();
  const stoppedReason = topicWatch.stoppedReason();
  if (epoch === undefined) return { mode: 'standby', ...backlog };
  return {
    mode: stoppedReason === undefined ? 'leading' : 'stopped',
    epoch,
    ...(stoppedReason !== undefined && { stoppedReason }),
    ...(lastError !== undefined && { lastError }),
    ...backlog,
  };
}
