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
  /** Adds to data of the present version the members that earlier releases did not store. */
  fill?: Cast;
  example: Readonly<{ version: number; data: z.infer<Data> }>;
}>;

function event<const Type extends string, Data extends z.ZodObject>(
  type: Type,
  description: EventDescription<Data>,
) {
  const schema = z.object({ type: z.literal(type), data: description.data });
  return { upcasts: [], downcasts: [], fill: undefined, ...description, type, schema };
}

const cents = z.int().min(0);
const reason = z.string().optional();
const returnId = z.string().optional();
const parcelItems = z
  .array(
    z.object({
      lineId: z.string().describe('The line of the order.'),
      quantity: z.int().positive().describe('How many of it.'),
    }),
  )
  .describe('A part of what was ordered, by line.');
const ORDER_ID = '01999e5c-7c1f-7d3a-9f52-3b6f0c9d2a11';

/** Orders of releases before lines had ids: the id of a line is its number. */
function numberLines(data: unknown): unknown {
  if (typeof data !== 'object' || data === null || !('items' in data)) return data;
  if (!Array.isArray(data.items)) return data;
  const items: unknown[] = data.items;
  if (items.every(hasLineId)) return data;
  const numbered = items.map((item, index) => Object.assign({ lineId: String(index + 1) }, item));
  return { ...data, items: numbered };
}

function hasLineId(item: unknown): boolean {
  return typeof item === 'object' && item !== null && 'lineId' in item;
}

/**
 * Everything that can happen to an order. Events are stored for ever: a field may be added, but it is never
 * renamed and its meaning never changes. Amounts are in the minor unit of the order's currency. Personal data is
 * never in an event: events are published, and cannot be erased.
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
            lineId: z
              .string()
              .describe('Names the line. In messages without it, it is the number of the line.'),
            sku: z.string().describe('The article.'),
            name: z.string().optional().describe('What the article was called.'),
            quantity: z.int().positive().describe('How many of it.'),
            priceCents: cents.describe('Price of one.'),
          }),
        )
        .describe('What was ordered.'),
      shippingCents: cents.optional().describe('Price of the shipping. 0 if absent.'),
      taxCents: cents.optional().describe('Tax on top of the prices. 0 if absent.'),
      discountCents: cents.optional().describe('Taken off the sum. 0 if absent.'),
      totalCents: cents.describe(
        'Sum of quantity times priceCents, plus shippingCents and taxCents, minus discountCents.',
      ),
      externalReference: z.string().optional().describe('What the caller calls the order.'),
      metadata: z.record(z.string(), z.string()).optional().describe('Notes of the caller.'),
      hasShippingAddress: z
        .literal(true)
        .optional()
        .describe('There is a shipping address. The address itself is never published.'),
      hasContact: z.literal(true).optional().describe('There is an e-mail address or a phone.'),
      hasPaymentMethod: z.literal(true).optional().describe('There is a payment method.'),
    }),
    fill: numberLines,
    example: {
      version: 1,
      data: {
        orderId: ORDER_ID,
        customerId: 'c-1',
        currency: 'EUR',
        items: [{ lineId: '1', sku: 'book', name: 'A book', quantity: 2, priceCents: 1000 }],
        shippingCents: 500,
        totalCents: 2500,
        externalReference: 'shop-1001',
        metadata: { channel: 'web' },
        hasShippingAddress: true,
        hasContact: true,
        hasPaymentMethod: true,
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
      sagaId: z
        .string()
        .optional()
        .describe('The fulfilment that captured it. Absent for a payment that a caller reported.'),
    }),
    example: { version: 2, data: { amountCents: 2500, paymentId: 'pay-1' } },
  }),

  OrderShipped: event('OrderShipped', {
    messageType: 'order.shipped.v1',
    title: 'Order shipped',
    summary: 'A parcel has left with all that was left of the order. The whole order has shipped.',
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
      allowanceCents: cents
        .optional()
        .describe('The part that the order did not owe: it lowers what the order costs.'),
      reason: reason.describe('Why it was refunded.'),
      returnId: returnId.describe('The return that it was refunded for.'),
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
    data: z.object({
      capturedPaymentId: z
        .string()
        .optional()
        .describe('A payment that was reported by hand, and that the fulfilment captured.'),
    }),
    example: { version: 4, data: {} },
  }),

  ParcelShipped: event('ParcelShipped', {
    messageType: 'order.parcel_shipped.v1',
    title: 'Parcel shipped',
    summary: 'A parcel has left with a part of the order. More parcels follow.',
    data: z.object({
      trackingNumber: z.string().describe('Tracking number of the parcel.'),
      carrier: z.string().describe('Who carries it.'),
      items: parcelItems,
    }),
    example: {
      version: 3,
      data: { trackingNumber: 'T-1', carrier: 'post', items: [{ lineId: '1', quantity: 1 }] },
    },
  }),

  ParcelDelivered: event('ParcelDelivered', {
    messageType: 'order.parcel_delivered.v1',
    title: 'Parcel delivered',
    summary: 'A parcel of the order was delivered.',
    data: z.object({ trackingNumber: z.string().describe('Tracking number of the parcel.') }),
    example: { version: 4, data: { trackingNumber: 'T-1' } },
  }),

  ItemsReturned: event('ItemsReturned', {
    messageType: 'order.items_returned.v1',
    title: 'Items returned',
    summary: 'The customer returned a part of what was shipped, or all of it.',
    data: z.object({
      returnId: z.string().describe('Id of the return.'),
      items: parcelItems,
      reason: z.string().describe('Why they were returned.'),
      restock: z.boolean().describe('Whether they were put back into the stock.'),
    }),
    example: {
      version: 5,
      data: {
        returnId: 'ret-1',
        items: [{ lineId: '1', quantity: 1 }],
        reason: 'too small',
        restock: true,
      },
    },
  }),

  /** It is recorded before the provider is asked, so that the amount is not refunded twice. */
  RefundRequested: event('RefundRequested', {
    messageType: 'order.refund_requested.v1',
    title: 'Refund requested',
    summary: 'The payment provider is about to be asked for a refund.',
    data: z.object({
      refundId: z.string().describe('Id of the refund.'),
      amountCents: cents.describe('What is to be refunded.'),
      paymentId: z.string().describe('The payment that is to be refunded.'),
      sagaId: z.string().describe('Id of the saga that asks the provider.'),
      reason: reason.describe('Why it is refunded.'),
      returnId: returnId.describe('The return that it is refunded for.'),
    }),
    example: {
      version: 6,
      data: {
        refundId: 'ref-1',
        amountCents: 1000,
        paymentId: 'pay-1',
        sagaId: '01999e5c-7c1f-7d3a-9f52-3b6f0c9d2a13',
        returnId: 'ret-1',
      },
    },
  }),

  RefundFailed: event('RefundFailed', {
    messageType: 'order.refund_failed.v1',
    title: 'Refund failed',
    summary: 'The payment provider refused a refund. The amount can be refunded again.',
    data: z.object({
      refundId: z.string().describe('Id of the refund.'),
      reason: z.string().describe('Why it was refused.'),
    }),
    example: { version: 7, data: { refundId: 'ref-1', reason: 'refund_refused' } },
  }),

  ShippingAddressChanged: event('ShippingAddressChanged', {
    messageType: 'order.shipping_address_changed.v1',
    title: 'Shipping address changed',
    summary:
      'The order is to be shipped to another address. The address itself is never published.',
    data: z.object({}),
    example: { version: 2, data: {} },
  }),

  PersonalDataErased: event('PersonalDataErased', {
    messageType: 'order.personal_data_erased.v1',
    title: 'Personal data erased',
    summary: 'Address, contact and payment method of the order were erased.',
    data: z.object({}),
    example: { version: 8, data: {} },
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

/** A part of a line: what a parcel holds of it, or what is returned of it. */
export type LineQuantity = OrderEventData<'ParcelShipped'>['items'][number];
