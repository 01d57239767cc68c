import type { Pool } from 'pg';
import { EventUnreadable } from './event-codec.ts';
import type { EventSchemaRef } from './event-codec.ts';

/**
 * Makes sure, before anything is served, that this build can read whatever the log may hold, and
 * announces what it is going to write, so that an older build refuses to start beside it.
 * @throws EventUnreadable
 */
export async function agreeOnEventSchemas(
  pool: Pool,
  readable: readonly EventSchemaRef[],
): Promise<void> {
  const known = new Set(readable.map(nameOf));
  const { rows } = await pool.query<{ type: string; schema_version: number }>(
    'select type, schema_version from event_schemas',
  );
  for (const { type, schema_version: schemaVersion } of rows) {
    if (!known.has(nameOf({ type, schemaVersion }))) {
      throw new EventUnreadable(
        { type, schemaVersion },
        'may be in the log, and is not known here',
      );
    }
  }
  await pool.query(
    `insert into event_schemas (type, schema_version)
     select * from unnest($1::text[], $2::smallint[]) on conflict do nothing`,
    [readable.map(({ type }) => type), readable.map(({ schemaVersion }) => schemaVersion)],
  );
}

function nameOf({ type, schemaVersion }: EventSchemaRef): string {
  return `${type}@${schemaVersion}`;
}
