import type { Pool } from 'pg';

/** Knows an id below which no row of the outbox is left, nor can ever appear. */
export type OutboxFloor = Readonly<{
  lowestId(): number;
  /** Raises it, when every transaction has ended that was under way at the last call or before. */
  advance(): Promise<void>;
}>;

type Mark = Readonly<{ lastId: number; transaction: string }>;

/**
 * Rows that are deleted but still visible to some long transaction (a backup, a report) have to be
 * stepped over by every read from the start: 200,000 of them took 100 ms. Reading on from the last id
 * seen instead would lose what commits late. So ids are passed over only when they are surely settled: a
 * mark is set, and once no transaction from before the mark is left, every id drawn before it is visible
 * or never will be. That rests on a trigger which numbers a transaction before it draws an id.
 */
export function createOutboxFloor(pool: Pool): OutboxFloor {
  let lowestId = 0;
  let mark: Mark | undefined;
  return {
    lowestId: () => lowestId,
    advance: async () => {
      const settled = mark && (await lowestIdSince(pool, mark, lowestId));
      if (mark !== undefined && settled === undefined) return;
      lowestId = settled ?? lowestId;
      mark = await setMark(pool);
    },
  };
}

/** Two statements, in this order: the transaction's number must be younger than every id drawn. */
async function setMark(pool: Pool): Promise<Mark | undefined> {
  const ids = await pool.query<Pick<Mark, 'lastId'>>(
    'select last_value as "lastId" from outbox_events_id_seq',
  );
  const numbers = await pool.query<Pick<Mark, 'transaction'>>(
    'select pg_current_xact_id()::text as transaction',
  );
  const [id, number] = [ids.rows[0], numbers.rows[0]];
  return id && number && { ...id, ...number };
}

/** Undefined while a transaction from before the mark is under way. */
async function lowestIdSince(
  pool: Pool,
  { lastId, transaction }: Mark,
  lowestIdBefore: number,
): Promise<number | undefined> {
  const { rows } = await pool.query<Readonly<{ lowestId: number }>>(
    `select least($1, (select id from outbox_events where id >= $2 order by id limit 1))
       as "lowestId"
     where pg_snapshot_xmin(pg_current_snapshot()) > $3::xid8`,
    [lastId, lowestIdBefore, transaction],
  );
  return rows[0]?.lowestId;
}
