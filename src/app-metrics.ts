import { Counter } from '@prometheus-io/client';
import type { Pool } from 'pg';
import type { ClockWatch } from './database/clock.ts';
import type { Database } from './database/database.ts';
import { oldestTransactionAgeSeconds } from './database/database.ts';
import { watchPoolTimeouts } from './database/session-pool.ts';
import type { Unit, UnitStore } from './event-store/event-store.ts';
import type { GroupCommit } from './event-store/group-commit.ts';
import type { MakeGauge, Metrics } from './http/metrics.ts';
import { NO_BACKLOG } from './outbox/outbox-monitor.ts';
import type { OutboxBacklog, OutboxMonitor } from './outbox/outbox-monitor.ts';
import type { Relay } from './outbox/relay.ts';
import type { OnAttempt } from './sagas/saga-runner.ts';
import { countLiveSagas, oldestLiveAgeSeconds } from './sagas/saga-store.ts';

/** Observes how many events a stream has when a command loads it. */
export function countLoads(store: UnitStore, metrics: Metrics): UnitStore {
  return {
    ...store,
    load: async (streamIds, keys) => {
      const loaded = await store.load(streamIds, keys);
      for (const streamId of streamIds) {
        metrics.streamEvents.observe(loaded.stream(streamId).length);
      }
      return loaded;
    },
  };
}

/** Counts one group commit. */
export function countAppends(metrics: Metrics, units: readonly Unit[], durationMs: number): void {
  metrics.appendUnits.observe(units.length);
  metrics.appendSeconds.observe(durationMs / 1000);
  for (const { appends } of units) {
    for (const { events } of appends) {
      for (const { type } of events) metrics.appendedEvents.inc({ event_type: type });
    }
  }
}

/** Counts the attempts of sagas at their steps. */
export function countAttempts(metrics: Metrics): OnAttempt {
  return (saga, step, outcome, durationMs) =>
    metrics.sagaStepSeconds.observe({ saga, step, outcome }, durationMs / 1000);
}

/** Adds the counter of lost log lines, which is read at each scrape. */
export function countLostLogLines({ registry }: Metrics, read: () => number): void {
  const lost: Counter = new Counter({
    name: 'orders_log_lines_lost_total',
    help: 'Log lines that could not be written: the disk is full, or nobody reads the pipe.',
    registers: [registry],
    collect: () => {
      lost.reset();
      lost.inc(read());
    },
  });
}

type Watched = Readonly<{
  commit: Pick<GroupCommit, 'waiting'>;
  relay: Pick<Relay, 'status'>;
  outboxMonitor: Pick<OutboxMonitor, 'backlogs'>;
  clockWatch: Pick<ClockWatch, 'offsetMs'>;
  /** Shown even while it has no rows. */
  topic: string;
  /** Names of saga definitions, shown even while no saga of theirs is alive. */
  sagas: readonly string[];
  database: Database;
}>;

/** Adds the gauges, which are read at each scrape. */
export function watchGauges(metrics: Metrics, watched: Watched): void {
  const { gauge } = metrics;
  const { commit, relay, clockWatch, database } = watched;
  gauge('orders_command_queue_length', 'Commands that wait for a commit.', commit.waiting);
  gauge(
    'orders_clock_offset_seconds',
    'How far the clock of this process is ahead of the clock of the database.',
    () => clockWatch.offsetMs() / 1000,
  );
  gauge(
    'orders_lease_held',
    '1 while this process holds the lease.',
    () => ({ relay: ['leading', 'stopped'].includes(relay.status().mode) ? 1 : 0 }),
    ['lease'],
  );
  watchDatabase(gauge, watched);
  watchOutbox(gauge, watched);
  watchPools(gauge, metrics, database);
}

function watchDatabase(gauge: MakeGauge, { database, sagas }: Watched): void {
  const { pool, givenUpSessions } = database;
  const inTurn = createTurns();
  gauge(
    'orders_db_oldest_transaction_age_seconds',
    'Age of the oldest transaction in the database.',
    () => inTurn(() => oldestTransactionAgeSeconds(pool)),
  );
  gauge(
    'orders_saga_oldest_nonterminal_age_seconds',
    'Age of the oldest saga that has not ended.',
    () => inTurn(() => oldestLiveAgeSeconds(pool)),
  );
  gauge(
    'orders_saga_instances',
    'Sagas that have not ended.',
    () => inTurn(() => countLiveSagas(pool, sagas)),
    ['saga', 'state'],
  );
  gauge(
    'orders_db_sessions_given_up',
    'Database sessions that the service gave up waiting for and Postgres still works on.',
    givenUpSessions,
  );
}

/** Runs reads one after the other, so that a scrape takes one connection at most. */
function createTurns() {
  let previous: Promise<unknown> = Promise.resolve();
  return <T>(read: () => Promise<T>): Promise<T> => {
    const reading = previous.then(read, read);
    previous = reading;
    return reading;
  };
}

function watchOutbox(gauge: MakeGauge, { outboxMonitor, topic }: Watched): void {
  const perTopic = (name: string, help: string, member: keyof OutboxBacklog) =>
    gauge(
      name,
      help,
      () => {
        const backlogs = new Map([[topic, NO_BACKLOG], ...outboxMonitor.backlogs()]);
        return Object.fromEntries([...backlogs].map(([of, backlog]) => [of, backlog[member]]));
      },
      ['topic'],
    );
  perTopic('orders_outbox_pending', 'Events that Kafka has not acknowledged.', 'pendingRows');
  perTopic(
    'orders_outbox_oldest_age_seconds',
    'Age of the oldest pending event that is not parked.',
    'oldestAgeSeconds',
  );
  perTopic('orders_outbox_parked', 'Keys that wait for an operator.', 'parkedKeys');
  perTopic(
    'orders_outbox_oldest_parked_age_seconds',
    'How long the first parked key has waited.',
    'oldestParkedAgeSeconds',
  );
}

function watchPools(gauge: MakeGauge, metrics: Metrics, database: Database): void {
  const { writer, pool: background, writes, reads } = database;
  const pools = { writer, background, writes, reads: reads.pool };
  for (const [name, pool] of Object.entries(pools)) {
    watchPoolTimeouts(pool, () => metrics.poolTimeouts.inc({ pool: name }));
  }
  const perPool = (name: string, help: string, read: (pool: Pool) => number) =>
    gauge(
      name,
      help,
      () => Object.fromEntries(Object.entries(pools).map(([of, pool]) => [of, read(pool)])),
      ['pool'],
    );
  perPool(
    'orders_db_pool_in_use',
    'Connections in use.',
    (pool) => pool.totalCount - pool.idleCount,
  );
  perPool('orders_db_pool_idle', 'Connections that are open and free.', (pool) => pool.idleCount);
  perPool(
    'orders_db_pool_waiting',
    'Callers that wait for a connection.',
    (pool) => pool.waitingCount,
  );
}
