import type { Pool } from 'pg';
import type { Logger } from 'pino';

/**
 * The time of the database, without a query each time. It does not depend on the clock of this process, so all
 * replicas agree on it.
 */
export type DatabaseClock = Readonly<{
  /** @throws Error if the clock was never read */
  now(): Date;
  /** Reads the clock. Until the next time, the monotonic clock of this process continues it. */
  refresh(): Promise<void>;
  /** Reads the clock if it was never read. */
  ready(): Promise<void>;
}>;

export function createDatabaseClock(pool: Pool): DatabaseClock {
  let read: Readonly<{ databaseMs: number; monotonicMs: number }> | undefined;
  const refresh = async () => {
    const sentAt = performance.now();
    const { rows } = await pool.query<{ ms: number }>({
      name: 'database_clock',
      text: 'select (extract(epoch from clock_timestamp()) * 1000)::float8 as ms',
    });
    const [row] = rows;
    if (!row) throw new Error('the query of the clock returned no row');
    read = { databaseMs: row.ms, monotonicMs: (sentAt + performance.now()) / 2 };
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

/** A clock for tests. */
export function steeredClock(now: () => Date): DatabaseClock {
  return { now, refresh: async () => {}, ready: async () => {} };
}

/** Much more than a slow query or synchronised clocks can make of it. */
const OFFSET_MS_MAX = 30_000;

/** Compares the clock of this process with the clock of the database. */
export type ClockWatch = Readonly<{
  /** How far this process is ahead; 0 until the clock of the database was read. */
  offsetMs(): number;
  /** Whether the clocks differ by more than 30 s. If so, nothing may be recorded. */
  isOff(): boolean;
  /** Reads the clock of the database. */
  refresh(): Promise<void>;
}>;

/** Logs when the clock goes wrong and when it is right again. */
export function createClockWatch(
  clock: DatabaseClock,
  now: () => Date,
  log: Pick<Logger, 'error' | 'info'>,
): ClockWatch {
  let isRead = false;
  let wasOff = false;
  const offsetMs = () => {
    if (!isRead) return 0;
    // This process may have to wait for the processor between two clocks. So the first is read again.
    const earliest = clock.now().getTime();
    const own = now().getTime();
    const latest = clock.now().getTime();
    return Math.min(own - earliest, 0) + Math.max(own - latest, 0);
  };
  const isOff = () => {
    const offset = offsetMs();
    const off = Math.abs(offset) > OFFSET_MS_MAX;
    if (off === wasOff) return off;
    wasOff = off;
    if (off) {
      log.error(
        { offsetMs: offset },
        'the clock is far off that of the database: writing no events',
      );
    } else {
      log.info({ offsetMs: offset }, 'the clock is right again');
    }
    return off;
  };
  return {
    offsetMs,
    isOff,
    refresh: async () => {
      await clock.refresh();
      isRead = true;
      isOff();
    },
  };
}
