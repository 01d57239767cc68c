import type { Pool } from 'pg';
import type { Logger } from 'pino';
import { createWorker } from '#src/workers/worker.ts';
import { createOutboxFloor } from './outbox-floor.ts';

/** The share of time that counting, and checking the floor, may take, however large the outbox is. */
const SCAN_TIME_SHARE = 0.05;
/** Rows that one statement counts. 50,000 took 0.1 to 0.3 s, so a slow disk causes no timeout. */
const STEP_ROWS = 50_000;
const BACKOFF = { baseMs: 500, maxMs: 5_000 };

/** What waits in the outbox, as last counted. */
export type OutboxBacklog = Readonly<{
  /** Counted up to `rowsMax` + 1. */
  pendingRows: number;
  /** Age in seconds of the oldest event whose key is not parked; 0 when there is none. */
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
  /** Counts now. */
  refresh(): Promise<void>;
  backlog(): OutboxBacklog;
  /** The same for each topic that has rows or parked keys. */
  backlogs(): ReadonlyMap<string, OutboxBacklog>;
  /** The id at which a read may start: as far as is known, no row has a lower one. */
  lowestId(): number;
  /** Whether more than `rowsMax` rows were there when last counted. Cheap, for the write path. */
  isFull(): boolean;
}>;

/** Counts the outbox in every process, even where the relay is off. */
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

  const count = limitToShare(async () => {
    const rows = await countRows(pool, floor.lowestId(), rowsMax + 1, stepRows);
    byTopic = await backlogsOf(pool, rows);
    seen = [...byTopic.values()].reduce(sum, NO_BACKLOG);
  });
  const checkFloor = limitToShare(async () => {
    const before = floor.lowestId();
    if (!(await floor.check())) return;
    const readFrom = { before, now: floor.lowestId() };
    log.warn({ readFrom }, 'ids of the outbox went back: reading from a lower id');
  });

  const worker = createWorker({
    name: 'outbox monitor',
    tick: async () => {
      await floor.advance(); // every time: the relay's reads start at it
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

/** Limits work to its share of the time: it rests in proportion to how long the last run took. */
function limitToShare(work: () => Promise<void>) {
  let restsUntilMs = 0;
  const now = async () => {
    const startedAtMs = performance.now();
    await work();
    const endedAtMs = performance.now();
    restsUntilMs = endedAtMs + (endedAtMs - startedAtMs) / SCAN_TIME_SHARE;
  };
  return {
    now,
    unlessResting: async () => {
      if (performance.now() >= restsUntilMs) await now();
    },
  };
}

function sum(one: OutboxBacklog, other: OutboxBacklog): OutboxBacklog {
  return {
    pendingRows: one.pendingRows + other.pendingRows,
    oldestAgeSeconds: Math.max(one.oldestAgeSeconds, other.oldestAgeSeconds),
    parkedKeys: one.parkedKeys + other.parkedKeys,
    oldestParkedAgeSeconds: Math.max(one.oldestParkedAgeSeconds, other.oldestParkedAgeSeconds),
  };
}

/** For each topic the number of rows and the lowest id. */
type Rows = Map<string, Readonly<{ count: number; lowestId: number }>>;
type StepRow = Readonly<{ topic: string; count: number; lowestId: number; lastId: number }>;

/**
 * Counts up to `rowsMax` rows, in steps. One statement for a million rows took 4 to 6 s and ran
 * into its timeout. Rows that commit or are deleted between two steps may be missed.
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
    const inStep = rows.reduce((total, { count }) => total + count, 0);
    if (inStep < limit) break;
    left -= inStep;
    from = Math.max(...rows.map(({ lastId }) => lastId)) + 1;
  }
  return counted;
}

/** The search for the oldest event of a topic starts at the topic's lowest id. */
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
