import type { Pool } from 'pg';
import type { Logger } from 'pino';
import { createWorker } from '#src/workers/worker.ts';
import { createOutboxFloor } from './outbox-floor.ts';

/** A count takes at most this share of the time, however large the table is. */
const COUNTING_SHARE = 0.05;
/** Rows that one statement counts; 50,000 took 0.1 to 0.3 s, so even a slow disk is no time-out. */
const STEP_ROWS = 50_000;
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
  options: Readonly<{
    pool: Pool;
    rowsMax: number;
    log: Logger;
    refreshMs?: number;
    stepRows?: number;
  }>,
): OutboxMonitor {
  const { pool, rowsMax, log, refreshMs = 1_000, stepRows = STEP_ROWS } = options;
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
    const fromId = floor.lowestId();
    const pendingRows = await countRows(pool, fromId, rowsMax + 1, stepRows);
    seen = { pendingRows, ...(await agesOf(pool, fromId)) };
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

type Step = Readonly<{ count: number; lastId: number | null }>;

/**
 * Counts up to `rowsMax`. In steps: one statement for a million rows took 4 to 6 s, so it ran into the
 * time limit when there was most to count. What commits or goes away between two steps may be missed.
 */
async function countRows(
  pool: Pool,
  fromId: number,
  rowsMax: number,
  stepRows: number,
): Promise<number> {
  let counted = 0;
  let from = fromId;
  while (counted < rowsMax) {
    const limit = Math.min(stepRows, rowsMax - counted);
    const { rows } = await pool.query<Step>(
      `select count(*) as count, max(id) as "lastId"
       from (select id from outbox_events where id >= $1 order by id limit $2) as step`,
      [from, limit],
    );
    const [step] = rows;
    counted += step?.count ?? 0;
    if (!step?.lastId || step.count < limit) break;
    from = step.lastId + 1;
  }
  return counted;
}

type Ages = Omit<OutboxBacklog, 'pendingRows'>;

async function agesOf(pool: Pool, fromId: number): Promise<Ages> {
  const { rows } = await pool.query<Ages>(
    `select
       coalesce((
         select greatest(0, extract(epoch from clock_timestamp() - o.created_at))::float8
         from outbox_events o
         where o.id >= $1 and not exists (
           select from outbox_parked p where p.topic = o.topic and p.message_key = o.message_key
         )
         order by o.id limit 1
       ), 0) as "oldestAgeSeconds",
       count(*)::integer as "parkedKeys",
       coalesce(
         extract(epoch from clock_timestamp() - min(parked_at)), 0
       )::float8 as "oldestParkedAgeSeconds"
     from outbox_parked`,
    [fromId],
  );
  const [ages] = rows;
  if (ages === undefined) throw new Error('no answer to a count');
  return ages;
}
