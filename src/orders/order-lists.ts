import type { Knex } from 'knex';
import { z } from 'zod';
import type { ReadPool } from '#src/database/database.ts';
import { cursorText, instant, queryInteger, safeText, skuText, uuid } from '#src/http/fields.ts';
import { orderView } from './domain/order-view.ts';
import { LISTED_COLUMNS, toOrderSummary } from './orders-summary.ts';
import type { ListedRow, OrderPage, OrderSummary } from './orders-summary.ts';

const PAGE_MAX = 100;
const PAGE_DEFAULT = 25;

const { status, paymentStatus, shipmentStatus } = orderView.shape;

/** These may be combined with each other. */
const STATUSES = ['status', 'paymentStatus', 'shipmentStatus'] as const;
/** Each of these has an index of its own, so none goes with another one, or with a status. */
const ALONE = ['fulfilment', 'refund', 'owed', 'externalReference', 'sku'] as const;
/** For callers: which filters may be combined. */
export const COMBINATIONS =
  'customerId, placedFrom and placedTo may be combined with every filter; status, paymentStatus and ' +
  'shipmentStatus also with each other; fulfilment, refund, owed, externalReference and sku with no other';

export const listOrdersQuery = z
  .strictObject({
    customerId: safeText(1, 64).optional(),
    status: status.optional(),
    placedFrom: instant.optional(),
    placedTo: instant.optional(),
    paymentStatus: paymentStatus.optional(),
    shipmentStatus: shipmentStatus.optional(),
    fulfilment: z
      .enum(['running', 'waiting', 'compensating', 'stuck'])
      .optional()
      .meta({
        description:
          'Orders whose automatic fulfilment is in this state. `waiting`: an attempt failed, and the next one is ' +
          'due later; such an order is also `running` or `compensating`. `stuck`: it waits for an operator.',
      }),
    refund: z.enum(['running', 'stuck']).optional().meta({
      description:
        'Orders with a refund that the payment provider was asked for and that is in this state.',
    }),
    owed: z
      .literal('true')
      .optional()
      .meta({ description: 'Only orders that must still pay something back.' }),
    externalReference: safeText(1, 100)
      .optional()
      .meta({ description: 'Orders that any principal placed with this reference.' }),
    sku: skuText.optional().meta({ description: 'Orders with an item of this sku.' }),
    limit: queryInteger(1, PAGE_MAX).default(PAGE_DEFAULT),
    cursor: cursorText(2000).optional(),
  })
  .superRefine((query, context) => {
    const alone = ALONE.filter((name) => query[name] !== undefined);
    const together = STATUSES.filter((name) => query[name] !== undefined);
    const [last] = alone.slice(-1);
    if (last === undefined || alone.length + together.length < 2) return;
    const others = [...together, ...alone.slice(0, -1)].join(' and ');
    const message = `cannot be combined with ${others}: ${COMBINATIONS}`;
    context.addIssue({ code: 'custom', path: [last], message });
  });

/** What a list is narrowed to. Bounds on `placedAt` are inclusive. */
export type OrderFilter = Omit<z.infer<typeof listOrdersQuery>, 'limit' | 'cursor'>;

/** Which part of a list to read. A customer sees only its own orders. */
export type PageRequest = Readonly<{
  limit: number;
  cursor?: string | undefined;
  customerId?: string | undefined;
}>;

/**
 * One page of orders, newest first. A page starts behind the last order of the page before, so every page
 * costs the same, and orders that are placed meanwhile neither repeat nor hide another.
 * @throws CursorInvalid
 */
export async function listOrders(
  reads: ReadPool,
  filter: OrderFilter,
  { limit, cursor, customerId }: PageRequest,
): Promise<OrderPage> {
  const after = cursor === undefined ? undefined : readCursor(cursor, filter);
  const customer = customerId ?? filter.customerId;
  if (filter.customerId !== undefined && filter.customerId !== customer) {
    return { data: [], nextCursor: null };
  }
  const query = listQuery(reads.knex, { filter, customer, after, rowsMax: limit + 1 });
  const rows = await reads.rows<ListedRow>(query);
  const data = rows.slice(0, limit).map(toOrderSummary);
  const last = data.at(-1);
  return { data, nextCursor: rows.length > limit && last ? writeCursor(last, filter) : null };
}

/** The page of a list. `customer` narrows every list, whatever its filter says. */
export type Selection = Readonly<{
  filter: OrderFilter;
  customer: string | undefined;
  /** The last order of the page before. */
  after?: Readonly<{ placedAt: string; orderId: string }> | undefined;
  rowsMax: number;
}>;

/**
 * The query of a page. A list is a range of one index, so a page reads its own rows and no others, wherever it is and
 * whatever the planner believes.
 */
export function listQuery(knex: Knex, selection: Selection): Knex.QueryBuilder {
  const { externalReference, fulfilment, owed, refund, sku, ...statuses } = selection.filter;
  const orders = knex('orders_summary').select(...LISTED_COLUMNS);
  if (owed !== undefined) {
    return rangeOf(orders.whereRaw(IS_OWED), selection, { keys: [[IS_OWED, true]] });
  }
  if (externalReference !== undefined) {
    const keys: Keys = [['external_reference', externalReference]];
    return rangeOf(orders.whereNotNull('external_reference'), selection, { keys });
  }
  if (sku !== undefined) {
    const found = knex('order_skus').select('placed_at', 'order_id');
    return ordersOf(knex, rangeOf(found, selection, { keys: [['sku', sku]] }));
  }
  if (fulfilment !== undefined) {
    return ordersOf(knex, sagasOf(knex, selection, 'fulfilment', fulfilment));
  }
  if (refund !== undefined) return ordersOf(knex, sagasOf(knex, selection, 'refund', refund));
  const isNarrowed = STATUSES.some((name) => statuses[name] !== undefined);
  if (selection.customer === undefined && !isNarrowed) {
    return rangeOf(orders, selection, { keys: [] });
  }
  return ordersInStates(knex, selection);
}

/** The first columns of an index, and the value of each. */
type Keys = readonly (readonly [column: string, value: string | boolean | Knex.Raw])[];

const IS_OWED =
  'order_is_owed(status, total_cents, captured_cents, refunded_cents, allowance_cents)';

/**
 * Narrows a query to the page: a range of the index on `customer_id` if there is one, the keys, `placed_at` and the
 * column `id`. The bounds are rows, and the order is that of the whole index. Were the keys compared for equality, other
 * indexes would be in the order of the page as well, and the planner would read one and drop what does not belong.
 */
function rangeOf(
  query: Knex.QueryBuilder,
  { filter: { placedFrom, placedTo }, customer, after, rowsMax }: Selection,
  { keys, id = 'order_id' }: Readonly<{ keys: Keys; id?: string }>,
): Knex.QueryBuilder {
  const prefix: Keys = customer === undefined ? keys : [['customer_id', customer], ...keys];
  const bound = (operator: string, ...ends: Keys) => {
    const row = [...prefix, ...ends];
    const columns = row.map(([column]) => column).join(', ');
    const values = row.map(() => '?').join(', ');
    query.whereRaw(
      `(${columns}) ${operator} (${values})`,
      row.map(([, value]) => value),
    );
  };
  if (placedFrom !== undefined) bound('>=', ['placed_at', placedFrom]);
  else if (prefix.length > 0) bound('>=');
  // One upper bound only: Postgres would begin at either of two.
  const last = placedTo === undefined ? Infinity : Date.parse(placedTo);
  if (after !== undefined && Date.parse(after.placedAt) <= last) {
    bound('<', ['placed_at', after.placedAt], [id, after.orderId]);
  } else if (placedTo !== undefined) bound('<=', ['placed_at', placedTo]);
  else if (prefix.length > 0) bound('<=');
  const order = [...prefix.map(([column]) => column), 'placed_at', id];
  return query.orderByRaw(order.map((column) => `${column} desc`).join(', ')).limit(rowsMax);
}

/**
 * A union over all combinations of the three statuses that the filter leaves: the newest orders of each, and of
 * these the newest.
 */
function ordersInStates(knex: Knex, selection: Selection): Knex.QueryBuilder {
  const states = statesOf(selection.filter);
  const keys: Keys = [
    ['status', knex.raw('state.status')],
    [
      'order_payment_status(paid_at, captured_cents, refunded_cents)',
      knex.raw('state.payment_status'),
    ],
    ['order_shipment_status(status, shipment_progress)', knex.raw('state.shipment_status')],
  ];
  const ofState = knex('orders_summary').select(...LISTED_COLUMNS);
  const names = 'state (status, payment_status, shipment_status)';
  return knex
    .select('found.*')
    .from(
      knex.raw(`unnest(?::text[], ?::text[], ?::text[]) as ${names}`, [
        states.map((state) => state.status),
        states.map((state) => state.paymentStatus),
        states.map((state) => state.shipmentStatus),
      ]),
    )
    .crossJoin(knex.raw('lateral ? as found', [rangeOf(ofState, selection, { keys })]))
    .orderByRaw('placed_at desc, order_id desc')
    .limit(selection.rowsMax);
}

const OPTIONS = {
  status: status.options,
  paymentStatus: paymentStatus.options,
  shipmentStatus: shipmentStatus.options,
} as const;

function statesOf(filter: OrderFilter) {
  const of = (name: (typeof STATUSES)[number]) => {
    const { [name]: one } = filter;
    return one === undefined ? OPTIONS[name] : [one];
  };
  return of('status').flatMap((order) =>
    of('paymentStatus').flatMap((payment) =>
      of('shipmentStatus').map((shipment) => ({
        status: order,
        paymentStatus: payment,
        shipmentStatus: shipment,
      })),
    ),
  );
}

const IS_LIVE = "state in ('running', 'compensating', 'stuck')";
const IS_WAITING =
  "owner is null and (attempt > 0 or failures > 0) and state in ('running', 'compensating')";

/** The orders of sagas that have not ended. An order with several refunds is found once. */
function sagasOf(
  knex: Knex,
  selection: Selection,
  definition: string,
  state: 'running' | 'waiting' | 'compensating' | 'stuck',
): Knex.QueryBuilder {
  const isWaiting = state === 'waiting';
  const keys: Keys = [
    ['definition', definition],
    ...(isWaiting ? [] : [['state', state] as const]),
  ];
  const columns = [
    ...(selection.customer === undefined ? [] : ['customer_id']),
    ...keys.map(([column]) => column),
  ];
  const sagas = knex(knex.raw('only saga_work'))
    .distinct(...columns, 'placed_at', 'subject_id as order_id')
    .whereRaw(isWaiting ? IS_WAITING : IS_LIVE)
    .whereNotNull('placed_at');
  return rangeOf(sagas, selection, { keys, id: 'subject_id' });
}

/** The orders that another table has found for the page. */
function ordersOf(knex: Knex, found: Knex.QueryBuilder): Knex.QueryBuilder {
  const order = knex('orders_summary')
    .select(...LISTED_COLUMNS)
    .where('order_id', knex.ref('found.order_id'));
  return knex
    .select('o.*')
    .from(found.as('found'))
    .crossJoin(knex.raw('lateral ? as o', [order]))
    .orderByRaw('found.placed_at desc, found.order_id desc');
}

/** The cursor was not made by this service, or it was made for a list with other filters. */
export class CursorInvalid extends Error {
  constructor() {
    super('the cursor does not belong to this list');
    this.name = 'CursorInvalid';
  }
}

const cursorContent = z.strictObject({
  placedAt: instant,
  orderId: uuid,
  filter: z.string(),
});

function writeCursor({ placedAt, orderId }: OrderSummary, filter: OrderFilter): string {
  const content = JSON.stringify({ placedAt, orderId, filter: filterText(filter) });
  return Buffer.from(content).toString('base64url');
}

function readCursor(cursor: string, filter: OrderFilter) {
  const text = Buffer.from(cursor, 'base64url').toString();
  const content = cursorContent.safeParse(parseJson(text));
  const isOwn = Buffer.from(text).toString('base64url') === cursor;
  if (!isOwn || !content.success || content.data.filter !== filterText(filter)) {
    throw new CursorInvalid();
  }
  const { placedAt, orderId } = content.data;
  return { placedAt, orderId };
}

/** Filters that are added later follow by name, so that the cursors of earlier releases stay valid. */
function filterText({ customerId, status, placedFrom, placedTo, ...added }: OrderFilter): string {
  return JSON.stringify([customerId, status, placedFrom, placedTo, ...Object.entries(added)]);
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
