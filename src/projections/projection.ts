import { types } from 'pg';
import type { ClientBase, Pool } from 'pg';
import type { Logger } from 'pino';
import type { StoredEvent } from '#src/event-store/event-store.ts';
import { createWorker } from '#src/workers/worker.ts';
import type { Worker } from '#src/workers/worker.ts';

const STREAMS_MAX = 500;
const SAMPLE_MAX = 20;
const VERIFIER_BACKOFF = { baseMs: 1_000, maxMs: 60_000 };
const FIRST_ID = '00000000-0000-0000-0000-000000000000';

/** The columns of a row by name. Instants are ISO 8601 in UTC. */
export type ReadModelRow = Readonly<Record<string, string | number | boolean | null>>;

/** An event as projections see it. A row must not depend on the metadata. */
export type ProjectedEvent = Omit<StoredEvent, 'streamId' | 'position' | 'metadata'>;

/**
 * A read model with one row for each stream of a category. The row is written in the transaction of
 * the events and is a pure function of the stream, so it can be checked and rebuilt at any time.
 */
export type Projection = Readonly<{
  table: string;
  /** The column that holds the stream id. */
  keyColumn: string;
  category: string;
  /** Columns that are null in rows of earlier releases, until a rebuild fills them in. */
  filledByRebuild: readonly string[];
  project(stream: readonly ProjectedEvent[]): ReadModelRow;
}>;

/** A row that differs from the fold of its stream. */
export type Mismatch = Readonly<{
  key: string;
  /** The version of the stream that `expected` was folded from. */
  version: number;
  expected: ReadModelRow;
  /** May contain columns that a newer release has added. Null if there is no row. */
  stored: Readonly<Record<string, unknown>> | null;
  /** The transaction that wrote the row. */
  writtenBy: string | null;
}>;

/** `unfilled`: rows that lack only what a rebuild fills in. They are no fault. */
export type Comparison = Readonly<{
  checked: number;
  mismatches: readonly Mismatch[];
  unfilled: readonly Mismatch[];
}>;

/**
 * Compares every row with its stream, in batches by stream id. Each batch is read by one statement, so commands
 * that run meanwhile cause no mismatch. Postgres reads the next batch while the caller works on this one.
 */
export async function* compareAll(
  pool: Pool,
  projection: Projection,
): AsyncGenerator<Comparison, void> {
  let next = loadAfter(pool, projection, FIRST_ID);
  try {
    for (;;) {
      const batch = await next;
      const last = batch.at(-1);
      if (!last) return;
      next = loadAfter(pool, projection, last.stream_id);
      next.catch(() => {}); // the `await` above throws it
      yield compare(projection, batch);
    }
  } finally {
    await Promise.allSettled([next]);
  }
}

/** Compares a few rows with their streams every `everyMs`, and logs and reports those that differ. */
export function createProjectionVerifier(
  options: Readonly<{
    pool: Pool;
    projection: Projection;
    everyMs: number;
    onVerified: (sample: Readonly<{ checked: number; mismatches: number }>) => void;
    log: Pick<Logger, 'info' | 'error'>;
  }>,
): Worker {
  const { pool, projection, everyMs, onVerified, log } = options;
  const { table, keyColumn } = projection;
  return createWorker({
    name: `verifier of ${table}`,
    tick: async () => {
      const { checked, mismatches } = await compareSample(pool, projection, SAMPLE_MAX);
      for (const { key, expected, stored } of mismatches) {
        // Only the names are logged: the values may be personal data.
        const columns = Object.keys(expected).filter((name) => expected[name] !== stored?.[name]);
        log.error({ table, [keyColumn]: key, columns }, 'a row differs from its events');
      }
      onVerified({ checked, mismatches: mismatches.length });
    },
    idleMs: everyMs,
    errorBackoff: VERIFIER_BACKOFF,
    log,
  });
}

/** Compares the rows of up to `size` streams, which it finds by random positions in the log. */
export async function compareSample(
  pool: Pool,
  projection: Projection,
  size: number,
): Promise<Comparison> {
  const { rows } = await pool.query<{ stream_id: string }>(
    `with bounds as (select min(position) as first, max(position) as last from events),
       drawn as materialized (
         select first + floor(random() * (last - first + 1))::bigint as position
         from bounds, generate_series(1, $2)
       )
     select distinct stream_id from drawn cross join lateral (
       select stream_id from events where position >= drawn.position order by position limit 1
     ) as next_event join streams using (stream_id)
     where category = $1`,
    [projection.category, size],
  );
  const ids = rows.map((row) => row.stream_id);
  return compareStreams(pool, projection, ids);
}

/** Compares the rows of these streams. */
export async function compareStreams(
  database: Queryable,
  projection: Projection,
  ids: readonly string[],
): Promise<Comparison> {
  const streams = 'select stream_id from streams where stream_id = any($1::uuid[])';
  return compare(projection, await load(database, projection, streams, [ids]));
}

type Queryable = Pick<ClientBase, 'query'>;

type LoadedEvent = readonly [
  version: number,
  type: string,
  schemaVersion: number,
  recordedAt: string,
  data: unknown,
];

/** The events of a stream and the columns of its row, which are all null if there is no row. */
type LoadedStream = Readonly<{
  stream_id: string;
  stream_events: readonly LoadedEvent[];
  written_by: string | null;
}> &
  Readonly<Record<string, unknown>>;

function loadAfter(pool: Pool, projection: Projection, id: string): Promise<LoadedStream[]> {
  const streams = `select stream_id from streams where category = $1 and stream_id > $2
                   order by stream_id limit $3`;
  return load(pool, projection, streams, [projection.category, id, STREAMS_MAX]);
}

/** Reads by one statement, so that events and rows are from the same moment. */
async function load(
  database: Queryable,
  { table, keyColumn }: Projection,
  streams: string,
  values: readonly unknown[],
): Promise<LoadedStream[]> {
  const { rows } = await database.query<LoadedStream>({
    text: `select s.stream_id, r.*, r.xmin as written_by, (
             select coalesce(json_agg(
               json_build_array(version, type, schema_version, recorded_at, data) order by version
             ), '[]')
             from events e where e.stream_id = s.stream_id) as stream_events
           from (${streams}) s left join ${table} r on r.${keyColumn} = s.stream_id
           order by s.stream_id`,
    values: [...values],
    types: INSTANTS_AS_TEXT,
  });
  return rows;
}

/** Compares the columns that this release knows. A newer release may have added others. */
function compare(
  { project, filledByRebuild }: Projection,
  streams: readonly LoadedStream[],
): Comparison {
  const mismatches: Mismatch[] = [];
  const unfilled: Mismatch[] = [];
  for (const loaded of streams) {
    const events = loaded.stream_events.map(toProjectedEvent);
    const expected = project(events);
    const wrong = Object.keys(expected).filter((column) => loaded[column] !== expected[column]);
    if (wrong.length === 0) continue;
    const { stream_id: key, stream_events: _, written_by: writtenBy, ...row } = loaded;
    const stored = writtenBy === null ? null : row;
    const lacks = (column: string) => filledByRebuild.includes(column) && row[column] === null;
    const isUnfilled = stored !== null && wrong.every(lacks);
    const version = events.at(-1)?.version ?? 0;
    (isUnfilled ? unfilled : mismatches).push({ key, version, expected, stored, writtenBy });
  }
  return { checked: streams.length, mismatches, unfilled };
}

function toProjectedEvent(event: LoadedEvent): ProjectedEvent {
  const [version, type, schemaVersion, recordedAt, data] = event;
  return { version, type, schemaVersion, recordedAt: isoInstant(recordedAt), data };
}

const TIMESTAMPTZ: number = types.builtins.TIMESTAMPTZ;

/** Creating a `Date` for each instant takes longer than the fold. */
const INSTANTS_AS_TEXT = {
  getTypeParser: (oid: number, format?: 'text' | 'binary') =>
    oid === TIMESTAMPTZ ? isoInstant : types.getTypeParser(oid, format),
};

const SHOWN_INSTANT = /^(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d)(?:\.(\d{1,3}))?\+00(?::00)?$/;

/** From the text of Postgres, `2026-11-25 20:06:26.12+00` or the same in JSON, to `2026-11-25T20:06:26.120Z`. */
function isoInstant(shown: string): string {
  const [, date, time, fraction = ''] = SHOWN_INSTANT.exec(shown) ?? [];
  if (date === undefined) throw new Error(`not an instant in UTC: ${shown}`);
  return `${date}T${time}.${fraction.padEnd(3, '0')}Z`;
}
