import type { Pool } from 'pg';
import type { Database } from './database/database.ts';
import { oldestTransactionAgeSeconds } from './database/oldest-transaction.ts';
import { watchPoolTimeouts } from './database/pool-timeouts.ts';
import type { Unit, UnitStore } from './event-store/event-store.ts';
import type { GroupCommit } from './event-store/group-commit.ts';
import type { Metrics } from './http/metrics.ts';
import type { RelayMetrics } from './outbox/batch-sender.ts';
import { NO_BACKLOG } from './outbox/outbox-monitor.ts';
import type { OutboxBacklog, OutboxMonitor } from './outbox/outbox-monitor.ts';
import type { Relay } from './outbox/relay.ts';
import type { SagaRunnerEvents } from './sagas/saga-runner.ts';
import { countLiveSagas, oldestLiveAgeSeconds } from './sagas/saga-work.ts';

const RELAY_LEASE = 'relay';

/** What the relay of a topic counts, in the names of the metrics. */
export function relayMetrics(metrics: Metrics, topic: string): RelayMetrics {
  return {
    published: (messages) => metrics.countPublished(topic, messages),
    publishFailed: (kind) => metrics.countPublishError(topic, kind),
    leaseChanged: () => metrics.countLeaseTransition(RELAY_LEASE),
  };
}

/** Counts how long the streams are that commands are decided on. */
export function countLoads<Rows>(store: UnitStore<Rows>, metrics: Metrics): UnitStore<Rows> {
  return {
    ...store,
    load: async (streamIds, keys) => {
      const loaded = await store.load(streamIds, keys);
      for (const streamId of streamIds) metrics.observeStreamLoad(loaded.stream(streamId).length);
      return loaded;
    },
  };
}

/** Counts one group commit. */
export function countAppends(
  metrics: Metrics,
  units: readonly Unit<unknown>[],
  durationMs: number,
): void {
  metrics.observeAppend(units.length, durationMs / 1000);
  for (const { appends } of units) {
    for (const { events } of appends) for (const { type } of events) metrics.countEvents(type, 1);
  }
}

/** What the sagas count. */
export function sagaMetrics(metrics: Metrics): SagaRunnerEvents {
  return {
    called: (saga, step, outcome, durationMs) =>
      metrics.observeSagaStep(saga, step, outcome, durationMs / 1000),
  };
}

type Watched = Readonly<{
  commit: Pick<GroupCommit<unknown>, 'waiting'>;
  relay: Pick<Relay, 'status'>;
  outbox: Pick<OutboxMonitor, 'backlogs'>;
  /** Told even while it has no rows. */
  topic: string;
  /** Definitions of sagas, told even while none of them is alive. */
  sagas: readonly string[];
  database: Database;
}>;

/** Lets each scrape read how long the queue, the outbox and the pools are. */
export function watchGauges(metrics: Metrics, watched: Watched): void {
  const { commit, relay, sagas, database } = watched;
  const { pool } = database;
  metrics.watch('orders_command_queue_length', commit.waiting);
  const inTurn = createTurns();
  metrics.watch('orders_db_oldest_transaction_age_seconds', () =>
    inTurn(() => oldestTransactionAgeSeconds(pool)),
  );
  metrics.watch('orders_saga_oldest_nonterminal_age_seconds', () =>
    inTurn(() => oldestLiveAgeSeconds(pool)),
  );
  metrics.watchEach('orders_saga_instances', () => inTurn(() => countLiveSagas(pool, sagas)));
  metrics.watchEach('orders_lease_held', () => {
    const { mode } = relay.status();
    return { [RELAY_LEASE]: mode === 'leading' || mode === 'stopped' ? 1 : 0 };
  });
  watchOutbox(metrics, watched);
  metrics.watch('orders_db_sessions_given_up', database.givenUpSessions);
  watchPools(metrics, database);
}

/** Runs what it is given one after the other: a scrape takes one connection from the relay and the sagas. */
function createTurns() {
  let previous: Promise<unknown> = Promise.resolve();
  return <T>(ask: () => Promise<T>): Promise<T> => {
    const asked = previous.then(ask, ask);
    previous = asked;
    return asked;
  };
}

function watchOutbox(metrics: Metrics, { outbox, topic }: Pick<Watched, 'outbox' | 'topic'>): void {
  const perTopic = (read: (of: OutboxBacklog) => number) => () =>
    Object.fromEntries(
      [[topic, NO_BACKLOG] as const, ...outbox.backlogs()].map(([name, of]) => [name, read(of)]),
    );
  metrics.watchEach(
    'orders_outbox_pending',
    perTopic(({ pendingRows }) => pendingRows),
  );
  metrics.watchEach(
    'orders_outbox_oldest_age_seconds',
    perTopic(({ oldestAgeSeconds }) => oldestAgeSeconds),
  );
  metrics.watchEach(
    'orders_outbox_parked',
    perTopic(({ parkedKeys }) => parkedKeys),
  );
  metrics.watchEach(
    'orders_outbox_oldest_parked_age_seconds',
    perTopic(({ oldestParkedAgeSeconds }) => oldestParkedAgeSeconds),
  );
}

function watchPools(metrics: Metrics, { writer, pool, writes, reads }: Database): void {
  const pools = { writer, background: pool, writes, reads: reads.pool };
  for (const [name, of] of Object.entries(pools)) {
    watchPoolTimeouts(of, () => metrics.countPoolTimeout(name));
  }
  const perPool = (read: (of: Pool) => number) => () =>
    Object.fromEntries(Object.entries(pools).map(([name, of]) => [name, read(of)]));
  metrics.watchEach(
    'orders_db_pool_in_use',
    perPool(({ totalCount, idleCount }) => totalCount - idleCount),
  );
  metrics.watchEach(
    'orders_db_pool_idle',
    perPool(({ idleCount }) => idleCount),
  );
  metrics.watchEach(
    'orders_db_pool_waiting',
    perPool(({ waitingCount }) => waitingCount),
  );
}
