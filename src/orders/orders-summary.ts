import { z } from 'zod';
import type { ReadPool } from '#src/database/database.ts';
import { cursorText, instant, queryInteger, safeText, uuid } from '#src/http/fields.ts';
import { orderView, owedCents, paymentStatus } from './domain/order.ts';
import type { Order } from './domain/order.ts';
import { orderSummaryExample } from './order-schemas.ts';

const PAGE_MAX = 100;
const PAGE_DEFAULT = 25;

export const listOrdersQuery = z.strictObject({
  customerId: safeText(1, 64).optional(),
  status: orderView.shape.status.optional(),
  placedFrom: instant.optional(),
  placedTo: instant.optional(),
  limit: queryInteger(1, PAGE_MAX).default(PAGE_DEFAULT),
  cursor: cursorText(1000).optional(),
});

/** What a list is narrowed to. Bounds on `placedAt` are inclusive. */
export type OrderFilter = Omit<z.infer<typeof listOrdersQuery>, 'limit' | 'cursor'>;

type OrdersSummaryRow = ReturnType<typeof toOrdersSummaryRow>;

/** The row of an order in `orders_summary`, which commands and rebuilds write. Times are ISO 8601 in UTC. */
export function toOrdersSummaryRow(order: Order) {
  return {
    order_id: order.orderId,
    customer_id: order.customerId,
    status: order.status,
    currency: order.currency,
    item_count: order.itemCount,
    total_cents: order.totalCents,
    captured_cents: order.capturedCents,
    refunded_cents: order.refundedCents,
    placed_at: order.placedAt,
    paid_at: order.paidAt ?? null,
    shipped_at: order.shippedAt ?? null,
    tracking_number: order.trackingNumber ?? null,
    cancelled_at: order.cancelledAt ?? null,
    version: order.version,
    external_reference: order.externalReference ?? null,
    shipment_progress: shipmentProgress(order),
    allowance_cents: order.allowanceCents,
  };
}

/** Null where the shipment status follows from the status: orders without parcels or returns then need no value. */
function shipmentProgress({ status, shipmentStatus }: Order): Order['shipmentStatus'] | null {
  return shipmentStatus === shipmentStatusOf({ status, shipment_progress: null })
    ? null
    : shipmentStatus;
}

function shipmentStatusOf(
  row: Readonly<{ status: Order['status']; shipment_progress: Order['shipmentStatus'] | null }>,
): Order['shipmentStatus'] {
  return row.shipment_progress ?? (row.status === 'shipped' ? 'shipped' : 'unshipped');
}

/** A row as it is read: times are dates. */
type StoredRow = Readonly<{
  [Column in keyof OrdersSummaryRow]: Column extends `${string}_at`
    ? Date | Extract<OrdersSummaryRow[Column], null>
    : OrdersSummaryRow[Column];
}>;

/** An order in a list, without its items. */
const orderSummary = orderView
  .pick({
    orderId: true,
    customerId: true,
    externalReference: true,
    status: true,
    paymentStatus: true,
    shipmentStatus: true,
    currency: true,
    itemCount: true,
    totalCents: true,
    capturedCents: true,
    refundedCents: true,
    owedCents: true,
    version: true,
    placedAt: true,
    paidAt: true,
    shippedAt: true,
    trackingNumber: true,
    cancelledAt: true,
    fulfilment: true,
  })
  .meta({ id: 'OrderSummary', examples: [orderSummaryExample] });

type OrderSummary = z.infer<typeof orderSummary>;

function toOrderSummary(row: StoredRow): OrderSummary {
  const money = {
    totalCents: row.total_cents,
    capturedCents: row.captured_cents,
    refundedCents: row.refunded_cents,
  };
  return {
    orderId: row.order_id,
    customerId: row.customer_id,
    ...(row.external_reference !== null && { externalReference: row.external_reference }),
    status: row.status,
    paymentStatus: paymentStatus({ ...money, paidAt: row.paid_at }),
    shipmentStatus: shipmentStatusOf(row),
    currency: row.currency,
    itemCount: row.item_count,
    ...money,
    owedCents: owedCents({ ...money, status: row.status, allowanceCents: row.allowance_cents }),
    version: row.version,
    placedAt: row.placed_at.toISOString(),
    ...(row.paid_at && { paidAt: row.paid_at.toISOString() }),
    ...(row.shipped_at && { shippedAt: row.shipped_at.toISOString() }),
    ...(row.tracking_number !== null && { trackingNumber: row.tracking_number }),
    ...(row.cancelled_at && { cancelledAt: row.cancelled_at.toISOString() }),
  };
}

export const orderPage = z.object({
  data: z.array(orderSummary),
  nextCursor: z.string().nullable(),
});

type OrderPage = z.infer<typeof orderPage>;

/** Whether the order exists and is the customer's. */
export async function isOwner(
  reads: ReadPool,
  orderId: string,
  customerId: string,
): Promise<boolean> {
  const owned = reads.knex('orders_summary').where({ order_id: orderId, customer_id: customerId });
  return (await reads.rows(owned.select('order_id'))).length > 0;
}

/** The order that the principal has placed under this reference of its own. */
export async function orderOfReference(
  reads: ReadPool,
  principal: string,
  reference: string,
): Promise<string | undefined> {
  const query = reads.knex('external_references').where({ principal, reference });
  const [row] = await reads.rows<{ order_id: string }>(query.select('order_id'));
  return row?.order_id;
}

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
  const query = reads
    .knex('orders_summary')
    .select('*')
    .orderBy([
      { column: 'placed_at', order: 'desc' },
      { column: 'order_id', order: 'desc' },
    ])
    .limit(limit + 1);
  if (customerId !== undefined) query.where('customer_id', customerId);
  if (filter.customerId !== undefined) query.where('customer_id', filter.customerId);
  if (filter.status !== undefined) query.where('status', filter.status);
  if (filter.placedFrom !== undefined) query.where('placed_at', '>=', filter.placedFrom);
  if (filter.placedTo !== undefined) query.where('placed_at', '<=', filter.placedTo);
  if (cursor !== undefined) {
    query.whereRaw('(placed_at, order_id) < (:placedAt::timestamptz, :orderId::uuid)', {
      ...readCursor(cursor, filter),
    });
  }
  const rows = await reads.rows<StoredRow>(query);
  const data = rows.slice(0, limit).map(toOrderSummary);
  const last = data.at(-1);
  return { data, nextCursor: rows.length > limit && last ? writeCursor(last, filter) : null };
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
