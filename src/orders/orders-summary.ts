import type { OrdersSummaryRow } from '#src/event-store/event-store.ts';
import type { Projection } from '#src/projections/projection.ts';
import { ORDER_CATEGORY, toRecordedOrderEvent } from './order-stream.ts';
import { evolveView } from './order-view.ts';
import type { OrderView } from './order-view.ts';

/** The row that stands for an order. A command and a rebuild both write this one. */
export function toOrdersSummaryRow(view: OrderView): OrdersSummaryRow {
  return {
    order_id: view.orderId,
    customer_id: view.customerId,
    status: view.status,
    currency: view.currency,
    item_count: view.itemCount,
    total_cents: view.totalCents,
    captured_cents: view.capturedCents,
    refunded_cents: view.refundedCents,
    placed_at: view.placedAt,
    paid_at: view.paidAt ?? null,
    shipped_at: view.shippedAt ?? null,
    tracking_number: view.trackingNumber ?? null,
    cancelled_at: view.cancelledAt ?? null,
    version: view.version,
  };
}

/** The read model of orders, as a rebuild or a check sees it. */
export const ordersSummaryProjection: Projection = {
  table: 'orders_summary',
  keyColumn: 'order_id',
  category: ORDER_CATEGORY,
  project(stream) {
    const events = stream.map(toRecordedOrderEvent);
    const view = events.reduce<OrderView | null>(evolveView, null);
    if (!view) throw new Error('a stream without events has no summary');
    return toOrdersSummaryRow(view);
  },
};
