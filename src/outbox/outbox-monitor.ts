import type { Pool } from 'pg';
import type { Logger } from 'pino';
import { createWorker } from '#src/workers/worker.ts';

/** The share of time that counting, and checking the floor, may take, however large the outbox is. */
const SCAN_TIME_SHARE = 0.05;
/** Rows that one statement counts. 50,000 took 0.1 to 0.3 s, so a slow disk causes no timeout. */
const STEP_ROWS = 50_000;
/** Ids that the first statement of a check of the floor covers. The steps grow until one is slow. */
const STEP_IDS = 10_000;
const SLOW_STEP_MS = 20;
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

/**
 * Counts the outbox and keeps its floor, in every process, even where the relay is off.
 * @param options.refreshMs how often it counts, unless the outbox is so large that it takes long
 */
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

  const checkFloor = limitToShare(async () => {
    const before = floor.lowestId();
    if (!(await floor.check())) return;
    const readFrom = { before, now: floor.lowestId() };
    log.warn({ readFrom }, 'ids of the outbox went back: reading from a lower id');
  });
  const count = limitToShare(async () => {
    const rows = await countRows(pool, floor.lowestId(), rowsMax + 1, stepRows);
    byTopic = await backlogsOf(pool, rows);
    seen = [...byTopic.values()].reduce(sum, NO_BACKLOG);
  });
  const look = async (isForced: boolean) => {
    await floor.advance(); // every time: the relay's reads start at it
    await checkFloor(isForced);
    await count(isForced);
  };
  const worker = createWorker({
    name: 'outbox monitor',
    tick: () => look(false),
    idleMs: refreshMs,
    errorBackoff: BACKOFF,
    log,
  });

  return {
    start: worker.start,
    stop: worker.stop,
    refresh: () => look(true),
    backlog: () => seen,
    backlogs: () => byTopic,
    lowestId: floor.lowestId,
    isFull: () => seen.pendingRows > rowsMax,
  };
}

/** Limits work to its share of the time: unless forced, it rests in proportion to its last run. */
function limitToShare(work: () => Promise<void>) {
  let restsUntilMs = 0;
  return async (isForced: boolean): Promise<void> => {
    const startedAtMs = performance.now();
    if (!isForced && startedAtMs < restsUntilMs) return;
    await work();
    const endedAtMs = performance.now();
    restsUntilMs = endedAtMs + (endedAtMs - startedAtMs) / SCAN_TIME_SHARE;
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

/** The id at which reads of the outbox may start. It only saves time. */
export type OutboxFloor = Readonly<{
  /** As far as is known, no row has a lower id. */
  lowestId(): number;
  /** Raises the floor once all transactions have ended that were inserting at the previous call. */
  advance(): Promise<void>;
  /**
   * Looks for rows below the floor, and lowers it to the first of them.
   * @returns whether there were any
   */
  check(): Promise<boolean>;
}>;

/** The last id that was drawn, and the open transactions that may have drawn it or a lower one. */
type Mark = Readonly<{ lastId: number; writers: ReadonlySet<string> }>;

/** The transactions that are inserting into the outbox, or may be. */
const WRITERS = `
  select case when pid is null then $1 else virtualtransaction end as writer from pg_locks
  where database = (select oid from pg_database where datname = current_database())
    and relation = 'outbox_events'::regclass and mode = 'RowExclusiveLock'`;

/** A prepared transaction has no name in `pg_locks`, so any of them may be one of the mark. */
const PREPARED = 'prepared';

/**
 * A read from the start of the table is slow while a long transaction (a backup, a report) still
 * sees deleted rows: 200,000 of them took 100 ms. A read from the last id seen would lose rows that
 * commit late. So the floor rises over an id only when no open transaction can still insert at it.
 *
 * A transaction that inserts holds a lock on the table, from before it draws an id until its rows
 * are visible. A mark stores the last id that was drawn and then the transactions that hold this
 * lock. When all of them have ended, every row up to the mark's id is visible or was rolled back.
 *
 * This is true only while ids grow. The sequence can go back: by `setval`, by a switch-over to a
 * database that got the rows but not the sequence, or by a crash before the drawn ids were on disk.
 * So the floor is regularly checked against the rows. Until then a row below the floor is late, and
 * so are later versions of its key (`outbox_waiting`). No row is lost or overtaken.
 */
export function createOutboxFloor(pool: Pool): OutboxFloor {
  let lowestId = 0;
  let mark: Mark | undefined;
  return {
    lowestId: () => lowestId,
    // Two statements, in this order. Both must run after the ones that made the mark.
    advance: async () => {
      const before = mark;
      const drawn = await pool.query<Readonly<{ lastId: number }>>(
        'select last_value as "lastId" from outbox_events_id_seq',
      );
      const writing = await pool.query<Readonly<{ writer: string }>>(WRITERS, [PREPARED]);
      const writers = new Set(writing.rows.map(({ writer }) => writer));
      if (before !== undefined) {
        if (writers.has(PREPARED) || !writers.isDisjointFrom(before.writers)) return;
        const lowest = await lowestIdWithin(pool, lowestId, before.lastId);
        lowestId = Math.max(lowestId, lowest ?? before.lastId);
      }
      mark = { lastId: drawn.rows[0]?.lastId ?? 0, writers };
    },
    check: async () => {
      const lowest = await lowestIdBelow(pool, lowestId);
      if (lowest === undefined) return false;
      lowestId = lowest;
      mark = undefined;
      return true;
    },
  };
}

/**
 * Searches downwards, in steps that grow while they are fast. A single statement would run into its
 * timeout when some transaction still sees millions of deleted rows. Those are right below the
 * floor. Lower rows are vacuumed and cost no time.
 */
async function lowestIdBelow(pool: Pool, id: number): Promise<number | undefined> {
  let lowest: number | undefined;
  let stepIds = STEP_IDS;
  for (let end = id; end > 0;) {
    const startedAtMs = performance.now();
    const start = Math.max(0, end - stepIds);
    lowest = (await lowestIdWithin(pool, start, end - 1)) ?? lowest;
    stepIds = performance.now() - startedAtMs < SLOW_STEP_MS ? stepIds * 2 : STEP_IDS;
    end = start;
  }
  return lowest;
}

async function lowestIdWithin(
  pool: Pool,
  firstId: number,
  lastId: number,
): Promise<number | undefined> {
  const { rows } = await pool.query<Readonly<{ id: number }>>(
    'select id from outbox_events where id between $1 and $2 order by id limit 1',
    [firstId, lastId],
  );
  return rows[0]?.id;
}
