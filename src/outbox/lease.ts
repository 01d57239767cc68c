import { randomUUID } from 'node:crypto';
import type { Pool } from 'pg';
import type { Logger } from 'pino';
import { createWorker } from '#src/workers/worker.ts';

/** The right of one process to act, for a limited time. */
export type LeaseTerm = Readonly<{
  /** The fencing token: grows each time that the lease is taken, so old writes can be refused. */
  epoch: number;
  remainingMs: number;
}>;

export type LeaseOptions = Readonly<{
  pool: Pool;
  /** The lease is held by one process for each name. */
  name: string;
  /** How long a lease that is not renewed lasts. */
  ttlMs: number;
  /** How often the holder renews it and the others try to take it. */
  pollMs: number;
  log: Pick<Logger, 'info' | 'error'>;
  onChange: (isHeld: boolean) => void;
}>;

export type Lease = Readonly<{
  start(): void;
  /** The term, if this process holds the lease and it has not expired. */
  current(): LeaseTerm | undefined;
  /** Releases the lease, so that another process can take it at once. */
  stop(): Promise<void>;
}>;

/**
 * A lease is a row with owner, epoch and expiry. The database's clock decides about expiry. The
 * holder counts the remaining time on its monotonic clock, from before it sent the renewal. So for
 * the holder the lease always ends a little earlier than for the others.
 */
export function createLease({ pool, name, ttlMs, pollMs, log, onChange }: LeaseOptions): Lease {
  const owner = randomUUID();
  let held: Readonly<{ epoch: number; endsAtMs: number }> | undefined;

  const set = (next: typeof held) => {
    const isChanged = (held === undefined) !== (next === undefined);
    held = next;
    if (isChanged) onChange(next !== undefined);
  };

  /**
   * Reads before it writes, so that waiting processes leave no dead rows. A process that took the
   * lease but did not get the response takes it again; otherwise nobody would act until it expired.
   */
  const acquire = async () => {
    const taken = await pool.query(TAKEN, [name, owner]);
    if (taken.rowCount !== 0) return undefined;
    const { rows } = await pool.query<EpochRow>(ACQUIRE, [name, owner, ttlMs]);
    return rows[0]?.epoch;
  };

  const renew = async (epoch: number) => {
    const { rows } = await pool.query<EpochRow>(RENEW, [name, owner, epoch, ttlMs]);
    return rows[0]?.epoch;
  };

  const worker = createWorker({
    name: `lease ${name}`,
    tick: async () => {
      const endsAtMs = performance.now() + ttlMs;
      const epoch = held === undefined ? await acquire() : await renew(held.epoch);
      set(epoch === undefined ? undefined : { epoch, endsAtMs });
    },
    idleMs: pollMs,
    errorBackoff: { baseMs: pollMs / 4, maxMs: pollMs },
    log,
  });

  return {
    start: worker.start,
    current: () => {
      const remainingMs = held === undefined ? 0 : held.endsAtMs - performance.now();
      return held !== undefined && remainingMs > 0 ? { epoch: held.epoch, remainingMs } : undefined;
    },
    stop: async () => {
      await worker.stop();
      if (held === undefined) return;
      await pool.query(RELEASE, [name, owner, held.epoch]);
      set(undefined);
    },
  };
}

type EpochRow = Readonly<{ epoch: number }>;

const TAKEN = `
  select from leases where name = $1 and owner <> $2 and expires_at > clock_timestamp()`;

const ACQUIRE = `
  insert into leases as lease (name, owner, epoch, expires_at)
  values ($1, $2, 1, clock_timestamp() + $3 * interval '1 ms')
  on conflict (name) do update
    set owner = excluded.owner, epoch = lease.epoch + 1,
        expires_at = clock_timestamp() + $3 * interval '1 ms'
    where lease.owner = excluded.owner or lease.expires_at <= clock_timestamp()
  returning epoch`;

const RENEW = `
  update leases set expires_at = clock_timestamp() + $4 * interval '1 ms'
  where name = $1 and owner = $2 and epoch = $3 and expires_at > clock_timestamp()
  returning epoch`;

const RELEASE = `
  update leases set expires_at = clock_timestamp() where name = $1 and owner = $2 and epoch = $3`;
