import type { Pool } from 'pg';
import type { Logger } from 'pino';
import { createWorker } from '#src/workers/worker.ts';
import { createOutboxFloor } from './outbox-floor.ts';

/** A look over the whole table takes at most this share of the time, however large it is. */
const LOOKING_SHARE = 0.05;
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

export const NO_BACKLOG: OutboxBacklog = {
  pendingRows: 0,
  oldestAgeSeconds: 0,
  parkedKeys: 0,
  oldestParkedAgeSeconds: 0,
};

export type OutboxMonitor = Readonly<{
  start(): void;
  stop(): Promise<void>;
  /** Looks now. */
  refresh(): Promise<void>;
  backlog(): OutboxBacklog;
  /** The same for each topic that has rows or parked keys. */
  backlogs(): ReadonlyMap<string, OutboxBacklog>;
  /** Where a read may start: as far as is known, no row of the outbox is below it. */
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
  let byTopic: ReadonlyMap<string, OutboxBacklog> = new Map();
  let seen = NO_BACKLOG;
  const floor = createOutboxFloor(pool);

  const count = inItsShare(async () => {
    const rows = await countRows(pool, floor.lowestId(), rowsMax + 1, stepRows);
    byTopic = await backlogsOf(pool, rows);
    seen = [...byTopic.values()].reduce(together, NO_BACKLOG);
  });
  const checkFloor = inItsShare(async () => {
    const before = floor.lowestId();
    if (!(await floor.check())) return;
    const readFrom = { before, now: floor.lowestId() };
    log.warn({ readFrom }, 'ids of the outbox went back: reading it from lower down');
  });

  const worker = createWorker({
    name: 'outbox monitor',
    tick: async () => {
      await floor.advance(); // never rests: relays read from it, over all that died since
      await checkFloor.unlessResting();
      await count.unlessResting();
      return 0;
    },
    idleMs: refreshMs,
    errorBackoff: BACKOFF,
    log,
  });

  return {
    start: worker.start,
    stop: worker.stop,
    refresh: async () => {
      await floor.advance();
      await checkFloor.now();
      await count.now();
    },
    backlog: () => seen,
    backlogs: () => byTopic,
    lowestId: floor.lowestId,
    isFull: () => seen.pendingRows > rowsMax,
  };
}

/** Work that rests for as long after each run that it takes no more than its share of the time. */
function inItsShare(work: () => Promise<void>) {
  let restsUntilMs = 0;
  const now = async () => {
    const startedAtMs = performance.now();
    await work();
    const endedAtMs = performance.now();
    restsUntilMs = endedAtMs + (endedAtMs - startedAtMs) / LOOKING_SHARE;
  };
  return {
    now,
    unlessResting: async () => {
      if (performance.now() >= restsUntilMs) await now();
    },
  };
}

function together(one: OutboxBacklog, other: OutboxBacklog): OutboxBacklog {
  return {
    pendingRows: one.pendingRows + other.pendingRows,
    oldestAgeSeconds: Math.max(one.oldestAgeSeconds, other.oldestAgeSeconds),
    parkedKeys: one.parkedKeys + other.parkedKeys,
    oldestParkedAgeSeconds: Math.max(one.oldestParkedAgeSeconds, other.oldestParkedAgeSeconds),
  };
}

/** The rows of each topic, and the lowest id among them. */
type Rows = Map<string, Readonly<{ count: number; lowestId: number }>>;
type StepRow = Readonly<{ topic: string; count: number; lowestId: number; lastId: number }>;

/**
 * Counts up to `rowsMax`. In steps: one statement for a million rows took 4 to 6 s, so it ran into the
 * time limit when there was most to count. What commits or goes away between two steps may be missed.
 */
async function countRows(
  pool: Pool,
  fromId: number,
  rowsMax: number,
  stepRows: number,
): Promise<Rows> {
  const counted: Rows = new Map();
  let left = rowsMax;
  let from = fromId;
  while (left > 0) {
    const limit = Math.min(stepRows, left);
    const { rows } = await pool.query<StepRow>(
      `select topic, count, lowest_id as "lowestId", last_id as "lastId"
       from outbox_count($1, $2)`,
      [from, limit],
    );
    for (const { topic, count, lowestId } of rows) {
      const { count: before, lowestId: lowest } = counted.get(topic) ?? { count: 0, lowestId };
      counted.set(topic, { count: before + count, lowestId: lowest });
    }
    const inStep = rows.reduce((sum, { count }) => sum + count, 0);
    if (inStep < limit) break;
    left -= inStep;
    from = Math.max(...rows.map(({ lastId }) => lastId)) + 1;
  }
  return counted;
}

/** Looks for the oldest of a topic from its lowest row on, not among all that is before it. */
async function backlogsOf(pool: Pool, counted: Rows): Promise<Map<string, OutboxBacklog>> {
  const { rows } = await pool.query<Omit<OutboxBacklog, 'pendingRows'> & { topic: string }>(
    `select topic,
       coalesce((
         select greatest(0, extract(epoch from clock_timestamp() - o.created_at))::float8
         from outbox_events o
         where o.id >= waiting.lowest_id and o.topic = waiting.topic and not exists (
           select from outbox_parked p where p.topic = o.topic and p.message_key = o.message_key
         )
         order by o.id limit 1
       ), 0) as "oldestAgeSeconds",
       coalesce(parked.keys, 0) as "parkedKeys", coalesce(parked.age, 0) as "oldestParkedAgeSeconds"
     from unnest($1::text[], $2::bigint[]) as waiting (topic, lowest_id)
     full join (
       select topic, count(*)::integer as keys,
         extract(epoch from clock_timestamp() - min(parked_at))::float8 as age
       from outbox_parked group by topic
     ) as parked using (topic)`,
    [[...counted.keys()], [...counted.values()].map(({ lowestId }) => lowestId)],
  );
  return new Map(
    rows.map(({ topic, ...ages }) => [
      topic,
      { pendingRows: counted.get(topic)?.count ?? 0, ...ages },
    ]),
  );
}
