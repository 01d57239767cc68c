import type { Pool } from 'pg';
import type { Logger } from 'pino';
import { createClockWatch, createDatabaseClock, steeredClock } from './database/clock.ts';
import type { ClockWatch } from './database/clock.ts';
import type { GroupCommit } from './event-store/group-commit.ts';
import { ClockOff } from './event-store/event-store.ts';
import type { Health } from './http/health-routes.ts';
import type { Metrics } from './http/metrics.ts';
import { createWorker } from './workers/worker.ts';

const EVERY_MS = 5_000;
const BACKOFF = { baseMs: 1_000, maxMs: EVERY_MS };

/** The clock of this process and the clock of the database, or a steered one for both. A worker compares them. */
export function createClocks(
  steered: (() => Date) | undefined,
  pool: Pool,
  metrics: Metrics,
  log: Logger,
) {
  const now = steered ?? (() => new Date());
  const clock = steered ? steeredClock(steered) : createDatabaseClock(pool);
  const clockWatch = createClockWatch(clock, now, log);
  metrics.watch(
    {
      name: 'orders_clock_offset_seconds',
      help: 'How far the clock of this process is ahead of the clock of the database.',
    },
    () => clockWatch.offsetMs() / 1000,
  );
  const clockWorker = createWorker({
    name: 'clock watch',
    tick: async () => {
      await clockWatch.refresh();
      return 0;
    },
    idleMs: EVERY_MS,
    errorBackoff: BACKOFF,
    log,
  });
  return { now, clock, clockWatch, clockWorker };
}

/**
 * Refuses with ClockOff to write anything while the clock is off: the event would have a wrong time for ever.
 * Commands that write nothing, such as replays, still succeed.
 */
export function refuseWhileClockIsOff(
  commit: GroupCommit,
  watch: Pick<ClockWatch, 'isOff'>,
): GroupCommit {
  return {
    ...commit,
    submit: (work) =>
      commit.submit({
        ...work,
        decide: (loaded, refusedBy) => {
          const decision = work.decide(loaded, refusedBy);
          if (decision.unit && watch.isOff()) throw new ClockOff();
          return decision;
        },
      }),
  };
}

/** Not ready while the clock is off, so that another replica takes the commands. */
export async function withClock(
  check: () => Promise<Health>,
  watch: Pick<ClockWatch, 'isOff' | 'offsetMs'>,
): Promise<Health> {
  const health = await check();
  if (!watch.isOff()) return health;
  const seconds = Math.round(watch.offsetMs() / 1000);
  return { ready: false, details: { ...health.details, clock: `${seconds} s off the database's` } };
}
