import { v7 as uuidv7 } from 'uuid';
import { createDatabase } from '#src/database/database.ts';
import type {
  ReservationRow,
  SagaWorkRow,
  StreamAppend,
  Unit,
} from '#src/event-store/event-store.ts';
import { createPostgresUnitStore } from '#src/event-store/postgres-store.ts';
import { createTestDatabase } from './database.ts';

const metadata = { correlationId: 'test', actor: 'test' };

/** Appends one event to one stream at a version. */
export function append(streamId: string, expectedVersion = 0): StreamAppend {
  const recordedAt = '2026-01-01T00:00:00.000Z';
  const event = { type: 'Tested', schemaVersion: 1, data: {}, metadata, recordedAt };
  return { streamId, category: 'test', expectedVersion, events: [event] };
}

/** A unit with these rows, and a new stream unless appends are given. */
export function unit(
  rows: Omit<Unit, 'appends'>,
  appends: readonly StreamAppend[] = [append(uuidv7())],
): Unit {
  return { ...rows, appends };
}

export const reserve = (sku: string, quantity: number, id = uuidv7()): ReservationRow => ({
  op: 'reserve',
  reservation_id: id,
  sku,
  quantity,
});

/** Begins a saga that is due at once and has no owner. */
export const begin = (sagaId: string, subjectId = uuidv7()): SagaWorkRow => ({
  op: 'begin',
  saga_id: sagaId,
  subject_id: subjectId,
  definition: 'fulfilment',
  definition_version: 1,
  owner: null,
  lease_ms: null,
  due_in_ms: 0,
});

/** Advances a saga to its next step at the epoch of the owner. */
export const moved = (sagaId: string, epoch: number): SagaWorkRow => ({
  op: 'advance',
  saga_id: sagaId,
  epoch,
  state: 'running',
  step: 'capture',
  attempt: 1,
  reason: null,
  owner: null,
  lease_ms: null,
  due_in_ms: 60_000,
  deadline_at: '2026-01-01T00:00:00.000Z',
});

/** The service's write path on a database of its own. */
export async function createStore() {
  const testDatabase = await createTestDatabase();
  const database = createDatabase(testDatabase.url, { writersMax: 3, poolMax: 4 }, () => {});
  const store = createPostgresUnitStore(database.writer);
  return {
    write: store.write,
    pool: database.pool,
    url: testDatabase.url,
    query: testDatabase.query,
    stock: (sku: string, onHand: number) =>
      testDatabase.query('insert into stock (sku, on_hand) values ($1, $2)', [sku, onHand]),
    levels: async () => {
      const rows = await testDatabase.query<{ sku: string; on_hand: number; reserved: number }>(
        'select sku, on_hand, reserved from stock order by sku',
      );
      return Object.fromEntries(
        rows.map(({ sku, on_hand, reserved }) => [sku, [on_hand, reserved]]),
      );
    },
    async [Symbol.asyncDispose]() {
      await database.close();
      await testDatabase[Symbol.asyncDispose]();
    },
  };
}
