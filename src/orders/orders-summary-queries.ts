import { z } from 'zod';
import type { ReadPool } from '#src/database/database.ts';
import { instant, uuid } from '#src/http/fields.ts';
import { owedCents } from './domain/order.ts';
import type { orderSummary } from './order-schemas.ts';

export type OrderSummary = z.infer<typeof orderSummary>;

/** What a list is narrowed to; bounds on `placedAt` are included. */
export type OrderFilter = Readonly<{
  customerId?: string | undefined;
  status?: OrderSummary['status'] | undefined;
  placedFrom?: string | undefined;
  placedTo?: string | undefined;
}>;

export type OrderPage = Readonly<{ data: OrderSummary[]; nextCursor: string | null }>;

/** The cursor was not made by this service, or for a list with other filters. */
export class CursorInvalid extends Error {
  constructor() {
    super('the cursor does not belong to this list');
    this.name = 'CursorInvalid';
  }
}

type Row = Readonly<{
  order_id: string;
  customer_id: string;
  status: OrderSummary['status'];
  currency: string;
  item_count: number;
  total_cents: number;
  captured_cents: number;
  refunded_cents: number;
  placed_at: Date;
  paid_at: Date | null;
  shipped_at: Date | null;
  tracking_number: string | null;
  cancelled_at: Date | null;
  version: number;
}>;

/**
 * One page of orders, newest first. Pages are cut by key, so a page costs the same however far back it
 * is, and orders placed meanwhile neither repeat nor hide any.
 * @throws CursorInvalid
 */
export async function listOrders(
  reads: ReadPool,
  filter: OrderFilter,
  limit: number,
  cursor?: string,
): Promise<OrderPage> {
  const query = reads
    .knex('orders_summary')
    .select('*')
    .orderBy([
      { column: 'placed_at', order: 'desc' },
      { column: 'order_id', order: 'desc' },
    ])
    .limit(limit + 1);
  if (filter.customerId !== undefined) query.where('customer_id', filter.customerId);
  if (filter.status !== undefined) query.where('status', filter.status);
  if (filter.placedFrom !== undefined) query.where('placed_at', '>=', filter.placedFrom);
  if (filter.placedTo !== undefined) query.where('placed_at', '<=', filter.placedTo);
  if (cursor !== undefined) {
    query.whereRaw('(placed_at, order_id) < (:placedAt::timestamptz, :orderId::uuid)', {
      ...readCursor(cursor, filter),
    });
  }
  const rows = await reads.rows<Row>(query);
  const data = rows.slice(0, limit).map(toSummary);
  const last = data.at(-1);
  return { data, nextCursor: rows.length > limit && last ? writeCursor(last, filter) : null };
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

function filterText({ customerId, status, placedFrom, placedTo }: OrderFilter): string {
  return JSON.stringify([customerId, status, placedFrom, placedTo]);
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function toSummary(row: Row): OrderSummary {
  const money = {
    totalCents: row.total_cents,
    capturedCents: row.captured_cents,
    refundedCents: row.refunded_cents,
  };
  return {
    orderId: row.order_id,
    customerId: row.customer_id,
    status: row.status,
    currency: row.currency,
    itemCount: row.item_count,
    ...money,
    owedCents: owedCents({ ...money, status: row.status }),
    version: row.version,
    placedAt: row.placed_at.toISOString(),
    ...(row.paid_at && { paidAt: row.paid_at.toISOString() }),
    ...(row.shipped_at && { shippedAt: row.shipped_at.toISOString() }),
    ...(row.tracking_number !== null && { trackingNumber: row.tracking_number }),
    ...(row.cancelled_at && { cancelledAt: row.cancelled_at.toISOString() }),
  };
}
