import type { Pool, PoolClient } from 'pg';
import { z } from 'zod';
import {
  spoilsConnection,
  withFreshStatements,
  writeFailureOf,
} from '#src/database/database-errors.ts';
import { withClient } from '#src/database/session-pool.ts';
import { createAnnounceEvents } from './event-codec.ts';
import { WriteFailed } from './event-store.ts';
import type {
  EventStore,
  KeyRef,
  StoredEvent,
  StoredResponse,
  Unit,
  UnitStore,
  Verdict,
} from './event-store.ts';

/** Reads streams over a pool. */
export function createPostgresEventStore(pool: Pool): EventStore {
  return {
    async readStream(streamId, { category, version, instant, customerId } = {}) {
      const query = {
        name: 'read_stream',
        text: `select ${EVENT_COLUMNS} from events where stream_id = $1
               and ($2::int is null or version <= $2)
               and ($3::timestamptz is null or recorded_at <= $3)
               and ($4::text is null or $4 = (select category from streams where stream_id = $1))
               and ($5::text is null
                 or $5 = (select customer_id from orders_summary where order_id = $1))
               order by version`,
        values: [streamId, version ?? null, instant ?? null, category ?? null, customerId ?? null],
      };
      const { rows } = await withFreshStatements(pool, () => pool.query<EventRow>(query));
      return rows.map(toStoredEvent);
    },
  };
}

/** Loads and writes batches of units over a pool that nothing else uses. */
export function createPostgresUnitStore(pool: Pool): UnitStore {
  const announce = createAnnounceEvents();
  return {
    load: async (streamIds, keys) =>
      withWriter(pool, async (client) => {
        const streams = await loadStreams(client, streamIds);
        const responses = await loadResponses(client, keys);
        return {
          stream: (streamId, category) => {
            const stream = streams.get(streamId);
            const isAskedFor = category === undefined || category === stream?.category;
            return stream && isAskedFor ? stream.events : [];
          },
          response: (ref) => responses.get(keyOf(ref)) ?? null,
        };
      }),
    write: async (units) =>
      withWriter(pool, async (client) => {
        await announce(client, units).catch((error: unknown) => {
          throw new WriteFailed('not_applied', error);
        });
        const { rows } = await client.query<{ unit: number; verdict: Verdict }>({
          name: 'write_units',
          text: 'select unit, verdict from write_units($1, $2, $3, $4, $5, $6, $7, $8, $9)',
          values: argumentsOf(units).map((rows) => JSON.stringify(rows)),
        });
        const verdicts: Verdict[] = units.map(() => 'ok');
        for (const { unit, verdict } of rows) verdicts[unit] = verdict;
        return verdicts;
      }),
  };
}

/** @throws WriteFailed, which says what is known of the write */
async function withWriter<Result>(
  pool: Pool,
  use: (client: PoolClient) => Promise<Result>,
): Promise<Result> {
  let isConnected = false;
  const attempt = () => {
    isConnected = false;
    return withClient(
      pool,
      (client) => {
        isConnected = true;
        return use(client);
      },
      spoilsConnection,
    );
  };
  return withFreshStatements(pool, attempt).catch((error: unknown) => {
    if (error instanceof WriteFailed) throw error;
    throw new WriteFailed(isConnected ? writeFailureOf(error) : 'not_applied', error);
  });
}

const EVENT_COLUMNS =
  'position, stream_id, version, type, schema_version, data, metadata, recorded_at';

type EventRow = Readonly<{
  position: number;
  stream_id: string;
  version: number;
  type: string;
  schema_version: number;
  data: unknown;
  metadata: unknown;
  recorded_at: Date;
}>;

const metadataSchema = z.object({
  correlationId: z.string(),
  causationId: z.string().optional(),
  actor: z.string(),
  traceparent: z.string().optional(),
});

function toStoredEvent(row: EventRow): StoredEvent {
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

type LoadedStream = Readonly<{ category: string; events: StoredEvent[] }>;

async function loadStreams(client: PoolClient, streamIds: readonly string[]) {
  const streams = new Map<string, LoadedStream>();
  if (streamIds.length === 0) return streams;
  const { rows } = await client.query<EventRow & Readonly<{ category: string }>>({
    name: 'load_streams',
    text: `select ${EVENT_COLUMNS},
             (select category from streams s where s.stream_id = events.stream_id) as category
           from events where stream_id = any($1::uuid[]) order by stream_id, version`,
    values: [streamIds],
  });
  for (const row of rows) {
    const event = toStoredEvent(row);
    const stream = streams.get(event.streamId);
    if (stream) stream.events.push(event);
    else streams.set(event.streamId, { category: row.category, events: [event] });
  }
  return streams;
}

type ResponseRow = Readonly<{
  principal: string;
  key: string;
  request_hash: Uint8Array;
  status: number;
  etag: string | null;
  location: string | null;
  body: string;
}>;

/**
 * The status of a row that holds a reference; its body is the version. It is no status that could be sent: a
 * release that does not know references fails on it, and its caller tries again.
 */
const REFERENCE_STATUS = 0;

async function loadResponses(client: PoolClient, keys: readonly KeyRef[]) {
  if (keys.length === 0) return new Map<string, StoredResponse>();
  const { rows } = await client.query<ResponseRow>({
    name: 'load_responses',
    text: `select principal, key, request_hash, status, etag, location, body from idempotency_keys
           where (principal, key) in (select * from unnest($1::text[], $2::text[]))`,
    values: [keys.map(({ principal }) => principal), keys.map(({ key }) => key)],
  });
  return new Map<string, StoredResponse>(rows.map((row) => [keyOf(row), toStoredResponse(row)]));
}

function toStoredResponse({ request_hash: requestHash, ...row }: ResponseRow): StoredResponse {
  const { status, etag, location, body } = row;
  if (status === REFERENCE_STATUS) return { requestHash, version: Number(body) };
  return { requestHash, status, etag, location, body };
}

function keyOf({ principal, key }: KeyRef): string {
  return JSON.stringify([principal, key]);
}

/** The arguments of `write_units`, in their order there: an array of rows for each table. */
function argumentsOf(units: readonly Unit[]): unknown[][] {
  return [
    units.flatMap(streamRows),
    units.flatMap(eventRows),
    units.flatMap(responseRows),
    units.flatMap(({ summaries = [] }, unit) => summaries.map((row) => ({ unit, ...row }))),
    units.flatMap(({ messages = [] }, unit) => messages.map((row) => ({ unit, ...row }))),
    units.flatMap(({ sagas = [] }, unit) => sagas.map((row) => ({ unit, ...row }))),
    units.flatMap(({ reservations = [] }, unit) => reservations.map((row) => ({ unit, ...row }))),
    units.flatMap(({ personalData = [] }, unit) => personalData.map((row) => ({ unit, ...row }))),
    units.flatMap(({ reference }, unit) => (reference ? [{ unit, ...reference }] : [])),
  ];
}

function streamRows({ appends }: Unit, unit: number) {
  return appends.map(({ streamId, category, expectedVersion, events }) => ({
    unit,
    id: streamId,
    category,
    expected: expectedVersion,
    next: expectedVersion + events.length,
  }));
}

function eventRows({ appends }: Unit, unit: number) {
  return appends.flatMap(({ streamId, expectedVersion, events }) =>
    events.map((event, index) => ({
      unit,
      stream_id: streamId,
      version: expectedVersion + index + 1,
      type: event.type,
      schema_version: event.schemaVersion,
      data: event.data,
      metadata: event.metadata,
      recorded_at: event.recordedAt,
    })),
  );
}

function responseRows({ response }: Unit, unit: number) {
  if (!response) return [];
  const { ref, commandId, stored } = response;
  const { requestHash, ...columns } =
    'version' in stored
      ? {
          requestHash: stored.requestHash,
          status: REFERENCE_STATUS,
          etag: null,
          location: null,
          body: String(stored.version),
        }
      : stored;
  const hash = Buffer.from(requestHash).toString('hex');
  return [{ unit, ...ref, command_id: commandId, request_hash: hash, ...columns }];
}
