import { isDeepStrictEqual } from 'node:util';
import type { Pool, PoolClient } from 'pg';
import type { Projection, ReadModelRow } from './projection.ts';
import { forEachStreamBatch } from './stream-batches.ts';

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
  const { category, project } = projection;
  let checked = 0;
  let mismatches = 0;
  const complain = (mismatch: Mismatch) => {
    mismatches += 1;
    onMismatch(mismatch);
  };
  await forEachStreamBatch(pool, category, 'read', async (client, { streams }) => {
    const stored = await storedRows(client, projection, [...streams.keys()]);
    for (const [key, stream] of streams) {
      const expected = project(stream);
      const row = stored.get(key) ?? null;
      if (!isDeepStrictEqual(row, expected)) complain({ key, expected, stored: row });
    }
    checked += streams.size;
  });
  for (const key of await orphans(pool, projection)) {
    complain({ key, expected: null, stored: {} });
  }
  return { checked, mismatches };
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
