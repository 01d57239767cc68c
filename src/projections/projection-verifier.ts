import { randomBytes } from 'node:crypto';
import type { Pool } from 'pg';
import type { Logger } from 'pino';
import { createWorker } from '#src/workers/worker.ts';
import type { Worker } from '#src/workers/worker.ts';
import { compareStreams } from './projection.ts';
import type { Comparison, Mismatch, Projection } from './projection.ts';

const SAMPLE_MAX = 20;
const BACKOFF = { baseMs: 1_000, maxMs: 60_000 };

export type ProjectionVerifierOptions = Readonly<{
  pool: Pool;
  projection: Projection;
  everyMs: number;
  onVerified: (sample: Readonly<{ checked: number; mismatches: number }>) => void;
  log: Pick<Logger, 'info' | 'error'>;
}>;

/** Checks a few rows of a read model again and again, so that a fault of the service does not stay unseen. */
export function createProjectionVerifier(options: ProjectionVerifierOptions): Worker {
  const { pool, projection, everyMs, onVerified, log } = options;
  const { table, keyColumn } = projection;
  return createWorker({
    name: `verifier of ${table}`,
    tick: async () => {
      const { checked, mismatches } = await compareSample(pool, projection, SAMPLE_MAX);
      for (const mismatch of mismatches) {
        const columns = differingColumns(mismatch);
        log.error({ table, [keyColumn]: mismatch.key, columns }, 'a row is not as its stream says');
      }
      onVerified({ checked, mismatches: mismatches.length });
      return 0;
    },
    idleMs: everyMs,
    errorBackoff: BACKOFF,
    log,
  });
}

/** The names alone: the values may be personal, and a log is no place for them. */
function differingColumns({ expected, stored }: Mismatch): string[] {
  return Object.keys(expected).filter((column) => expected[column] !== stored?.[column]);
}

/**
 * Compares up to `size` streams: the neighbours on both sides of random ids between the first and the last.
 * Ids grow with time, so old orders are drawn as well as new ones.
 */
export async function compareSample(
  pool: Pool,
  projection: Projection,
  size: number,
): Promise<Comparison> {
  return compareStreams(pool, projection, await drawStreams(pool, projection, size));
}

async function drawStreams(pool: Pool, { category }: Projection, size: number): Promise<string[]> {
  const { rows: ends } = await pool.query<{ stream_id: string }>(
    `(select stream_id from streams where category = $1 order by stream_id limit 1)
     union all
     (select stream_id from streams where category = $1 order by stream_id desc limit 1)`,
    [category],
  );
  const [first, last] = ends.map((row) => row.stream_id);
  if (first === undefined || last === undefined) return [];
  const { rows } = await pool.query<{ stream_id: string }>(
    `select distinct neighbour.stream_id from unnest($2::uuid[]) as drawn (id) cross join lateral (
       (select stream_id from streams where category = $1 and stream_id >= drawn.id
        order by stream_id limit 1)
       union all
       (select stream_id from streams where category = $1 and stream_id <= drawn.id
        order by stream_id desc limit 1)
     ) as neighbour`,
    [category, Array.from({ length: Math.floor(size / 2) }, () => uuidBetween(first, last))],
  );
  return rows.map((row) => row.stream_id);
}

const HEX_DIGITS = 32;
const BITS = BigInt(HEX_DIGITS * 4);

/** A random UUID from `first` to `last`, both included. */
export function uuidBetween(first: string, last: string): string {
  const [from, to] = [numberOf(first), numberOf(last)];
  const random = BigInt(`0x${randomBytes(HEX_DIGITS / 2).toString('hex')}`);
  const drawn = from + (((to - from + 1n) * random) >> BITS);
  const hex = drawn.toString(16).padStart(HEX_DIGITS, '0');
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})/, '$1-$2-$3-$4-');
}

function numberOf(uuid: string): bigint {
  return BigInt(`0x${uuid.replaceAll('-', '')}`);
}
