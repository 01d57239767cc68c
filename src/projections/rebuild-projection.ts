import type { Pool } from 'pg';
import type { Projection } from './projection.ts';
import { forEachStreamBatch } from './stream-batches.ts';

/**
 * Makes every row of a read model again from its stream, while the service goes on writing: a batch of
 * streams is locked, folded and written in one transaction of milliseconds. Rows are replaced where
 * they stand, so no reader ever misses one; a run that was cut short is simply started again.
 * @returns how many rows were made
 */
export async function rebuildProjection(
  pool: Pool,
  projection: Projection,
  onProgress: (rows: number) => void,
): Promise<number> {
  const { table, keyColumn, category, project } = projection;
  let done = 0;
  await forEachStreamBatch(pool, category, 'lock', async (client, { streams }) => {
    const rows = [...streams.values()].map(project);
    const columns = Object.keys(rows[0] ?? {});
    const updates = columns.map((column) => `${column} = excluded.${column}`);
    await client.query(
      `insert into ${table} (${columns.join(', ')})
       select ${columns.join(', ')} from json_populate_recordset(null::${table}, $1)
       on conflict (${keyColumn}) do update set ${updates.join(', ')}`,
      [JSON.stringify(rows)],
    );
    done += rows.length;
    onProgress(done);
  });
  return done;
}
