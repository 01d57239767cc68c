import { v7 as uuidv7 } from 'uuid';
import { describe, expect, test } from 'vitest';
import { createDatabase } from '#src/database/database.ts';
import type { Unit, Verdict } from '#src/event-store/event-store.ts';
import { createPostgresUnitStore } from '#src/event-store/postgres-store.ts';
import { toMessageRow } from '#src/orders/order-messages.ts';
import { createTestDatabase } from '#test/support/database.ts';
import type { TestDatabase } from '#test/support/database.ts';
import { skipReason } from '#test/support/infra.ts';
import { createRandom } from '#test/support/random.ts';
import type { Random } from '#test/support/random.ts';

/*
 * Several connections write batches at once: contended new streams, stale and guessed versions, units of
 * two streams, keys used again. Whatever wins, what is stored must be what the verdicts said.
 */
const CONNECTIONS = 4;
const BATCHES = 40;
const BATCH = 20;
const STREAMS = 25;
const KEYS = 200;

type Attempt = Readonly<{ name: string; unit: Unit; verdict: Verdict | 'missing' }>;

async function race(database: TestDatabase, random: Random): Promise<Attempt[]> {
  const ids = Array.from({ length: STREAMS }, () => uuidv7());
  const guesses = new Map<string, number>();
  const attempts: Attempt[] = [];
  const write = async (connection: number) => {
    const { writer, close } = createDatabase(database.url, { writersMax: 1, poolMax: 2 }, () => {});
    const store = createPostgresUnitStore(writer);
    try {
      for (let batch = 0; batch < BATCHES; batch += 1) {
        const units = Array.from({ length: BATCH }, (_, index) =>
          unitOf(`${connection}/${batch}/${index}`, ids, guesses, random),
        );
        const verdicts = await store.write(onePerStream(units));
        onePerStream(units).forEach((unit, index) => {
          const verdict = verdicts[index] ?? 'missing';
          attempts.push({ name: nameOf(unit), unit, verdict });
          for (const { streamId, expectedVersion, events } of unit.appends) {
            if (verdict === 'locked') continue;
            if (verdict === 'ok') guesses.set(streamId, expectedVersion + events.length);
            else guesses.set(streamId, (guesses.get(streamId) ?? 0) + random.below(2));
          }
        });
      }
    } finally {
      await close();
    }
  };
  const ends = await Promise.allSettled(
    Array.from({ length: CONNECTIONS }, (_, connection) => write(connection)),
  );
  for (const end of ends) if (end.status === 'rejected') throw end.reason;
  return attempts;
}

function unitOf(
  name: string,
  ids: readonly string[],
  guesses: ReadonlyMap<string, number>,
  random: Random,
): Unit {
  const first = random.below(STREAMS);
  const streamIds = random.below(3) === 0 ? [first, (first + 1) % STREAMS] : [first];
  const recordedAt = '2026-01-01T00:00:00.000Z';
  const metadata = { correlationId: name, actor: 'race' };
  const appends = streamIds.map((index) => {
    const streamId = random.below(5) === 0 ? uuidv7() : ids[index]!;
    const expectedVersion = guesses.get(streamId) ?? 0;
    const events = Array.from({ length: 1 + random.below(2) }, () => ({
      type: 'OrderCancelled',
      schemaVersion: 1,
      data: { reason: name, refundAmountCents: 0 },
      metadata,
      recordedAt,
    }));
    return { streamId, category: 'order', expectedVersion, events };
  });
  return {
    appends,
    ...(random.below(2) === 0 && { response: responseOf(`key-${random.below(KEYS)}`) }),
    summaries: appends.map(({ streamId, expectedVersion, events }) => ({
      order_id: streamId,
      customer_id: 'c',
      status: 'pending' as const,
      currency: 'EUR',
      item_count: 1,
      total_cents: 1,
      captured_cents: 0,
      refunded_cents: 0,
      placed_at: recordedAt,
      paid_at: null,
      shipped_at: null,
      tracking_number: null,
      cancelled_at: null,
      version: expectedVersion + events.length,
    })),
    messages: appends.flatMap(({ streamId, expectedVersion, events }) =>
      events.map((_, index) =>
        toMessageRow(
          streamId,
          {
            type: 'OrderCancelled',
            data: { reason: name, refundAmountCents: 0 },
            version: expectedVersion + index + 1,
            recordedAt,
          },
          metadata,
          't',
        ),
      ),
    ),
  };
}

function responseOf(key: string): NonNullable<Unit['response']> {
  const stored = { requestHash: Buffer.alloc(32), status: 200, etag: null, location: null };
  return {
    ref: { principal: 'race', key },
    commandId: uuidv7(),
    stored: { ...stored, body: '{}' },
  };
}

/** As in the service: a stream is in one unit of a batch at most. */
function onePerStream(units: readonly Unit[]): Unit[] {
  const seen = new Set<string>();
  return units.filter(({ appends }) => {
    const ids = appends.map(({ streamId }) => streamId);
    if (ids.some((id) => seen.has(id))) return false;
    for (const id of ids) seen.add(id);
    return true;
  });
}

function nameOf(unit: Unit): string {
  return unit.appends[0]?.events[0]?.metadata.correlationId ?? '';
}

/** Everything that is wrong with what is stored, given the verdicts. */
async function faultsOf(database: TestDatabase, attempts: readonly Attempt[]): Promise<string[]> {
  const faults: string[] = [];
  const complain = (what: string, rows: readonly unknown[]) => {
    if (rows.length > 0) faults.push(`${what}: ${JSON.stringify(rows.slice(0, 3))}`);
  };
  const events = await database.query<{ stream_id: string; version: number; name: string }>(
    `select stream_id, version, data->>'reason' as name from events order by stream_id, version`,
  );
  const stored = new Set(events.map((row) => `${row.name} ${row.stream_id} ${row.version}`));
  const expected = new Set(
    attempts
      .filter(({ verdict }) => verdict === 'ok')
      .flatMap(({ name, unit }) =>
        unit.appends.flatMap(({ streamId, expectedVersion, events: appended }) =>
          appended.map((_, index) => `${name} ${streamId} ${expectedVersion + index + 1}`),
        ),
      ),
  );
  complain('acknowledged, not stored', [...expected.difference(stored)]);
  complain('stored, not acknowledged', [...stored.difference(expected)]);
  complain(
    'stream rows that do not match their events',
    await database.query(
      `select s.stream_id, s.version, coalesce(max(e.version), 0) as highest, count(e.version) as events
       from streams s left join events e using (stream_id) group by s.stream_id
       having s.version <> coalesce(max(e.version), 0) or count(e.version) <> s.version or s.version = 0`,
    ),
  );
  complain(
    'summaries that do not match their streams',
    await database.query(
      `select order_id, o.version, s.version as stream from orders_summary o
       full join streams s on s.stream_id = o.order_id where o.version is distinct from s.version`,
    ),
  );
  complain(
    'streams whose outbox is not their events in order',
    await database.query(
      `select aggregate_id from outbox_events group by aggregate_id
       having array_agg(stream_version order by id) <>
         (select array_agg(version order by version) from events where stream_id = aggregate_id)`,
    ),
  );
  const keys = await database.query<{ command_id: string }>(
    'select command_id from idempotency_keys',
  );
  const winners = attempts
    .filter(({ verdict, unit }) => verdict === 'ok' && unit.response)
    .map(({ unit }) => unit.response?.commandId);
  complain('keys that stand for no effect', [
    ...new Set(keys.map((row) => row.command_id)).difference(new Set(winners)),
  ]);
  complain('effects whose key was not stored', [
    ...new Set(winners).difference(new Set(keys.map((row) => row.command_id))),
  ]);
  return faults;
}

async function raceAndCheck(database: TestDatabase, random: Random): Promise<string[]> {
  try {
    return await faultsOf(database, await race(database, random));
  } catch (error) {
    return [
      `the database refused a batch: ${String(error)}, ${String(Reflect.get(error ?? {}, 'cause'))}`,
    ];
  }
}

describe.skipIf(skipReason('postgres'))(
  'batches of units that race for the same streams and keys',
  () => {
    test('are stored exactly as their verdicts say', async () => {
      await using database = await createTestDatabase();
      const attempts = await race(database, createRandom());
      expect(await faultsOf(database, attempts)).toEqual([]);
      const verdicts = new Set(attempts.map(({ verdict }) => verdict));
      expect([...verdicts], 'every verdict must have come up').toEqual(
        expect.arrayContaining(['ok', 'conflict', 'key', 'locked']),
      );
    });

    test.each<[string, string[], (sql: string) => string]>([
      [
        'judges without locking',
        ['lock_streams', 'lock_summaries'],
        (sql) => sql.replace('for update skip locked', ''),
      ],
      [
        'writes units whose rows are locked',
        ['write_units'],
        (sql) => sql.replace('bad := lost || held ||', 'bad := lost ||'),
      ],
      [
        'moves the streams of units that lost',
        ['write_units'],
        (sql) => sql.replace(/(where streams\.stream_id = s\.id) and s\.unit <> all \(bad\)/, '$1'),
      ],
      [
        'judges each stream for itself instead of whole units',
        ['write_units'],
        (sql) =>
          sql.replace(
            /where streams\.stream_id = s\.id and s\.unit <> all \(bad\)/,
            'where streams.stream_id = s.id and streams.version = s.next - 1',
          ),
      ],
      [
        'writes the events of units whose key is taken',
        ['write_units'],
        (sql) => sql.replace('|| short || taken;', '|| short;'),
      ],
      [
        'leaves the rows of streams that lost their first append',
        ['write_units'],
        (sql) => sql.replace('if cardinality(bad) > 0 then', 'if false then'),
      ],
    ])('are caught by this test when the function %s', async (_, names, mutate) => {
      await using database = await createTestDatabase();
      for (const name of names) await replaceFunction(database, name, mutate);
      expect(await raceAndCheck(database, createRandom())).not.toEqual([]);
    });
  },
);

async function replaceFunction(
  database: TestDatabase,
  name: string,
  mutate: (sql: string) => string,
) {
  const [row] = await database.query<{ definition: string }>(
    // The newest of this name: an older one stays for the release before.
    `select pg_get_functiondef(oid) as definition from pg_proc where proname = $1
     order by oid desc limit 1`,
    [name],
  );
  const mutant = mutate(row!.definition);
  expect(mutant, 'the mutation must change something').not.toBe(row!.definition);
  await database.query(mutant);
}
