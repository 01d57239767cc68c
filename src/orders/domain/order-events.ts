import { z } from 'zod';

/** The category of the streams of orders. */
export const ORDER_CATEGORY = 'order';

/** Turns the data of one schema version into that of the next, or back. */
type Cast = (data: unknown) => unknown;

type EventDescription<Data extends z.ZodObject> = Readonly<{
  /** The public name of its Kafka message, whatever the event is called inside. */
  messageType: string;
  /** Title and summary of the message in the AsyncAPI document and in /docs/events. */
  title: string;
  summary: string;
  /** The data as it is stored now. It is published unchanged. */
  data: Data;
  /** Lift stored data of earlier schema versions: the first from version 1 to 2, and so on. */
  upcasts?: readonly Cast[];
  /** Take data that the next release stores down to the schema of this one, so that both can run together. */
  downcasts?: readonly Cast[];
  example: Readonly<{ version: number; data: z.infer<Data> }>;
}>;

function event<const Type extends string, Data extends z.ZodObject>(
  type: Type,
  description: EventDescription<Data>,
) {
  const schema = z.object({ type: z.literal(type), data: description.data });
  return { upcasts: [], downcasts: [], ...description, type, schema };
}

const cents = z.int().min(0);
const ORDER_ID = '01999e5c-7c1f-7d3a-9f52-3b6f0c9d2a11';

/**
 * Everything that can happen to an order. Events are stored for ever: a field may be added, but it is never
 * renamed and its meaning never changes. Amounts are in the minor unit of the order's currency.
 */
export const orderEvents = {
  OrderPlaced: event('OrderPlaced', {
    messageType: 'order.placed.v1',
    title: 'Order placed',
    summary: 'An order was placed.',
    data: z.object({
      orderId: z.string().describe('The order.'),
      customerId: z.string().describe('The customer that placed it.'),
      currency: z
        .string()
        .describe('ISO 4217 code. All amounts of the order are in its minor unit.'),
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
    example: {
      version: 1,
      data: {
        orderId: ORDER_ID,
        customerId: 'c-1',
        currency: 'EUR',
        items: [{ sku: 'book', quantity: 2, priceCents: 1250 }],
        totalCents: 2500,
      },
    },
  }),

  /** It is recorded in every state of the order. What the order may not keep is owed to the customer. */
  PaymentCaptured: event('PaymentCaptured', {
    messageType: 'order.payment_captured.v1',
    title: 'Payment captured',
    summary:
      'A payment was captured. An order can have several payments and is paid once they cover its total. ' +
      'What exceeds the total must be paid back; if the order is already cancelled, everything must. ' +
      'amountCents is 0 for an order that costs nothing.',
    data: z.object({
      amountCents: cents.describe('What was captured.'),
      paymentId: z.string().describe('Id of the payment at the payment provider.'),
    }),
    example: { version: 2, data: { amountCents: 2500, paymentId: 'pay-1' } },
  }),

  OrderShipped: event('OrderShipped', {
    messageType: 'order.shipped.v1',
    title: 'Order shipped',
    summary: 'The parcel has left.',
    data: z.object({
      trackingNumber: z.string().describe('Tracking number of the parcel.'),
      carrier: z.string().describe('Who carries it.'),
    }),
    example: { version: 3, data: { trackingNumber: 'T-1', carrier: 'post' } },
  }),

  OrderCancelled: event('OrderCancelled', {
    messageType: 'order.cancelled.v1',
    title: 'Order cancelled',
    summary:
      'The order was cancelled. What must still be paid back is refundAmountCents, plus what is captured ' +
      'later, minus what has been refunded.',
    data: z.object({
      reason: z.string().describe('Why the order was cancelled.'),
      refundAmountCents: cents.describe('Everything that was captured before.'),
    }),
    example: { version: 3, data: { reason: 'changed my mind', refundAmountCents: 2500 } },
  }),

  PaymentRefunded: event('PaymentRefunded', {
    messageType: 'order.payment_refunded.v1',
    title: 'Payment refunded',
    summary: 'All or part of a payment was refunded to the customer.',
    data: z.object({
      refundId: z.string().describe('Id of the refund.'),
      amountCents: cents.describe('What was refunded.'),
      paymentId: z.string().describe('The payment that was refunded.'),
    }),
    example: { version: 4, data: { refundId: 'ref-1', amountCents: 2500, paymentId: 'pay-1' } },
  }),

  /** From here on the saga captures the payment and ships. */
  FulfilmentStarted: event('FulfilmentStarted', {
    messageType: 'order.fulfilment_started.v1',
    title: 'Fulfilment started',
    summary:
      'The automatic fulfilment has started: it reserves the stock, captures the payment and ships.',
    data: z.object({ sagaId: z.string().describe('Id of the fulfilment.') }),
    example: { version: 2, data: { sagaId: '01999e5c-7c1f-7d3a-9f52-3b6f0c9d2a12' } },
  }),

  CancellationRequested: event('CancellationRequested', {
    messageType: 'order.cancellation_requested.v1',
    title: 'Cancellation requested',
    summary: 'The fulfilment is being undone. The order is cancelled once that is done.',
    data: z.object({ reason: z.string().describe('Why the order is to be cancelled.') }),
    example: { version: 3, data: { reason: 'changed my mind' } },
  }),

  ShipmentRequested: event('ShipmentRequested', {
    messageType: 'order.shipment_requested.v1',
    title: 'Shipment requested',
    summary: 'The carrier is about to be asked to ship. From now on the order cannot be cancelled.',
    data: z.object({}),
    example: { version: 4, data: {} },
  }),
} as const;

export type OrderEventType = keyof typeof orderEvents;
export type OrderEvent = Readonly<z.infer<(typeof orderEvents)[OrderEventType]['schema']>>;
export type OrderEventData<Type extends OrderEventType> = z.infer<
  (typeof orderEvents)[Type]['data']
>;

/** An event of an order with its version in the stream and its time (ISO 8601, UTC). */
export type RecordedOrderEvent = OrderEvent & Readonly<{ version: number; recordedAt: string }>;

/** One line of an order. A sku may stand in several lines. */
export type OrderItem = OrderEventData<'OrderPlaced'>['items'][number];
