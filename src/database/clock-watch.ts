import type { Logger } from 'pino';
import type { DatabaseClock } from './database-clock.ts';

/** Far more than clocks that are kept in step are apart, and than a slow answer of the database can feign. */
const OFFSET_MS_MAX = 30_000;

/** How far the clock of this process is from that of the database. */
export type ClockWatch = Readonly<{
  /** Above 0 where this process is ahead; 0 until the database was asked. */
  offsetMs(): number;
  /** Whether it is more than half a minute, either way: then nothing may be recorded by it. */
  isOff(): boolean;
  /** Asks the database; in between, its clock goes on with the monotonic one of this process. */
  refresh(): Promise<void>;
}>;

/** Says in the log when the clock goes wrong and when it is right again. */
export function createClockWatch(
  clock: DatabaseClock,
  now: () => Date,
  log: Pick<Logger, 'error' | 'info'>,
): ClockWatch {
  let isRead = false;
  let wasOff = false;
  const offsetMs = () => (isRead ? now().getTime() - clock.now().getTime() : 0);
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
