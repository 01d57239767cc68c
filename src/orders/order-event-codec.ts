import { z } from 'zod';
import { createEventCodec } from '#src/event-store/event-codec.ts';
import type { StoredEvent } from '#src/event-store/event-store.ts';
import type { OrderEvent, OrderEventType } from './domain/order-events.ts';
import type { RecordedOrderEvent } from './order-view.ts';

export const ORDER_CATEGORY = 'order';

const cents = z.int().min(0);

/** The data of each event, as it is stored and as it is published. */
export const orderEventData = {
  OrderPlaced: z.object({
    orderId: z.string().describe('The order.'),
    customerId: z.string().describe('The customer that placed it.'),
    currency: z.string().describe('ISO 4217 code. All amounts of the order are in its minor unit.'),
    items: z
      .array(
        z.object({
          sku: z.string().describe('The article.'),
          quantity: z.int().positive().describe('How many of it.'),
          priceCents: cents.describe('Price of one.'),
        }),
      )
      .describe('What was ordered.'),
    totalCents: cents.describe('Sum of quantity times priceCents.'),
  }),
  PaymentCaptured: z.object({
    amountCents: cents.describe('What was captured.'),
    paymentId: z.string().describe('Id of the payment at the payment provider.'),
  }),
  OrderShipped: z.object({
    trackingNumber: z.string().describe('Tracking number of the parcel.'),
    carrier: z.string().describe('Who carries it.'),
  }),
  OrderCancelled: z.object({
    reason: z.string().describe('Why the order was cancelled.'),
    refundAmountCents: cents.describe('Everything that was captured before.'),
  }),
  PaymentRefunded: z.object({
    refundId: z.string().describe('Id of the refund.'),
    amountCents: cents.describe('What was refunded.'),
    paymentId: z.string().describe('The payment that was refunded.'),
  }),
  FulfilmentStarted: z.object({ sagaId: z.string().describe('Id of the fulfilment.') }),
  CancellationRequested: z.object({
    reason: z.string().describe('Why the order is to be cancelled.'),
  }),
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
  stored: Omit<StoredEvent, 'streamId' | 'position' | 'metadata'>,
): RecordedOrderEvent {
  const { version, recordedAt } = stored;
  return { ...orderEventCodec.decode(stored), version, recordedAt };
}
