import type { Pool } from 'pg';
import type { Projection } from './projection.ts';
import { rebuildProjection } from './rebuild-projection.ts';
import { verifyProjection } from './verify-projection.ts';

const MISMATCHES_SHOWN_MAX = 20;
const USAGE = `usage: npm run projections -- verify | rebuild
  verify    folds every stream again and compares it with its row
  rebuild   makes every row again; the service may go on meanwhile`;

/**
 * Runs one operator's command on a read model.
 * @returns the exit code: 0 done, 1 mismatches were found, 2 no such command
 */
export async function runProjectionCommand(
  args: readonly string[],
  pool: Pool,
  projection: Projection,
  print: (line: string) => void,
): Promise<number> {
  const [command, ...rest] = args;
  if (rest.length === 0 && command === 'verify') return verify(pool, projection, print);
  if (rest.length === 0 && command === 'rebuild') return rebuild(pool, projection, print);
  print(USAGE);
  return 2;
}

async function verify(
  pool: Pool,
  projection: Projection,
  print: (line: string) => void,
): Promise<number> {
  let shown = 0;
  const { checked, mismatches } = await verifyProjection(pool, projection, (mismatch) => {
    shown += 1;
    if (shown <= MISMATCHES_SHOWN_MAX) print(JSON.stringify(mismatch));
  });
  print(`${projection.table}: ${checked} checked, ${mismatches} not as their streams say`);
  if (mismatches > 0) {
    print('npm run projections -- rebuild makes every row again; a row without a stream stays');
  }
  return mismatches === 0 ? 0 : 1;
}

async function rebuild(
  pool: Pool,
  projection: Projection,
  print: (line: string) => void,
): Promise<number> {
  const { rows } = await pool.query<{ total: number }>(
    'select count(*) as total from streams where category = $1',
    [projection.category],
  );
  const total = rows[0]?.total ?? 0;
  const startedAt = performance.now();
  const done = await rebuildProjection(pool, projection, (made) => {
    const perSecond = made / ((performance.now() - startedAt) / 1000);
    const leftSeconds = Math.ceil(Math.max(0, total - made) / perSecond);
    print(`${projection.table}: ${made} of ${total}, ${leftSeconds} s to go`);
  });
  print(`${projection.table}: ${done} rows made again`);
  return 0;
}
