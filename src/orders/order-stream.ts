import { createEventCodec } from '#src/event-store/event-codec.ts';
import type { StoredEvent } from '#src/event-store/event-store.ts';
import { orderEvents } from './domain/order-events.ts';
import type { OrderEvent, RecordedOrderEvent } from './domain/order-events.ts';
import { evolve } from './domain/order.ts';
import type { Order } from './domain/order.ts';

/** The category of the streams of orders. */
export const ORDER_CATEGORY = 'order';

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
