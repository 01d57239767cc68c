import { randomUUID } from 'node:crypto';
import type { Pool } from 'pg';
import type { Logger } from 'pino';
import { createWorker } from '#src/workers/worker.ts';

/** The right to be the only one, for now. */
export type LeaseTerm = Readonly<{
  /** Grows each time that the lease is taken: what an old holder still writes is told by it. */
  epoch: number;
  remainingMs: number;
}>;

export type LeaseOptions = Readonly<{
  pool: Pool;
  /** What there may be one of. */
  name: string;
  /** How long a holder that fell silent keeps the others out. */
  ttlMs: number;
  /** How often the holder renews it and the others ask for it. */
  pollMs: number;
  log: Pick<Logger, 'info' | 'error'>;
  onChange: (isHeld: boolean) => void;
}>;

export type Lease = Readonly<{
  start(): void;
  /** The term, if this process holds the lease and the time is not up. */
  current(): LeaseTerm | undefined;
  /** Gives the lease back, so that another may have it at once. */
  stop(): Promise<void>;
}>;

/**
 * A lease is a row with owner, epoch and expiry. Expiry is on the database's clock; what is left of it
 * is counted here on the monotonic clock, from before the renewal was sent, so that the holder always
 * thinks it over a little sooner than the others do.
 */
export function createLease({ pool, name, ttlMs, pollMs, log, onChange }: LeaseOptions): Lease {
  const owner = randomUUID();
  let held: { epoch: number; endsAtMs: number } | undefined;

  const hold = async (statement: (ownerOfName: Owner) => Promise<number | undefined>) => {
    const endsAtMs = performance.now() + ttlMs;
    const epoch = await statement({ pool, name, owner, ttlMs });
    const wasHeld = held !== undefined;
    held = epoch === undefined ? undefined : { epoch, endsAtMs };
    if (wasHeld !== (held !== undefined)) onChange(!wasHeld);
  };

  const worker = createWorker({
    name: `lease ${name}`,
    tick: async () => {
      const { epoch } = held ?? {};
      await hold(epoch === undefined ? acquire : (as) => renew(as, epoch));
      return 0;
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
      const { epoch } = held;
      await hold((as) => release(as, epoch));
    },
  };
}

type Owner = Readonly<{ pool: Pool; name: string; owner: string; ttlMs: number }>;
type EpochRow = Readonly<{ epoch: number }>;

/**
 * Looks before it writes: a process that waits leaves no dead rows. One that took the lease and never
 * heard so takes it again, or nobody would act until it ran out.
 */
async function acquire({ pool, name, owner, ttlMs }: Owner): Promise<number | undefined> {
  const taken = await pool.query(
    'select from leases where name = $1 and owner <> $2 and expires_at > clock_timestamp()',
    [name, owner],
  );
  if (taken.rowCount !== 0) return undefined;
  const { rows } = await pool.query<EpochRow>(
    `insert into leases as lease (name, owner, epoch, expires_at)
     values ($1, $2, 1, clock_timestamp() + $3 * interval '1 ms')
     on conflict (name) do update
       set owner = excluded.owner, epoch = lease.epoch + 1,
           expires_at = clock_timestamp() + $3 * interval '1 ms'
       where lease.owner = excluded.owner or lease.expires_at <= clock_timestamp()
     returning epoch`,
    [name, owner, ttlMs],
  );
  return rows[0]?.epoch;
}

async function renew(
  { pool, name, owner, ttlMs }: Owner,
  epoch: number,
): Promise<number | undefined> {
  const { rows } = await pool.query<EpochRow>(
    `update leases set expires_at = clock_timestamp() + $4 * interval '1 ms'
     where name = $1 and owner = $2 and epoch = $3 and expires_at > clock_timestamp()
     returning epoch`,
    [name, owner, epoch, ttlMs],
  );
  return rows[0]?.epoch;
}

async function release({ pool, name, owner }: Owner, epoch: number): Promise<undefined> {
  await pool.query(
    `update leases set expires_at = clock_timestamp()
     where name = $1 and owner = $2 and epoch = $3`,
    [name, owner, epoch],
  );
}
