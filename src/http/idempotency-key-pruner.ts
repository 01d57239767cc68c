import type { Pool } from 'pg';
import type { Logger } from 'pino';
import { createWorker } from '#src/workers/worker.ts';
import type { Worker } from '#src/workers/worker.ts';

/** How long a key stands for its request. */
const KEPT_HOURS = 72;
const BATCH_MAX = 1_000;
const IDLE_MS = 60_000;

/** Forgets idempotency keys that are older than 72 hours, a small batch at a time. */
export function createIdempotencyKeyPruner(pool: Pool, log: Logger): Worker {
  return createWorker({
    name: 'idempotency key pruner',
    tick: async () => {
      const { rowCount } = await pool.query(
        `delete from idempotency_keys where (principal, key) in (
           select principal, key from idempotency_keys
           where created_at < now() - make_interval(hours => $1)
           order by created_at limit $2)`,
        [KEPT_HOURS, BATCH_MAX],
      );
      return rowCount ?? 0;
    },
    idleMs: IDLE_MS,
    errorBackoff: { baseMs: 1_000, maxMs: 60_000 },
    log,
  });
}
