import type { EventMetadata, StreamAppend, Unit } from '#src/event-store/event-store.ts';
import type { OrderEvent, RecordedOrderEvent } from './domain/order-events.ts';
import { ORDER_CATEGORY, orderEventCodec } from './order-stream.ts';
import { toMessageRow } from './order-messages.ts';
import { evolveView } from './order-view.ts';
import type { OrderView } from './order-view.ts';
import { toOrdersSummaryRow } from './orders-summary.ts';

/** An order at one version, as people see it; `view` is null before its first event. */
export type OrderAt = Readonly<{ orderId: string; view: OrderView | null }>;

/** What new events do to an order, and the unit that makes it so. */
export type OrderAppend = Readonly<{ view: OrderView; unit: Unit }>;

/** Builds the unit that appends `events` (at least one) to an order, at `recordedAt`. */
export function appendToOrder(
  { orderId, view }: OrderAt,
  events: readonly [OrderEvent, ...OrderEvent[]],
  context: Readonly<{ recordedAt: string; metadata: EventMetadata; topic: string }>,
): OrderAppend {
  const { recordedAt, metadata, topic } = context;
  const expectedVersion = view?.version ?? 0;
  const record = (event: OrderEvent, index: number): RecordedOrderEvent => ({
    ...event,
    version: expectedVersion + 1 + index,
    recordedAt,
  });
  const recorded = events.map(record);
  const [first, ...rest] = events;
  const after = rest.reduce(
    (sofar, event, index) => evolveView(sofar, record(event, index + 1)),
    evolveView(view, record(first, 0)),
  );
  const append: StreamAppend = {
    streamId: orderId,
    category: ORDER_CATEGORY,
    expectedVersion,
    events: events.map(({ type, data }) => ({
      type,
      schemaVersion: orderEventCodec.schemaVersion(type),
      data,
      metadata,
      recordedAt,
    })),
  };
  return {
    view: after,
    unit: {
      appends: [append],
      summaries: [toOrdersSummaryRow(after)],
      messages: recorded.map((event) => toMessageRow(orderId, event, metadata, topic)),
    },
  };
}
