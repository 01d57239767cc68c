import type { EventMetadata, Unit } from '#src/event-store/event-store.ts';
import type { OrderEvent, RecordedOrderEvent } from './domain/order-events.ts';
import { evolve, recordNext } from './domain/order.ts';
import type { Order } from './domain/order.ts';
import { toMessageRow } from './order-messages.ts';
import { ORDER_CATEGORY, orderEventCodec } from './order-stream.ts';
import { toOrdersSummaryRow } from './orders-summary.ts';

/**
 * Builds the unit that appends events to an order, which is null before its first event: the events, the row
 * of the read model and the messages. Without events, the unit only checks the order's version.
 * @returns the unit, and the order after the events
 */
export function appendToOrder(
  orderId: string,
  order: Order | null,
  events: readonly OrderEvent[],
  context: Readonly<{ recordedAt: string; metadata: EventMetadata; topic: string }>,
): Readonly<{ order: Order; unit: Unit }> {
  const { recordedAt, metadata, topic } = context;
  const recorded: RecordedOrderEvent[] = [];
  let after = order;
  for (const event of events) {
    const next = recordNext(after, event, recordedAt);
    recorded.push(next);
    after = evolve(after, next);
  }
  if (after === null) throw new Error(`order ${orderId} has no event`);
  const append = {
    streamId: orderId,
    category: ORDER_CATEGORY,
    expectedVersion: order?.version ?? 0,
    events: recorded.map(({ type, data }) => ({
      type,
      schemaVersion: orderEventCodec.schemaVersion(type),
      data,
      metadata,
      recordedAt,
    })),
  };
  return {
    order: after,
    unit: {
      appends: [append],
      summaries: after === order ? [] : [toOrdersSummaryRow(after)],
      messages: recorded.map((event) => toMessageRow(orderId, event, metadata, topic)),
    },
  };
}
