import { isDeepStrictEqual } from 'node:util';
import { uuidBetween } from './random-uuid.ts';
import type { Pool, PoolClient } from 'pg';
import type { Projection, ReadModelRow } from './projection.ts';
import type { StoredEvent } from '#src/event-store/event-store.ts';
import { forEachStreamBatch, inTransaction, loadStreams } from './stream-batches.ts';

/** A row that is not what its stream says; null where there is no such row. */
export type Mismatch = Readonly<{
  key: string;
  expected: ReadModelRow | null;
  stored: ReadModelRow | null;
}>;

export type Verification = Readonly<{ checked: number; mismatches: number }>;

/**
 * Folds every stream again and compares it with its row, each batch in one snapshot, so writes that go
 * on meanwhile are no mismatch. Rows without a stream are mismatches too.
 */
export async function verifyProjection(
  pool: Pool,
  projection: Projection,
  onMismatch: (mismatch: Mismatch) => void,
): Promise<Verification> {
  let checked = 0;
  let mismatches = 0;
  const complain = (mismatch: Mismatch) => {
    mismatches += 1;
    onMismatch(mismatch);
  };
  await forEachStreamBatch(pool, projection.category, 'read', async (client, { streams }) => {
    for (const mismatch of await compare(client, projection, streams)) complain(mismatch);
    checked += streams.size;
  });
  for (const key of await orphans(pool, projection)) {
    complain({ key, expected: null, stored: {} });
  }
  return { checked, mismatches };
}

/**
 * The same for up to `size` streams, the neighbours on both sides of random ids between the first and the
 * last. Ids grow with time, so it is moments that are drawn: what is old is looked at as well.
 */
export async function verifySample(
  pool: Pool,
  projection: Projection,
  size: number,
  onMismatch: (mismatch: Mismatch) => void,
): Promise<Verification> {
  return inTransaction(pool, 'read', async (client) => {
    const streams = await loadStreams(client, await drawStreams(client, projection, size));
    const mismatches = await compare(client, projection, streams);
    for (const mismatch of mismatches) onMismatch(mismatch);
    return { checked: streams.size, mismatches: mismatches.length };
  });
}

async function drawStreams(
  client: PoolClient,
  { category }: Projection,
  size: number,
): Promise<string[]> {
  const { rows: ends } = await client.query<{ stream_id: string }>(
    `(select stream_id from streams where category = $1 order by stream_id limit 1)
     union all
     (select stream_id from streams where category = $1 order by stream_id desc limit 1)`,
    [category],
  );
  const [first, last] = ends.map((row) => row.stream_id);
  if (first === undefined || last === undefined) return [];
  const { rows } = await client.query<{ stream_id: string }>(
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

/**
 * The rows of these streams that are not as they say, by the columns that this release knows: one that a
 * newer release has added is filled by that one.
 */
async function compare(
  client: PoolClient,
  projection: Projection,
  streams: ReadonlyMap<string, readonly StoredEvent[]>,
): Promise<Mismatch[]> {
  const stored = await storedRows(client, projection, [...streams.keys()]);
  return [...streams].flatMap(([key, stream]) => {
    const expected = projection.project(stream);
    const row = knownPart(stored.get(key), expected);
    return isDeepStrictEqual(row, expected) ? [] : [{ key, expected, stored: row }];
  });
}

/** Null where there is no such row. */
function knownPart(row: ReadModelRow | undefined, expected: ReadModelRow): ReadModelRow | null {
  if (!row) return null;
  return Object.fromEntries(Object.entries(row).filter(([column]) => column in expected));
}

async function storedRows(
  client: PoolClient,
  { table, keyColumn }: Projection,
  keys: readonly string[],
): Promise<Map<string, ReadModelRow>> {
  const { rows } = await client.query<Record<string, ReadModelRow[string] | Date>>(
    `select * from ${table} where ${keyColumn} = any($1::uuid[])`,
    [keys],
  );
  return new Map(
    rows.map((row) => {
      const plain = Object.entries(row).map(
        ([column, value]) => [column, value instanceof Date ? value.toISOString() : value] as const,
      );
      return [String(row[keyColumn]), Object.fromEntries(plain)];
    }),
  );
}

async function orphans(pool: Pool, { table, keyColumn, category }: Projection): Promise<string[]> {
  const { rows } = await pool.query<{ key: string }>(
    `select ${keyColumn} as key from ${table} t where not exists
       (select from streams s where s.stream_id = t.${keyColumn} and s.category = $1)`,
    [category],
  );
  return rows.map(({ key }) => key);
}
