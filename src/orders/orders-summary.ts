import { z } from 'zod';
import type { ReadPool } from '#src/database/database.ts';
import { orderView } from './domain/order-view.ts';
import { owedCents, paymentStatus } from './domain/order.ts';
import type { Order } from './domain/order.ts';
import { orderSummaryExample } from './order-schemas.ts';

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
    skus: JSON.stringify([...new Set(order.items.map(({ sku }) => sku))]),
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

/** What lists read of a row. */
export const LISTED_COLUMNS = [
  'order_id',
  'customer_id',
  'external_reference',
  'status',
  'shipment_progress',
  'currency',
  'item_count',
  'total_cents',
  'allowance_cents',
  'captured_cents',
  'refunded_cents',
  'version',
  'placed_at',
  'paid_at',
  'shipped_at',
  'tracking_number',
  'cancelled_at',
] as const;

/** A row as lists read it: times are dates. */
export type ListedRow = Readonly<{
  [Column in (typeof LISTED_COLUMNS)[number]]: Column extends `${string}_at`
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

export type OrderSummary = z.infer<typeof orderSummary>;

/** The order that a row shows. */
export function toOrderSummary(row: ListedRow): OrderSummary {
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

export type OrderPage = z.infer<typeof orderPage>;

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
