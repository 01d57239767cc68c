import type { Pool } from 'pg';

/** Knows an id below which no row of the outbox is left, nor can ever appear. */
export type OutboxFloor = Readonly<{
  lowestId(): number;
  /** Raises it, when every transaction has ended that was inserting at the call before or earlier. */
  advance(): Promise<void>;
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
        lowestId = await lowestIdLeft(pool, lowestId, before.lastId);
      }
      mark = { lastId, writers };
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

async function lowestIdLeft(pool: Pool, fromId: number, lastId: number): Promise<number> {
  const { rows } = await pool.query<Readonly<{ id: number }>>(
    'select id from outbox_events where id between $1 and $2 order by id limit 1',
    [fromId, lastId],
  );
  return rows[0]?.id ?? lastId;
}
