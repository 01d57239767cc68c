import { Counter } from '@prometheus-io/client';
import type { Pool } from 'pg';
import type { Database } from './database/database.ts';
import { oldestTransactionAgeSeconds } from './database/database.ts';
import { watchPoolTimeouts } from './database/session-pool.ts';
import type { Unit, UnitStore } from './event-store/event-store.ts';
import type { GroupCommit } from './event-store/group-commit.ts';
import type { Metrics } from './http/metrics.ts';
import { NO_BACKLOG } from './outbox/outbox-monitor.ts';
import type { OutboxBacklog, OutboxMonitor } from './outbox/outbox-monitor.ts';
import type { Relay } from './outbox/relay.ts';
import type { SagaRunnerEvents } from './sagas/saga-run.ts';
import { countLiveSagas, oldestLiveAgeSeconds } from './sagas/saga-store.ts';

/** Counts the events of each stream that a command is decided on. */
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

/** What the sagas count. */
export function sagaMetrics(metrics: Metrics): SagaRunnerEvents {
  return {
    called: (saga, step, outcome, durationMs) =>
      metrics.sagaStepSeconds.observe({ saga, step, outcome }, durationMs / 1000),
  };
}

/** Shows at each scrape how many log lines were lost since the process started. */
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
  outbox: Pick<OutboxMonitor, 'backlogs'>;
  /** Shown even while it has no rows. */
  topic: string;
  /** Names of saga definitions, shown even while no saga of theirs is alive. */
  sagas: readonly string[];
  database: Database;
}>;

/** ReadPool the queue, the outbox, the sagas and the pools at each scrape. */
export function watchGauges(metrics: Metrics, watched: Watched): void {
  const { commit, relay } = watched;
  metrics.watch(
    { name: 'orders_command_queue_length', help: 'Commands that wait for a commit.' },
    commit.waiting,
  );
  metrics.watch(
    {
      name: 'orders_lease_held',
      help: '1 while this process holds the lease.',
      labelNames: ['lease'],
    },
    () => {
      const { mode } = relay.status();
      return { relay: mode === 'leading' || mode === 'stopped' ? 1 : 0 };
    },
  );
  watchDatabase(metrics, watched);
  watchOutbox(metrics, watched);
  watchPools(metrics, watched.database);
}

function watchDatabase(
  metrics: Metrics,
  { database, sagas }: Pick<Watched, 'database' | 'sagas'>,
): void {
  const { pool, givenUpSessions } = database;
  const inTurn = createTurns();
  metrics.watch(
    {
      name: 'orders_db_oldest_transaction_age_seconds',
      help: 'Age of the oldest transaction in the database.',
    },
    () => inTurn(() => oldestTransactionAgeSeconds(pool)),
  );
  metrics.watch(
    {
      name: 'orders_saga_oldest_nonterminal_age_seconds',
      help: 'Age of the oldest saga that has not ended.',
    },
    () => inTurn(() => oldestLiveAgeSeconds(pool)),
  );
  metrics.watch(
    {
      name: 'orders_saga_instances',
      help: 'Sagas that have not ended.',
      labelNames: ['saga', 'state'],
    },
    () => inTurn(() => countLiveSagas(pool, sagas)),
  );
  metrics.watch(
    {
      name: 'orders_db_sessions_given_up',
      help: 'Database sessions that the service gave up waiting for and Postgres still works on.',
    },
    givenUpSessions,
  );
}

/** Runs reads one after the other, so that a scrape takes one connection at most. */
function createTurns() {
  let previous: Promise<unknown> = Promise.resolve();
  return <T>(ask: () => Promise<T>): Promise<T> => {
    const asked = previous.then(ask, ask);
    previous = asked;
    return asked;
  };
}

function watchOutbox(metrics: Metrics, { outbox, topic }: Pick<Watched, 'outbox' | 'topic'>): void {
  const perTopic = (name: string, help: string, read: (of: OutboxBacklog) => number) =>
    metrics.watch({ name, help, labelNames: ['topic'] }, () => ({
      [topic]: read(NO_BACKLOG),
      ...Object.fromEntries([...outbox.backlogs()].map(([of, backlog]) => [of, read(backlog)])),
    }));
  perTopic(
    'orders_outbox_pending',
    'Events that Kafka has not acknowledged.',
    ({ pendingRows }) => pendingRows,
  );
  perTopic(
    'orders_outbox_oldest_age_seconds',
    'Age of the oldest pending event that is not parked.',
    ({ oldestAgeSeconds }) => oldestAgeSeconds,
  );
  perTopic(
    'orders_outbox_parked',
    'Keys that wait for an operator.',
    ({ parkedKeys }) => parkedKeys,
  );
  perTopic(
    'orders_outbox_oldest_parked_age_seconds',
    'How long the first parked key has waited.',
    ({ oldestParkedAgeSeconds }) => oldestParkedAgeSeconds,
  );
}

function watchPools(metrics: Metrics, { writer, pool, writes, reads }: Database): void {
  const pools = { writer, background: pool, writes, reads: reads.pool };
  for (const [name, of] of Object.entries(pools)) {
    watchPoolTimeouts(of, () => metrics.poolTimeouts.inc({ pool: name }));
  }
  const perPool = (name: string, help: string, read: (of: Pool) => number) =>
    metrics.watch({ name, help, labelNames: ['pool'] }, () =>
      Object.fromEntries(Object.entries(pools).map(([label, of]) => [label, read(of)])),
    );
  perPool(
    'orders_db_pool_in_use',
    'Connections in use.',
    ({ totalCount, idleCount }) => totalCount - idleCount,
  );
  perPool(
    'orders_db_pool_idle',
    'Connections that are open and free.',
    ({ idleCount }) => idleCount,
  );
  perPool(
    'orders_db_pool_waiting',
    'Callers that wait for a connection.',
    ({ waitingCount }) => waitingCount,
  );
}
