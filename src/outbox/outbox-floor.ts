import type { Pool } from 'pg';

/** Ids that the first statement of a check covers. The steps grow until one is slow. */
const STEP_IDS = 10_000;
const SLOW_STEP_MS = 20;

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
