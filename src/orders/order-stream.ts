import { createEventCodec } from '#src/event-store/event-codec.ts';
import type {
  EventMetadata,
  ReservationRow,
  StoredEvent,
  Unit,
} from '#src/event-store/event-store.ts';
import type { Projection } from '#src/projections/projection.ts';
import { ORDER_CATEGORY, orderEvents } from './domain/order-events.ts';
import type { OrderEvent, RecordedOrderEvent } from './domain/order-events.ts';
import { evolve, recordNext } from './domain/order.ts';
import type { Order } from './domain/order.ts';
import { toMessageRow } from './order-messages.ts';
import { toOrdersSummaryRow } from './orders-summary.ts';

/** Reads stored events of orders. */
export const orderEventCodec = createEventCodec<OrderEvent>(orderEvents);

/** What an order is folded from: a stored event without what no fold depends on. */
type StreamEvent = Omit<StoredEvent, 'streamId' | 'position' | 'metadata'>;

/** @throws EventUnreadable */
export function toRecordedOrderEvent(stored: StreamEvent): RecordedOrderEvent {
  const { version, recordedAt } = stored;
  return { ...orderEventCodec.decode(stored), version, recordedAt };
}

/**
 * The order that its stream makes, null for an empty stream.
 * @throws EventUnreadable, StreamDamaged
 */
export function foldOrder(stream: readonly StreamEvent[]): Order | null {
  return stream.reduce<Order | null>(
    (order, stored) => evolve(order, toRecordedOrderEvent(stored)),
    null,
  );
}

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
  const reservations = restocked(order, events);
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
      ...(reservations.length > 0 && { reservations }),
    },
  };
}

/** Returned goods that are put back into the stock. */
function restocked(order: Order | null, events: readonly OrderEvent[]): ReservationRow[] {
  return events.flatMap((event) => {
    if (event.type !== 'ItemsReturned' || !event.data.restock) return [];
    return event.data.items.flatMap(({ lineId, quantity }) => {
      const line = order?.items.find((known) => known.lineId === lineId);
      return line ? [{ op: 'restock', sku: line.sku, quantity } as const] : [];
    });
  });
}

/** The read model of orders, for `verify` and `rebuild`. */
export const ordersSummaryProjection: Projection = {
  table: 'orders_summary',
  keyColumn: 'order_id',
  category: ORDER_CATEGORY,
  filledByRebuild: ['skus'],
  project(stream) {
    const order = foldOrder(stream);
    if (!order) throw new Error('a stream without events has no summary');
    return toOrdersSummaryRow(order);
  },
};
