import { z } from 'zod';
import { createEventCodec } from '#src/event-store/event-codec.ts';
import type { StoredEvent } from '#src/event-store/event-store.ts';
import type { OrderEvent } from './domain/order-events.ts';
import type { RecordedOrderEvent } from './order-view.ts';

export const ORDER_CATEGORY = 'order';

const cents = z.int().min(0);
const event = <const Type extends string, Data extends z.ZodType>(type: Type, data: Data) =>
  z.object({ type: z.literal(type), data });

const orderEvent: z.ZodType<OrderEvent> = z.discriminatedUnion('type', [
  event(
    'OrderPlaced',
    z.object({
      orderId: z.string(),
      customerId: z.string(),
      currency: z.string(),
      items: z.array(
        z.object({ sku: z.string(), quantity: z.int().positive(), priceCents: cents }),
      ),
      totalCents: cents,
    }),
  ),
  event('PaymentCaptured', z.object({ amountCents: cents, paymentId: z.string() })),
  event('OrderShipped', z.object({ trackingNumber: z.string(), carrier: z.string() })),
  event('OrderCancelled', z.object({ reason: z.string(), refundAmountCents: cents })),
  event(
    'PaymentRefunded',
    z.object({ refundId: z.string(), amountCents: cents, paymentId: z.string() }),
  ),
  event('FulfilmentStarted', z.object({ sagaId: z.string() })),
  event('CancellationRequested', z.object({ reason: z.string() })),
  event('ShipmentRequested', z.object({})),
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
export function toRecordedOrderEvent(stored: StoredEvent): RecordedOrderEvent {
  const { version, recordedAt } = stored;
  return { ...orderEventCodec.decode(stored), version, recordedAt };
}
