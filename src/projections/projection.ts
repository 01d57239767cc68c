import { types } from 'pg';
import type { Pool, PoolClient } from 'pg';
import { withClient } from '#src/database/with-client.ts';
import type { StoredEvent } from '#src/event-store/event-store.ts';

const STREAMS_MAX = 500;
const FIRST_ID = '00000000-0000-0000-0000-000000000000';

/** A row of a read model, by column; instants are ISO 8601 in UTC. */
export type ReadModelRow = Readonly<Record<string, string | number | boolean | null>>;

/** What a row is made from. Who caused an event is not part of it. */
export type ProjectedEvent = Omit<StoredEvent, 'position' | 'metadata'>;

/**
 * A read model with one row for each stream of a category, written in the transaction of the events.
 * The row is a pure function of the stream, so it can be checked and rebuilt at any time.
 */
export type Projection = Readonly<{
  table: string;
  /** The column that holds the stream id. */
  keyColumn: string;
  category: string;
  project(stream: readonly ProjectedEvent[]): ReadModelRow;
}>;

/** A row that is not what its stream says. */
export type Mismatch = Readonly<{
  key: string;
  /** The version of the stream that `expected` was folded from. */
  version: number;
  expected: ReadModelRow;
  /** Only the columns of `expected`; null where there is no row. */
  stored: ReadModelRow | null;
}>;

export type Comparison = Readonly<{ checked: number; mismatches: readonly Mismatch[] }>;

type Loaded = Readonly<{
  streams: ReadonlyMap<string, ProjectedEvent[]>;
  rows: ReadonlyMap<string, ReadModelRow>;
}>;

/**
 * Compares every row with its stream, in batches by stream id. Each batch is read in one snapshot, so
 * commands that run meanwhile cause no mismatch. Postgres reads the next batch while this one is compared.
 */
export async function* compareAll(
  pool: Pool,
  projection: Projection,
): AsyncGenerator<Comparison, void> {
  let next = loadBatch(pool, projection, FIRST_ID);
  try {
    for (;;) {
      const batch = await next;
      const lastId = [...batch.streams.keys()].at(-1);
      if (lastId === undefined) return;
      next = loadBatch(pool, projection, lastId);
      next.catch(() => {}); // is thrown by the `await` above
      yield compare(projection, batch);
    }
  } finally {
    await Promise.allSettled([next]);
  }
}

/** Compares the rows of these streams. All that `client` reads must be of one moment. */
export async function compareStreams(
  client: PoolClient,
  projection: Projection,
  ids: readonly string[],
): Promise<Comparison> {
  return compare(projection, await load(client, projection, ids));
}

/** All that `use` reads is of one moment. */
export function inSnapshot<Result>(
  pool: Pool,
  use: (client: PoolClient) => Promise<Result>,
): Promise<Result> {
  return withClient(pool, async (client) => {
    await client.query('begin isolation level repeatable read read only');
    const result = await use(client);
    await client.query('commit');
    return result;
  });
}

function loadBatch(pool: Pool, projection: Projection, after: string): Promise<Loaded> {
  return inSnapshot(pool, async (client) => {
    const { rows } = await client.query<{ stream_id: string }>(
      `select stream_id from streams where category = $1 and stream_id > $2
       order by stream_id limit $3`,
      [projection.category, after, STREAMS_MAX],
    );
    const ids = rows.map((row) => row.stream_id);
    return load(client, projection, ids);
  });
}

type EventRow = Readonly<{
  stream_id: string;
  version: number;
  type: string;
  schema_version: number;
  data: unknown;
  recorded_at: string;
}>;

async function load(
  client: PoolClient,
  { table, keyColumn }: Projection,
  ids: readonly string[],
): Promise<Loaded> {
  const events = await client.query<EventRow>({
    text: `select stream_id, version, type, schema_version, data, recorded_at from events
           where stream_id = any($1::uuid[]) order by stream_id, version`,
    values: [ids],
    types: INSTANTS_AS_TEXT,
  });
  const rows = await client.query<ReadModelRow>({
    text: `select * from ${table} where ${keyColumn} = any($1::uuid[])`,
    values: [ids],
    types: INSTANTS_AS_TEXT,
  });
  const streams = new Map<string, ProjectedEvent[]>(ids.map((id) => [id, []]));
  for (const row of events.rows) {
    streams.get(row.stream_id)?.push({
      streamId: row.stream_id,
      version: row.version,
      type: row.type,
      schemaVersion: row.schema_version,
      data: row.data,
      recordedAt: row.recorded_at,
    });
  }
  return { streams, rows: new Map(rows.rows.map((row) => [String(row[keyColumn]), row])) };
}

/** Looks at the columns that this release knows: a newer release fills those that it has added. */
function compare({ project }: Projection, { streams, rows }: Loaded): Comparison {
  const mismatches: Mismatch[] = [];
  for (const [key, stream] of streams) {
    const expected = project(stream);
    const row = rows.get(key);
    const columns = Object.keys(expected);
    if (row && columns.every((column) => row[column] === expected[column])) continue;
    const known = Object.entries(row ?? {}).filter(([column]) => column in expected);
    const stored = row ? Object.fromEntries(known) : null;
    mismatches.push({ key, version: stream.at(-1)?.version ?? 0, expected, stored });
  }
  return { checked: streams.size, mismatches };
}

const TIMESTAMPTZ: number = types.builtins.TIMESTAMPTZ;

/** A `Date` for each instant takes longer than the fold. */
const INSTANTS_AS_TEXT = {
  getTypeParser: (oid: number, format?: 'text' | 'binary') =>
    oid === TIMESTAMPTZ ? isoInstant : types.getTypeParser(oid, format),
};

const SHOWN_INSTANT = /^(\d{4}-\d\d-\d\d) (\d\d:\d\d:\d\d)(?:\.(\d{1,3}))?\+00$/;

/** Turns what every session shows, `2026-11-25 20:06:26.12+00`, into `2026-11-25T20:06:26.120Z`. */
function isoInstant(shown: string): string {
  const [, date, time, fraction = ''] = SHOWN_INSTANT.exec(shown) ?? [];
  if (date === undefined) throw new Error(`not an instant in UTC: ${shown}`);
  return `${date}T${time}.${fraction.padEnd(3, '0')}Z`;
}
