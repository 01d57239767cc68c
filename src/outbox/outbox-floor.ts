import type { Pool } from 'pg';

/** Ids that one statement of a check steps over at first, and the time that makes a step a slow one. */
const STEP_IDS = 10_000;
const SLOW_STEP_MS = 20;

/** Where reads of the outbox may start. It saves time; nothing may depend on its being right. */
export type OutboxFloor = Readonly<{
  /** As far as is known, no row is below it. */
  lowestId(): number;
  /** Raises it, when every transaction has ended that was inserting at the call before or earlier. */
  advance(): Promise<void>;
  /**
   * Looks whether there are rows below it all the same, and lowers it to the first of them.
   * @returns whether there were any
   */
  check(): Promise<boolean>;
}>;

/** An id, and the transactions that may have drawn it or a lower one and not committed yet. */
type Mark = Readonly<{ lastId: number; writers: ReadonlySet<string> }>;

/** A transaction loses its name when it is prepared, so any of these may be one that was marked. */
const PREPARED = 'prepared';

/**
 * Rows that are deleted but still visible to some long transaction (a backup, a report) have to be
 * stepped over by every read from the start: 200,000 of them took 100 ms. Reading on from the last id
 * seen instead would lose what commits late. So ids are passed over only when they are surely settled.
 * A transaction that inserts holds the table's lock for that from before it draws an id until what it
 * committed is visible. So a mark notes the last id and then who holds the lock, and once none of them
 * does any more, every id up to the mark is visible or never will be.
 *
 * All this holds while ids only grow, and the sequence may go back: by `setval`, by a switch-over to a
 * database that got the rows without it, by a crash before ids that were drawn were on disk. So the floor
 * is checked against the rows themselves, again and again. Until the check a row below it is late, and so
 * are later versions of its key (`outbox_waiting`), but none is lost or overtaken.
 */
export function createOutboxFloor(pool: Pool): OutboxFloor {
  let lowestId = 0;
  let mark: Mark | undefined;
  return {
    lowestId: () => lowestId,
    // Statements of their own, in this order, and none earlier than the mark that it is held against.
    advance: async () => {
      const before = mark;
      const lastId = await lastIdDrawn(pool);
      const writers = await writersNow(pool);
      if (before !== undefined) {
        if (writers.has(PREPARED) || !writers.isDisjointFrom(before.writers)) return;
        const lowest = await lowestIdWithin(pool, lowestId, before.lastId);
        lowestId = Math.max(lowestId, lowest ?? before.lastId);
      }
      mark = { lastId, writers };
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

async function lastIdDrawn(pool: Pool): Promise<number> {
  const { rows } = await pool.query<Readonly<{ lastId: number }>>(
    'select last_value as "lastId" from outbox_events_id_seq',
  );
  if (rows[0] === undefined) throw new Error('the outbox has no sequence');
  return rows[0].lastId;
}

async function writersNow(pool: Pool): Promise<ReadonlySet<string>> {
  const { rows } = await pool.query<Readonly<{ writer: string }>>(
    `select case when pid is null then $1 else virtualtransaction end as writer
     from pg_locks
     where database = (select oid from pg_database where datname = current_database())
       and relation = 'outbox_events'::regclass and mode = 'RowExclusiveLock'`,
    [PREPARED],
  );
  return new Set(rows.map(({ writer }) => writer));
}

/**
 * Downwards, in steps that grow while they are quick. One statement from the start would run into its
 * time limit where millions of rows died that some transaction still sees; those are right below the
 * floor, and what is below them was vacuumed and takes no time.
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
