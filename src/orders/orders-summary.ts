import type { OrdersSummaryRow } from '#src/event-store/event-store.ts';
import type { Projection } from '#src/projections/projection.ts';
import type { OrderView } from './domain/order.ts';
import { ORDER_CATEGORY, foldOrder } from './order-stream.ts';

/** The row that stands for an order. A command and a rebuild both write this one. */
export function toOrdersSummaryRow(order: OrderView): OrdersSummaryRow {
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
  };
}

/** The read model of orders, as a rebuild or a check sees it. */
export const ordersSummaryProjection: Projection = {
  table: 'orders_summary',
  keyColumn: 'order_id',
  category: ORDER_CATEGORY,
  project(stream) {
    const order = foldOrder(stream);
    if (!order) throw new Error('a stream without events has no summary');
    return toOrdersSummaryRow(order);
  },
};
