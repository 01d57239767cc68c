import { v7 as uuidv7 } from 'uuid';
import { describe, expect, test } from 'vitest';
import { createDatabase } from '#src/database/database.ts';
import type { EventStore, Unit } from '#src/event-store/event-store.ts';
import {
  createPostgresEventStore,
  createPostgresUnitStore,
} from '#src/event-store/postgres-store.ts';
import { appendToOrder } from '#src/orders/order-stream.ts';
import { createTestDatabase } from '#test/support/database.ts';
import type { TestDatabase } from '#test/support/database.ts';
import { skipReason } from '#test/support/infra.ts';
import { shipped } from '#test/support/orders.ts';
import { eventually } from '#test/support/poll.ts';

/*
 * A session keeps the plans that it made while the tables were empty. Work that grows with the tables
 * shows in the counters of Postgres long before it shows on a clock.
 */
const BATCHES = 60;
const BATCH = 64;
const TUPLES_PER_ORDER_MAX = 20;
/** Of the function that this release calls. */
const WRITE_UNITS_ARGUMENTS = Array(9).fill('json').join();

describe.skipIf(skipReason('postgres'))('the write path, started on empty tables', () => {
  test('reads as many rows for an order when there are many orders', async () => {
    await using database = await createTestDatabase();
    expect(await tuplesReadPerOrder(database)).toBeLessThan(TUPLES_PER_ORDER_MAX);
  });

  test('reads as many rows for an order with personal data and a reference', async () => {
    await using database = await createTestDatabase();
    const tuples = await tuplesReadPerOrder(database, undefined, placePersonalOrder);
    expect(tuples).toBeLessThan(TUPLES_PER_ORDER_MAX);
  });

  test('loads as many rows for a command when there are many orders', async () => {
    await using database = await createTestDatabase();
    expect(await tuplesReadPerOrder(database, 'writer')).toBeLessThan(TUPLES_PER_ORDER_MAX);
  });

  test('reads as many rows for a caller when there are many orders', async () => {
    await using database = await createTestDatabase();
    expect(await tuplesReadPerOrder(database, 'reads')).toBeLessThan(TUPLES_PER_ORDER_MAX);
  });

  test('would load more and more rows if the planner could choose freely', async () => {
    await using database = await createTestDatabase();
    expect(await tuplesReadPerOrder(database, 'pool')).toBeGreaterThan(TUPLES_PER_ORDER_MAX);
  });

  test('would read more and more rows if the planner could choose freely', async () => {
    await using database = await createTestDatabase();
    await database.query(
      ['enable_seqscan', 'enable_hashjoin', 'enable_mergejoin']
        .map((setting) => `alter function write_units(${WRITE_UNITS_ARGUMENTS}) reset ${setting}`)
        .join(';'),
    );
    expect(await tuplesReadPerOrder(database)).toBeGreaterThan(TUPLES_PER_ORDER_MAX);
  });
});

/**
 * With `loader`, each batch is loaded again from one of the service's pools, or read as for callers; written
 * it is from any.
 */
async function tuplesReadPerOrder(
  database: TestDatabase,
  loader?: 'writer' | 'pool' | 'reads',
  place = placeOrder,
): Promise<number> {
  const service = createDatabase(database.url, { writersMax: 1, poolMax: 2 }, () => {});
  const store = createPostgresUnitStore(service.pool);
  const loads = loader && loader !== 'reads' && createPostgresUnitStore(service[loader]);
  const { readStream } = createPostgresEventStore(service.reads.pool);
  if (loader === 'reads') {
    await store.write([placeOrder().unit]);
    await database.query('analyze events');
    await readMany(readStream);
  }
  for (let batch = 0; batch < BATCHES; batch += 1) {
    const orders = Array.from({ length: BATCH }, place);
    await store.write(orders.map(({ unit }) => unit));
    await store.write(orders.map(({ next }) => next));
    const ids = orders.map(({ orderId }) => orderId);
    const keys = orders.map(({ unit }) => unit.response.ref);
    if (loader === 'reads') for (const id of ids) expect(await readStream(id)).toHaveLength(2);
    const loaded = loads ? await loads.load(ids, keys) : undefined;
    expect(loaded?.stream(ids[0]!).length ?? 2).toBe(2);
    expect(loaded?.response(keys[0]!) ?? { status: 201 }).toMatchObject({ status: 201 });
  }
  await service.close();
  await eventually(() => hasNoSession(database)); // its counters are written when a session ends
  const [row] = await database.query<{ tuples: string }>(
    `select sum(seq_tup_read + coalesce(idx_tup_fetch, 0))
       + (select sum(idx_tup_read) from pg_stat_user_indexes) as tuples from pg_stat_user_tables`,
  );
  return Number(row!.tuples) / (BATCHES * BATCH);
}

/** Of a table of one row. A prepared statement has its plan for good after five executions. */
async function readMany(readStream: EventStore['readStream']): Promise<void> {
  for (let read = 0; read < 10; read += 1) expect(await readStream(uuidv7())).toEqual([]);
}

async function hasNoSession(database: TestDatabase): Promise<boolean> {
  const rows = await database.query(
    `select from pg_stat_activity
     where datname = current_database() and application_name = 'order-service'`,
  );
  return rows.length === 0;
}

function placeOrder(): Placed {
  const orderId = uuidv7();
  const items = [{ lineId: '1', sku: 'book', quantity: 2, priceCents: 1250 }];
  const data = { orderId, customerId: 'c-1', currency: 'EUR', items, totalCents: 2500 };
  const context = {
    recordedAt: new Date().toISOString(),
    metadata: { correlationId: 'test', actor: 'test' },
    topic: 'orders',
  };
  const { unit, order } = appendToOrder(orderId, null, [{ type: 'OrderPlaced', data }], context);
  const { unit: next } = appendToOrder(orderId, order, [shipped], context);
  const ref = { principal: 'anonymous', key: orderId };
  const requestHash = Buffer.of(1);
  const stored = { requestHash, status: 201, etag: null, location: null, body: '{}' };
  return { orderId, next, unit: { ...unit, response: { ref, commandId: uuidv7(), stored } } };
}

type Placed = Readonly<{
  orderId: string;
  unit: Unit & Required<Pick<Unit, 'response'>>;
  next: Unit;
}>;

/** With a reference, and with personal data, which the next unit changes. */
function placePersonalOrder(): Placed {
  const { orderId, unit, next } = placeOrder();
  const row = {
    order_id: orderId,
    customer_id: 'c-1',
    shipping_address: { city: 'Berlin' },
  } as const;
  const put = { op: 'put', ...row, contact: null, payment_method: 'tok_1' } as const;
  const address = { op: 'address', ...row } as const;
  const reference = { principal: 'anonymous', reference: orderId, order_id: orderId };
  return {
    orderId,
    unit: { ...unit, personalData: [put], reference },
    next: { ...next, personalData: [address] },
  };
}
