import type { Pool } from 'pg';
import type { Logger } from 'pino';
import { createWorker } from '#src/workers/worker.ts';
import type { Worker } from '#src/workers/worker.ts';
import type { Projection, ReadModelRow } from './projection.ts';
import { verifySample } from './verify-projection.ts';
import type { Mismatch, Verification } from './verify-projection.ts';

const SAMPLE_MAX = 20;
const BACKOFF = { baseMs: 1_000, maxMs: 60_000 };

export type ProjectionVerifierOptions = Readonly<{
  pool: Pool;
  projection: Projection;
  everyMs: number;
  /** Hears of each sample. */
  onVerified: (verification: Verification) => void;
  log: Pick<Logger, 'info' | 'error'>;
}>;

/** Checks a few rows of a read model again and again, so that a fault of the service does not stay unseen. */
export function createProjectionVerifier(options: ProjectionVerifierOptions): Worker {
  const { pool, projection, everyMs, onVerified, log } = options;
  const { table, keyColumn } = projection;
  const complain = ({ key, expected, stored }: Mismatch) =>
    log.error(
      { table, [keyColumn]: key, columns: differing(expected, stored) },
      'a row is not as its stream says',
    );
  return createWorker({
    name: `verifier of ${table}`,
    tick: async () => {
      onVerified(await verifySample(pool, projection, SAMPLE_MAX, complain));
      return 0;
    },
    idleMs: everyMs,
    errorBackoff: BACKOFF,
    log,
  });
}

/** The names of the columns alone: their values are nobody's business in a log. */
function differing(expected: ReadModelRow | null, stored: ReadModelRow | null): string[] {
  const columns = new Set([...Object.keys(expected ?? {}), ...Object.keys(stored ?? {})]);
  return [...columns].filter((column) => expected?.[column] !== stored?.[column]);
}
