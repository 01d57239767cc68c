import type { Pool } from 'pg';
import type { Logger } from 'pino';
import { createWorker } from '#src/workers/worker.ts';
import { createOutboxFloor } from './outbox-floor.ts';

/** A count takes at most this share of the time, however large the table is. */
const COUNTING_SHARE = 0.05;
const BACKOFF = { baseMs: 500, maxMs: 5_000 };

/** What waits in the outbox, as of the last look. */
export type OutboxBacklog = Readonly<{
  /** Counted up to the bound of the outbox plus one. */
  pendingRows: number;
  /** Age of the oldest event that nothing holds back, in seconds; 0 when there is none. */
  oldestAgeSeconds: number;
  parkedKeys: number;
  oldestParkedAgeSeconds: number;
}>;

export type OutboxMonitor = Readonly<{
  start(): void;
  stop(): Promise<void>;
  /** Looks now. */
  refresh(): Promise<void>;
  backlog(): OutboxBacklog;
  /** No row of the outbox is below it; where a read may start. */
  lowestId(): number;
  /** Whether the outbox held more rows than it may at the last look; cheap, for the write path. */
  isFull(): boolean;
}>;

/** Watches the outbox in every process, leading or not, relay on or off. */
export function createOutboxMonitor(
  options: Readonly<{ pool: Pool; rowsMax: number; log: Logger; refreshMs?: number }>,
): OutboxMonitor {
  const { pool, rowsMax, log, refreshMs = 1_000 } = options;
  let seen: OutboxBacklog = {
    pendingRows: 0,
    oldestAgeSeconds: 0,
    parkedKeys: 0,
    oldestParkedAgeSeconds: 0,
  };
  const floor = createOutboxFloor(pool);
  let restsUntilMs = 0;

  const refresh = async () => {
    const startedAtMs = performance.now();
    await floor.advance();
    seen = await backlogOf(pool, rowsMax + 1, floor.lowestId());
    const endedAtMs = performance.now();
    restsUntilMs = endedAtMs + (endedAtMs - startedAtMs) / COUNTING_SHARE;
  };

  const worker = createWorker({
    name: 'outbox monitor',
    tick: async () => {
      if (performance.now() >= restsUntilMs) await refresh();
      return 0;
    },
    idleMs: refreshMs,
    errorBackoff: BACKOFF,
    log,
  });

  return {
    start: worker.start,
    stop: worker.stop,
    refresh,
    backlog: () => seen,
    lowestId: floor.lowestId,
    isFull: () => seen.pendingRows > rowsMax,
  };
}

async function backlogOf(pool: Pool, rowsMax: number, fromId: number): Promise<OutboxBacklog> {
  const { rows } = await pool.query<OutboxBacklog>(
    `select
       (select count(*)::integer from (select from outbox_events where id >= $2 limit $1) bounded) as "pendingRows",
       coalesce((
         select greatest(0, extract(epoch from clock_timestamp() - o.created_at))::float8
         from outbox_events o
         where o.id >= $2 and not exists (
           select from outbox_parked p where p.topic = o.topic and p.message_key = o.message_key
         )
         order by o.id limit 1
       ), 0) as "oldestAgeSeconds",
       count(*)::integer as "parkedKeys",
       coalesce(
         extract(epoch from clock_timestamp() - min(parked_at)), 0
       )::float8 as "oldestParkedAgeSeconds"
     from outbox_parked`,
    [rowsMax, fromId],
  );
  const [backlog] = rows;
  if (backlog === undefined) throw new Error('no answer to a count');
  return backlog;
}
