import type { Database } from './database/database.ts';
import type { Unit } from './event-store/event-store.ts';
import type { GroupCommit } from './event-store/group-commit.ts';
import type { Metrics } from './http/metrics.ts';
import type { RelayMetrics } from './outbox/batch-sender.ts';
import type { Relay } from './outbox/relay.ts';
import type { SagaRunnerEvents } from './sagas/saga-runner.ts';
import { countLiveSagas, oldestLiveAgeSeconds } from './sagas/saga-work.ts';

const RELAY_LEASE = 'relay';

/** What the relay counts, in the names of the metrics. */
export function relayMetrics(metrics: Metrics): RelayMetrics {
  return {
    published: metrics.countPublished,
    publishFailed: metrics.countPublishError,
    leaseChanged: () => metrics.countLeaseTransition(RELAY_LEASE),
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
  database: Database;
}>;

/** Lets each scrape read how long the queue, the outbox and the pools are. */
export function watchGauges(metrics: Metrics, { commit, relay, database }: Watched): void {
  const { writer, pool, reads } = database;
  const perPool = (read: (of: typeof writer) => number) => () => ({
    writer: read(writer),
    background: read(pool),
    reads: read(reads.pool),
  });
  metrics.watch('orders_command_queue_length', commit.waiting);
  metrics.watchEach('orders_saga_instances', () => countLiveSagas(pool));
  metrics.watch('orders_saga_oldest_nonterminal_age_seconds', () => oldestLiveAgeSeconds(pool));
  metrics.watch('orders_outbox_pending', () => relay.status().pendingRows);
  metrics.watch('orders_outbox_oldest_age_seconds', () => relay.status().oldestAgeSeconds);
  metrics.watch('orders_outbox_parked', () => relay.status().parkedKeys);
  metrics.watch(
    'orders_outbox_oldest_parked_age_seconds',
    () => relay.status().oldestParkedAgeSeconds,
  );
  metrics.watchEach('orders_lease_held', () => {
    const { mode } = relay.status();
    return { [RELAY_LEASE]: mode === 'leading' || mode === 'stopped' ? 1 : 0 };
  });
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
