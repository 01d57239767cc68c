import { z } from 'zod';
import { createEventCodec } from '#src/event-store/event-codec.ts';
import type { StoredEvent } from '#src/event-store/event-store.ts';
import type { OrderEvent, OrderEventType } from './domain/order-events.ts';
import type { RecordedOrderEvent } from './order-view.ts';

export const ORDER_CATEGORY = 'order';

const cents = z.int().min(0);

/** What each event says, as it is stored and as it is told to others. */
export const orderEventData = {
  OrderPlaced: z.object({
    orderId: z.string(),
    customerId: z.string(),
    currency: z.string(),
    items: z.array(z.object({ sku: z.string(), quantity: z.int().positive(), priceCents: cents })),
    totalCents: cents,
  }),
  PaymentCaptured: z.object({ amountCents: cents, paymentId: z.string() }),
  OrderShipped: z.object({ trackingNumber: z.string(), carrier: z.string() }),
  OrderCancelled: z.object({ reason: z.string(), refundAmountCents: cents }),
  PaymentRefunded: z.object({ refundId: z.string(), amountCents: cents, paymentId: z.string() }),
  FulfilmentStarted: z.object({ sagaId: z.string() }),
  CancellationRequested: z.object({ reason: z.string() }),
  ShipmentRequested: z.object({}),
} as const satisfies Readonly<Record<OrderEventType, z.ZodObject>>;

const event = <const Type extends OrderEventType>(type: Type) =>
  z.object({ type: z.literal(type), data: orderEventData[type] });

const orderEvent: z.ZodType<OrderEvent> = z.discriminatedUnion('type', [
  event('OrderPlaced'),
  event('PaymentCaptured'),
  event('OrderShipped'),
  event('OrderCancelled'),
  event('PaymentRefunded'),
  event('FulfilmentStarted'),
  event('CancellationRequested'),
  event('ShipmentRequested'),
]);

/**
 * Reads stored events of orders. To change the data of an event: change its schema above, and add the
 * function that lifts the old data to the list of its type.
 */
export const orderEventCodec = createEventCodec(orderEvent, {
  OrderPlaced: [],
  PaymentCaptured: [],
  OrderShipped: [],
  OrderCancelled: [],
  PaymentRefunded: [],
  FulfilmentStarted: [],
  CancellationRequested: [],
  ShipmentRequested: [],
});

/** @throws EventUnreadable */
export function toRecordedOrderEvent(
  stored: Omit<StoredEvent, 'position' | 'metadata'>,
): RecordedOrderEvent {
  const { version, recordedAt } = stored;
  return { ...orderEventCodec.decode(stored), version, recordedAt };
}
