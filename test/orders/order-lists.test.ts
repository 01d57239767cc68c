import { describe, expect, test } from 'vitest';
import { createDatabase } from '#src/database/database.ts';
import { createPostgresUnitStore } from '#src/event-store/postgres-store.ts';
import { CursorInvalid, listOrders, listOrdersQuery } from '#src/orders/order-lists.ts';
import type { OrderFilter } from '#src/orders/order-lists.ts';
import { ordersSummaryProjection } from '#src/orders/order-stream.ts';
import { runProjectionCommand } from '#src/projections/projection-commands.ts';
import type { Order } from '#test/support/api-shapes.ts';
import { createTestDatabase } from '#test/support/database.ts';
import type { TestDatabase } from '#test/support/database.ts';
import {
  CUSTOMERS,
  explainPage,
  insertHostileOrders,
  OFFERED,
} from '#test/support/hostile-orders.ts';
import { skipReason } from '#test/support/infra.ts';
import { foldOrder } from '#test/support/order-fold.ts';
import { createRandom } from '#test/support/random.ts';
import { writeRandomOrders } from '#test/support/random-orders.ts';
import { historiesOf, readStored, verifyDatabase } from '#test/support/verify-database.ts';

const PAGE = 25;
const HOSTILE_ORDERS = 20_000;

function connect(database: TestDatabase) {
  const service = createDatabase(database.url, { writersMax: 2, poolMax: 4 }, () => {});
  return Object.assign(service, {
    store: createPostgresUnitStore(service.writer),
    [Symbol.asyncDispose]: service.close,
  });
}
type Service = ReturnType<typeof connect>;

const statuses = {
  status: ['pending', 'paid', 'shipped', 'cancelled'],
  paymentStatus: ['unpaid', 'paid', 'partially_refunded', 'refunded'],
  shipmentStatus: ['unshipped', 'partially_shipped', 'shipped', 'delivered', 'returned'],
} as const;
const OPTIONAL = <T>(values: readonly T[]) => [undefined, ...values];

/** Without the members that are undefined. */
function given(filter: { [Name in keyof typeof statuses]: OrderFilter[Name] }): OrderFilter {
  return Object.fromEntries(Object.entries(filter).filter(([, value]) => value !== undefined));
}

/** Every combination of filters that is offered, without a customer and a time. */
const COMBINATIONS: readonly OrderFilter[] = [
  ...OPTIONAL(statuses.status).flatMap((status) =>
    OPTIONAL(statuses.paymentStatus).flatMap((paymentStatus) =>
      OPTIONAL(statuses.shipmentStatus).map((shipmentStatus) =>
        given({ status, paymentStatus, shipmentStatus }),
      ),
    ),
  ),
  ...(['running', 'waiting', 'compensating', 'stuck'] as const).map((fulfilment) => ({
    fulfilment,
  })),
  ...(['running', 'stuck'] as const).map((refund) => ({ refund })),
  { owed: 'true' },
  { externalReference: 'r-1' },
  { externalReference: 'none' },
  { sku: 'book' },
  { sku: 'lamp' },
  { sku: 'none' },
];
const TIMES: readonly OrderFilter[] = [
  {},
  { placedFrom: '2026-01-01T00:10:00.000Z' },
  { placedTo: '2026-01-01T00:20:00Z' },
  { placedFrom: '2026-01-01T00:10:00.000Z', placedTo: '2026-01-01T00:20:00.000Z' },
];

describe.skipIf(skipReason('postgres'))('a list of orders', () => {
  test('has the orders that its filter describes, newest first, whatever the page', async () => {
    await using database = await createTestDatabase();
    await using service = connect(database);
    const random = createRandom();
    await writeRandomOrders(service.store, random, 200);
    const sagas = await insertSagas(database);
    const stored = await readStored(database.url);
    const orders = [...historiesOf(stored.events).values()].map(
      (events) => foldOrder(events).order,
    );
    expect(new Set(orders.map(({ shipmentStatus }) => shipmentStatus)).size).toBe(5);
    expect(new Set(orders.map(({ paymentStatus }) => paymentStatus)).size).toBe(4);
    let found = 0;
    for (const combination of COMBINATIONS) {
      for (const customerId of [undefined, 'c-1', 'c-2', 'nobody']) {
        const time = TIMES[random.below(TIMES.length)]!;
        const filter = { ...combination, ...time, ...(customerId !== undefined && { customerId }) };
        const expected = orders
          .filter((order) => isIn(order, filter, sagas))
          .toSorted((a, b) => newestFirst(a, b))
          .map(({ orderId }) => orderId);
        const limit = 5 + random.below(60);
        expect(await walk(service, filter, limit), JSON.stringify(filter)).toEqual(expected);
        found += expected.length;
      }
    }
    expect(found).toBeGreaterThan(1_000);
  });

  test('shows a customer its own orders only, whatever the filter', async () => {
    await using database = await createTestDatabase();
    await using service = connect(database);
    await writeRandomOrders(service.store, createRandom(), 60);
    await insertSagas(database);
    for (const filter of COMBINATIONS) {
      const own = await walk(service, { ...filter, customerId: 'c-1' }, 100);
      expect(await walk(service, filter, 7, 'c-1')).toEqual(own);
      expect(await walk(service, { ...filter, customerId: 'c-1' }, 7, 'c-1')).toEqual(own);
      expect(await walk(service, { ...filter, customerId: 'c-2' }, 7, 'c-1')).toEqual([]);
    }
  });

  test('neither repeats nor misses an order while others are placed', async () => {
    await using database = await createTestDatabase();
    await using service = connect(database);
    const random = createRandom();
    await writeRandomOrders(service.store, random, 120);
    for (const filter of [
      {},
      { sku: 'book' },
      { customerId: 'c-1' },
      { status: 'pending' },
    ] as const) {
      const before = await walk(service, filter, 100);
      const seen: string[] = [];
      let cursor: string | undefined;
      do {
        const page = await listOrders(service.reads, filter, { limit: 5, cursor });
        seen.push(...page.data.map(({ orderId }) => orderId));
        cursor = page.nextCursor ?? undefined;
        await writeRandomOrders(service.store, random, 3);
      } while (cursor !== undefined);
      expect(new Set(seen).size).toBe(seen.length);
      expect(before.filter((id) => !seen.includes(id))).toEqual([]);
    }
  });

  test('goes on from a cursor of the release before, and from no other list', async () => {
    await using database = await createTestDatabase();
    await using service = connect(database);
    await writeRandomOrders(service.store, createRandom(), 60);
    const list = { customerId: 'c-1' };
    const [, second] = await walk(service, list, 100);
    const { data } = await listOrders(service.reads, list, { limit: 1 });
    const { placedAt, orderId } = data[0]!;
    const filter = '["c-1",null,null,null]';
    const cursor = Buffer.from(JSON.stringify({ placedAt, orderId, filter })).toString('base64url');
    const page = await listOrders(service.reads, list, { limit: 1, cursor });
    expect(page.data.map((order) => order.orderId)).toEqual([second]);
    const others: OrderFilter[] = [{}, { sku: 'book' }, { customerId: 'c-1', sku: 'book' }];
    for (const other of others) {
      const read = listOrders(service.reads, other, { limit: 1, cursor });
      await expect(read).rejects.toThrow(CursorInvalid);
    }
  });

  test('is found by sku once a rebuild has filled in what the release before wrote', async () => {
    await using database = await createTestDatabase();
    await using service = connect(database);
    await writeRandomOrders(service.store, createRandom(), 50);
    const before = await walk(service, { sku: 'book' }, 100);
    expect(before.length).toBeGreaterThan(0);
    await database.query('update orders_summary set skus = null');
    expect(await walk(service, { sku: 'book' }, 100)).toEqual([]);
    expect(await verifyDatabase(database.url, { relay: 'off' })).not.toEqual([]);
    const lines: string[] = [];
    const run = (command: string) =>
      runProjectionCommand([command], service.pool, ordersSummaryProjection, (line) => {
        lines.push(line);
      });
    expect(await run('verify')).toBe(0);
    expect(lines.join()).toContain('50 rows of earlier releases lack skus');
    expect(await run('rebuild')).toBe(0);
    expect(lines.join()).toContain('50 written');
    expect(await walk(service, { sku: 'book' }, 100)).toEqual(before);
    expect(await verifyDatabase(database.url, { relay: 'off' })).toEqual([]);
  });
});

describe.skipIf(skipReason('postgres'))('a page of a list', () => {
  test('reads little more than it shows, wherever it is, of orders that come in runs', async () => {
    await using database = await createTestDatabase();
    await using service = connect(database);
    await insertHostileOrders(database.query, HOSTILE_ORDERS);
    const day = 86_400_000;
    const times = [0.5, 1, 1.5].map((days) => new Date(Date.now() - days * day).toISOString());
    for (const filter of OFFERED) {
      for (const customer of CUSTOMERS) {
        const after = times.map((placedAt) => ({
          placedAt,
          orderId: '01999e5c-7c1f-7d3a-9f52-3b6f0c9d2a11',
        }));
        const pages = [undefined, ...after].map((last) => ({
          filter,
          customer,
          after: last,
          rowsMax: PAGE + 1,
        }));
        for (const page of pages) {
          const { nodes, faults } = await explainPage(service.reads, page);
          expect(faults, JSON.stringify(page)).toEqual([]);
          expect(nodes, JSON.stringify(page)).toContain(indexOf(page.filter, customer));
        }
      }
    }
  });

  test('uses its index even before there are statistics', async () => {
    await using database = await createTestDatabase();
    await using service = connect(database);
    for (const filter of OFFERED) {
      for (const customer of CUSTOMERS) {
        const page = { filter, customer, rowsMax: PAGE + 1 };
        const { nodes } = await explainPage(service.reads, page);
        expect(nodes, JSON.stringify(page)).toContain(indexOf(filter, customer));
      }
    }
  });
});

describe('the filters of a list', () => {
  test.each<[Record<string, string>, string]>([
    [{ sku: 'a', owed: 'true' }, 'sku'],
    [{ status: 'paid', fulfilment: 'stuck' }, 'fulfilment'],
    [{ refund: 'stuck', fulfilment: 'stuck' }, 'refund'],
    [
      { shipmentStatus: 'shipped', paymentStatus: 'paid', externalReference: 'r' },
      'externalReference',
    ],
  ])('%o are refused, with what may be combined', (query, name) => {
    const { error } = listOrdersQuery.safeParse(query);
    expect(error?.issues).toMatchObject([
      {
        path: [name],
        message: expect.stringContaining('status, paymentStatus and shipmentStatus'),
      },
    ]);
  });

  test('of every offered combination are accepted', () => {
    for (const filter of COMBINATIONS) {
      for (const time of TIMES) {
        const query = { ...filter, ...time, customerId: 'c-1' };
        expect(listOrdersQuery.parse(query)).toEqual({ ...query, limit: PAGE });
      }
    }
  });
});

/** The ids of the whole list, read in pages. */
async function walk(
  service: Service,
  filter: OrderFilter,
  limit: number,
  customerId?: string,
): Promise<string[]> {
  const ids: string[] = [];
  let cursor: string | undefined;
  do {
    const page = await listOrders(service.reads, filter, { limit, cursor, customerId });
    ids.push(...page.data.map(({ orderId }) => orderId));
    cursor = page.nextCursor ?? undefined;
  } while (cursor !== undefined);
  return ids;
}

type SagaRow = Readonly<{
  order_id: string;
  definition: string;
  state: string;
  is_waiting: boolean;
}>;

/** Sagas in every state, up to three refunds of an order, and some that have ended. */
async function insertSagas(database: TestDatabase): Promise<SagaRow[]> {
  await database.query(`
    insert into saga_work (saga_id, subject_id, definition, definition_version, state, attempt, failures, owner, epoch)
    select gen_random_uuid(), order_id, definition, 1,
      (array['running', 'compensating', 'stuck', 'completed'])[1 + h % 4], h / 4 % 2, h / 8 % 2,
      case h / 16 % 2 when 1 then gen_random_uuid() end, 1
    from orders_summary,
      (values ('fulfilment', 1), ('refund', 1), ('refund', 2), ('refund', 3)) as d (definition, n),
      lateral (select abs(hashtext(order_id::text || definition || n)) as h) as hashes
    where h % 3 > 0`);
  return database.query<SagaRow>(`
    select subject_id as order_id, definition, state,
      state in ('running', 'compensating') and owner is null and attempt + failures > 0 as is_waiting
    from saga_work`);
}

/** Whether the order belongs to the list: the tests' own reading of the filters. */
function isIn(order: Order, filter: OrderFilter, sagas: readonly SagaRow[]): boolean {
  const { customerId, status, paymentStatus, shipmentStatus, placedFrom, placedTo } = filter;
  const own = sagas.filter(({ order_id }) => order_id === order.orderId);
  const has = (definition: string, state: string) =>
    own.some(
      (saga) =>
        saga.definition === definition &&
        (state === 'waiting' ? saga.is_waiting : saga.state === state),
    );
  const placedAt = Date.parse(order.placedAt);
  return (
    (customerId ?? order.customerId) === order.customerId &&
    (status ?? order.status) === order.status &&
    (paymentStatus ?? order.paymentStatus) === order.paymentStatus &&
    (shipmentStatus ?? order.shipmentStatus) === order.shipmentStatus &&
    (filter.externalReference ?? order.externalReference) === order.externalReference &&
    (filter.sku === undefined || order.items.some(({ sku }) => sku === filter.sku)) &&
    (filter.owed === undefined || order.owedCents > 0) &&
    (filter.fulfilment === undefined || has('fulfilment', filter.fulfilment)) &&
    (filter.refund === undefined || has('refund', filter.refund)) &&
    (placedFrom === undefined || placedAt >= Date.parse(placedFrom)) &&
    (placedTo === undefined || placedAt <= Date.parse(placedTo))
  );
}

function newestFirst(a: Order, b: Order): number {
  const byTime = b.placedAt.localeCompare(a.placedAt);
  return byTime === 0 ? b.orderId.localeCompare(a.orderId) : byTime;
}

/** The index that serves a list. */
function indexOf(filter: OrderFilter, customer: string | undefined): string {
  const of = customer === undefined ? '' : '_customer';
  if (filter.owed !== undefined) return `orders_summary${of}_owed`;
  if (filter.externalReference !== undefined) return `orders_summary${of}_reference`;
  if (filter.sku !== undefined)
    return customer === undefined ? 'order_skus_pkey' : 'order_skus_customer';
  if (filter.fulfilment === 'waiting') return `saga_work${of}_waiting`;
  if (filter.fulfilment !== undefined || filter.refund !== undefined)
    return `saga_work${of}_orders`;
  const isNarrowed = Object.keys(filter).some((name) => name.endsWith('tatus'));
  if (customer === undefined && !isNarrowed) return 'orders_summary_newest';
  return `orders_summary${of}_state`;
}
