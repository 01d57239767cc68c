import type { Pool, PoolClient } from 'pg';
import { withFreshStatements } from '#src/database/stale-statements.ts';
import { withClient } from '#src/database/with-client.ts';
import { createAnnounceEvents } from './event-schemas.ts';
import { WriteFailed } from './event-store.ts';
import type { KeyRef, StoredAnswer, StoredEvent, Unit, UnitStore, Verdict } from './event-store.ts';
import { EVENT_COLUMNS, toStoredEvent } from './postgres-event-store.ts';
import type { EventRow } from './postgres-event-store.ts';
import { spoilsConnection, writeFailureOf } from './write-failure.ts';

/**
 * The SQL function that writes a batch, and how to make the arguments that only its owner knows. It is
 * called as `select unit, verdict from <name>(streams, events, answers, ...arguments)`, each a JSON
 * array; it returns a row for each unit that it did not write.
 */
export type WriteFunction<Rows> = Readonly<{
  name: string;
  arguments(units: readonly Unit<Rows>[]): readonly unknown[][];
}>;

type KeyRow = Readonly<{
  principal: string;
  key: string;
  request_hash: Uint8Array;
  status: number;
  etag: string | null;
  location: string | null;
  body: string;
}>;

/**
 * The status of a row that is a reference; its body is then the version. No release can send it as a
 * status: one that does not know references fails, and its caller repeats the request.
 */
const REFERENCE_STATUS = 0;

/** Loads and writes batches of units over a pool that nobody else uses. */
export function createPostgresUnitStore<Rows>(
  pool: Pool,
  writeFunction: WriteFunction<Rows>,
): UnitStore<Rows> {
  const announce = createAnnounceEvents();
  const call = callOf(writeFunction.name, 3 + writeFunction.arguments([]).length);
  return {
    load: async (streamIds, keys) =>
      withWriter(pool, async (client) => {
        const streams = await loadStreams(client, streamIds);
        const answers = await loadAnswers(client, keys);
        return {
          stream: (streamId, category) => {
            const stream = streams.get(streamId);
            const isAskedFor = category === undefined || category === stream?.category;
            return stream && isAskedFor ? stream.events : [];
          },
          answer: (ref) => answers.get(keyOf(ref)) ?? null,
        };
      }),
    write: async (units) =>
      withWriter(pool, async (client) => {
        await announce(client, units).catch((error: unknown) => {
          throw new WriteFailed('not_applied', error);
        });
        const values = [
          streamsOf(units),
          eventsOf(units),
          answersOf(units),
          ...writeFunction.arguments(units),
        ].map((rows) => JSON.stringify(rows));
        const { rows } = await client.query<{ unit: number; verdict: Verdict }>({
          name: writeFunction.name,
          text: call,
          values,
        });
        const verdicts: Verdict[] = units.map(() => 'ok');
        for (const { unit, verdict } of rows) verdicts[unit] = verdict;
        return verdicts;
      }),
  };
}

function callOf(name: string, count: number): string {
  const parameters = Array.from({ length: count }, (_, index) => `$${index + 1}`);
  return `select unit, verdict from ${name}(${parameters.join(', ')})`;
}

/** @throws WriteFailed, which tells what is known of what was asked */
async function withWriter<Result>(
  pool: Pool,
  use: (client: PoolClient) => Promise<Result>,
): Promise<Result> {
  let isConnected = false;
  const ask = () => {
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
  return withFreshStatements(pool, ask).catch((error: unknown) => {
    if (error instanceof WriteFailed) throw error;
    throw new WriteFailed(isConnected ? writeFailureOf(error) : 'not_applied', error);
  });
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

async function loadAnswers(client: PoolClient, keys: readonly KeyRef[]) {
  if (keys.length === 0) return new Map<string, StoredAnswer>();
  const { rows } = await client.query<KeyRow>({
    name: 'load_answers',
    text: `select principal, key, request_hash, status, etag, location, body from idempotency_keys
           where (principal, key) in (select * from unnest($1::text[], $2::text[]))`,
    values: [keys.map(({ principal }) => principal), keys.map(({ key }) => key)],
  });
  return new Map<string, StoredAnswer>(rows.map((row) => [keyOf(row), toStoredAnswer(row)]));
}

function toStoredAnswer({ request_hash: requestHash, status, ...row }: KeyRow): StoredAnswer {
  if (status === REFERENCE_STATUS) return { requestHash, version: Number(row.body) };
  return { requestHash, status, etag: row.etag, location: row.location, body: row.body };
}

function keyOf({ principal, key }: KeyRef): string {
  return JSON.stringify([principal, key]);
}

function streamsOf(units: readonly Unit<unknown>[]) {
  return units.flatMap(({ appends }, unit) =>
    appends.map(({ streamId, category, expectedVersion, events }) => ({
      unit,
      id: streamId,
      category,
      expected: expectedVersion,
      next: expectedVersion + events.length,
    })),
  );
}

function eventsOf(units: readonly Unit<unknown>[]) {
  return units.flatMap(({ appends }, unit) =>
    appends.flatMap(({ streamId, expectedVersion, events }) =>
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
    ),
  );
}

function answersOf(units: readonly Unit<unknown>[]) {
  return units.flatMap(({ answer }, unit) =>
    answer
      ? [
          {
            unit,
            ...answer.ref,
            command_id: answer.commandId,
            request_hash: Buffer.from(answer.stored.requestHash).toString('hex'),
            ...answerColumns(answer.stored),
          },
        ]
      : [],
  );
}

function answerColumns(stored: StoredAnswer) {
  if ('version' in stored) {
    const body = String(stored.version);
    return { status: REFERENCE_STATUS, etag: null, location: null, body };
  }
  const { status, etag, location, body } = stored;
  return { status, etag, location, body };
}
