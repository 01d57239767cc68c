import type { Pool, PoolClient } from 'pg';
import { withClient } from '#src/database/session-pool.ts';
import { compareAll, compareStreams } from './projection.ts';
import type { Mismatch, Projection } from './projection.ts';

const MISMATCHES_SHOWN_MAX = 20;
const PROGRESS_MS = 1_000;
/** The key of the advisory lock by which rebuilds take turns. */
const REBUILD_TURN = 6;
const USAGE = `usage: npm run projections -- verify | rebuild
  verify    folds every stream again and compares it with its row
  rebuild   does the same and corrects the rows that differ; the service may run meanwhile`;

/**
 * Runs one operator's command on a read model.
 * @returns the exit code: 0 done, 1 rows differ, 2 wrong usage
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
  let checked = 0;
  let unfilled = 0;
  let mismatches = 0;
  const report = (mismatch: Pick<Mismatch, 'key' | 'stored'> & { expected: object | null }) => {
    mismatches += 1;
    if (mismatches <= MISMATCHES_SHOWN_MAX) print(JSON.stringify(mismatch));
  };
  for await (const batch of compareAll(pool, projection)) {
    for (const { key, expected, stored } of batch.mismatches) {
      const known = Object.keys(expected).map((column) => [column, stored?.[column]]);
      report({ key, expected, stored: stored && Object.fromEntries(known) });
    }
    checked += batch.checked;
    unfilled += batch.unfilled.length;
  }
  for (const key of await keysWithoutStream(pool, projection)) {
    report({ key, expected: null, stored: {} });
  }
  print(`${projection.table}: ${checked} checked, ${mismatches} differ from their events`);
  if (mismatches > 0) {
    print('npm run projections -- rebuild corrects the rows, except rows without a stream');
  }
  if (unfilled > 0) {
    const columns = projection.filledByRebuild.join(', ');
    print(`${unfilled} rows of earlier releases lack ${columns}: rebuild fills them in`);
  }
  return mismatches === 0 ? 0 : 1;
}

async function keysWithoutStream(
  pool: Pool,
  { table, keyColumn, category }: Projection,
): Promise<string[]> {
  const { rows } = await pool.query<{ key: string }>(
    `select ${keyColumn} as key from ${table} t where not exists
       (select from streams s where s.stream_id = t.${keyColumn} and s.category = $1)`,
    [category],
  );
  return rows.map(({ key }) => key);
}

async function rebuild(
  pool: Pool,
  projection: Projection,
  print: (line: string) => void,
): Promise<number> {
  const { table, category } = projection;
  const { rows } = await pool.query<{ total: number }>(
    'select count(*) as total from streams where category = $1',
    [category],
  );
  const total = rows[0]?.total ?? 0;
  const startedAt = performance.now();
  let printedAt = startedAt;
  let checked = 0;
  let written = 0;
  let writing = Promise.resolve(0);
  for await (const batch of compareAll(pool, projection)) {
    written += await writing;
    writing = correct(pool, projection, [...batch.mismatches, ...batch.unfilled]);
    writing.catch(() => {}); // the `await` above throws it
    checked += batch.checked;
    const now = performance.now();
    if (now - printedAt < PROGRESS_MS) continue;
    printedAt = now;
    const leftSeconds = Math.ceil(
      ((Math.max(0, total - checked) / checked) * (now - startedAt)) / 1000,
    );
    print(`${table}: ${checked} of ${total}, ${leftSeconds} s to go`);
  }
  written += await writing;
  print(`${table}: ${checked} checked, ${written} written`);
  return 0;
}

/**
 * Writes the rows that differ. Rows are updated in place, so no reader misses one.
 * @returns how many rows were written
 */
async function correct(
  pool: Pool,
  projection: Projection,
  mismatches: readonly Mismatch[],
): Promise<number> {
  const done = await updateUnchanged(pool, projection, mismatches);
  const left = mismatches.filter(({ key }) => !done.has(key));
  return done.size + (await writeLocked(pool, projection, left));
}

/**
 * Updates the rows that nobody has written since they were read. A command writes the row of its stream
 * whenever it appends, so the streams of these rows have not changed either.
 * @returns the keys of the rows that were updated
 */
async function updateUnchanged(
  pool: Pool,
  { table, keyColumn }: Projection,
  mismatches: readonly Mismatch[],
): Promise<ReadonlySet<string>> {
  const there = mismatches.filter(({ stored }) => stored !== null);
  if (there.length === 0) return new Set();
  const columns = differingColumns(there);
  const rows = there.map(({ expected }) =>
    Object.fromEntries([keyColumn, ...columns].map((column) => [column, expected[column]])),
  );
  return withClient(pool, async (client) => {
    // Two rebuilds that locked the rows in different orders would wait in a circle, so they take turns.
    await client.query(`begin; select pg_advisory_xact_lock(${REBUILD_TURN})`);
    const { rows: updated } = await client.query<{ key: string }>(
      `update ${table} as t set ${columns.map((column) => `${column} = w.${column}`).join(', ')}
       from rows from (json_populate_recordset(null::${table}, $1), unnest($2::xid[])) as w
       where t.${keyColumn} = w.${keyColumn} and t.xmin = w.unnest
       returning t.${keyColumn} as key`,
      [JSON.stringify(rows), there.map(({ writtenBy }) => writtenBy)],
    );
    await client.query('commit');
    return new Set(updated.map(({ key }) => key));
  });
}

/**
 * Inserts and updates the rows of streams that it locks: commands on them wait for some milliseconds. If a stream
 * has grown since the comparison, its row is compared again: the command has written the row, but its release may
 * not know all columns.
 * @returns how many rows were written
 */
async function writeLocked(
  pool: Pool,
  projection: Projection,
  mismatches: readonly Mismatch[],
): Promise<number> {
  if (mismatches.length === 0) return 0;
  return withClient(pool, async (client) => {
    await client.query('begin');
    const { rows: streams } = await client.query<{ stream_id: string; version: number }>(
      `select stream_id, version from streams where stream_id = any($1::uuid[])
       order by stream_id for update`,
      [mismatches.map(({ key }) => key)],
    );
    const versions = new Map(streams.map((row) => [row.stream_id, row.version]));
    const current = mismatches.filter(({ key, version }) => version === versions.get(key));
    const grown = mismatches.filter(({ key, version }) => version !== versions.get(key));
    const again = await compareStreams(
      client,
      projection,
      grown.map(({ key }) => key),
    );
    const wrong = [...current, ...again.mismatches, ...again.unfilled];
    if (wrong.length > 0) await upsert(client, projection, wrong);
    await client.query('commit');
    return wrong.length;
  });
}

async function upsert(
  client: PoolClient,
  { table, keyColumn }: Projection,
  wrong: readonly Mismatch[],
): Promise<void> {
  const columns = Object.keys(wrong[0]?.expected ?? {});
  const assignments = differingColumns(wrong).map((column) => `${column} = excluded.${column}`);
  await client.query(
    `insert into ${table} (${columns.join(', ')})
     select ${columns.join(', ')} from json_populate_recordset(null::${table}, $1)
     on conflict (${keyColumn}) do update set ${assignments.join(', ')}`,
    [JSON.stringify(wrong.map(({ expected }) => expected))],
  );
}

/** The columns that differ in some row. Most of the time that is one column. */
function differingColumns(wrong: readonly Mismatch[]): string[] {
  return Object.keys(wrong[0]?.expected ?? {}).filter((column) =>
    wrong.some(({ expected, stored }) => stored?.[column] !== expected[column]),
  );
}
