import type { Pool } from 'pg';

/**
 * What the database's clock says, told without asking each time. This process's own clock has no part in
 * it, so that all replicas agree whatever theirs say.
 */
export type DatabaseClock = Readonly<{
  /** @throws Error where the database was never asked */
  now(): Date;
  /** Asks the database; between two times what has passed is counted on the monotonic clock. */
  refresh(): Promise<void>;
  /** Asks the database unless it was asked before. */
  ready(): Promise<void>;
}>;

export function createDatabaseClock(pool: Pool): DatabaseClock {
  let read: Readonly<{ databaseMs: number; monotonicMs: number }> | undefined;
  const refresh = async () => {
    const askedAt = performance.now();
    const { rows } = await pool.query<{ ms: number }>({
      name: 'database_clock',
      text: 'select (extract(epoch from clock_timestamp()) * 1000)::float8 as ms',
    });
    const [row] = rows;
    if (!row) throw new Error('the database did not say what time it is');
    read = { databaseMs: row.ms, monotonicMs: (askedAt + performance.now()) / 2 };
  };
  return {
    now: () => {
      if (!read) throw new Error('the clock of the database was never read');
      return new Date(read.databaseMs + performance.now() - read.monotonicMs);
    },
    refresh,
    ready: async () => {
      if (!read) await refresh();
    },
  };
}

/** A clock that a test steers. */
export function steeredClock(now: () => Date): DatabaseClock {
  return { now, refresh: nothingToAsk, ready: nothingToAsk };
}

function nothingToAsk(): Promise<void> {
  return Promise.resolve();
}
