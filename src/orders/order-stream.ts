import { createEventCodec } from '#src/event-store/event-codec.ts';
import type { StoredEvent } from '#src/event-store/event-store.ts';
import { orderEvents } from './domain/order-events.ts';
import type { OrderEvent, RecordedOrderEvent } from './domain/order-events.ts';

/** The category of the streams of orders. */
export const ORDER_CATEGORY = 'order';

/** Reads stored events of orders. */
export const orderEventCodec = createEventCodec<OrderEvent>(orderEvents);

/** @throws EventUnreadable */
export function toRecordedOrderEvent(
  stored: Omit<StoredEvent, 'streamId' | 'position' | 'metadata'>,
): RecordedOrderEvent {
  const { version, recordedAt } = stored;
  return { ...orderEventCodec.decode(stored), version, recordedAt };
}
