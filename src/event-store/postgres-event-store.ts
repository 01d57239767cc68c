import type { Pool } from 'pg';
import { z } from 'zod';
import { withFreshStatements } from '#src/database/stale-statements.ts';
import type { EventStore, StoredEvent } from './event-store.ts';

const metadataSchema = z.object({
  correlationId: z.string(),
  causationId: z.string().optional(),
  actor: z.string(),
  traceparent: z.string().optional(),
});

/** The columns of an event, in the shape that `toStoredEvent` reads. */
export const EVENT_COLUMNS =
  'position, stream_id, version, type, schema_version, data, metadata, recorded_at';

export type EventRow = Readonly<{
  position: number;
  stream_id: string;
  version: number;
  type: string;
  schema_version: number;
  data: unknown;
  metadata: unknown;
  recorded_at: Date;
}>;

export function toStoredEvent(row: EventRow): StoredEvent {
  const { correlationId, causationId, actor, traceparent } = metadataSchema.parse(row.metadata);
  return {
    position: row.position,
    streamId: row.stream_id,
    version: row.version,
    type: row.type,
    schemaVersion: row.schema_version,
    data: row.data,
    metadata: {
      correlationId,
      actor,
      ...(causationId !== undefined && { causationId }),
      ...(traceparent !== undefined && { traceparent }),
    },
    recordedAt: row.recorded_at.toISOString(),
  };
}

export function createPostgresEventStore(pool: Pool): EventStore {
  return {
    async readStream(streamId, { category, version, instant } = {}) {
      const query = {
        name: 'read_stream',
        text: `select ${EVENT_COLUMNS} from events where stream_id = $1
               and ($2::int is null or version <= $2)
               and ($3::timestamptz is null or recorded_at <= $3)
               and ($4::text is null or $4 = (select category from streams where stream_id = $1))
               order by version`,
        values: [streamId, version ?? null, instant ?? null, category ?? null],
      };
      const { rows } = await withFreshStatements(pool, () => pool.query<EventRow>(query));
      return rows.map(toStoredEvent);
    },
  };
}
