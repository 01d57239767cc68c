import { z } from 'zod';

/*
 * What the events of an order hold, stated once more and strictly. The fold of the tests reads them with these
 * shapes, so a member that is missing, misnamed or one too many fails every test that compares with it.
 */

const cents = z.int().min(0).max(Number.MAX_SAFE_INTEGER);
const text = z.string().min(1);
const lines = z.array(z.strictObject({ lineId: text, quantity: z.int().min(1) }));
const parcel = { trackingNumber: text, carrier: text };
const refund = {
  refundId: text,
  amountCents: cents,
  paymentId: text,
  reason: text.optional(),
  returnId: text.optional(),
};

const dataShapes = {
  OrderPlaced: z.strictObject({
    orderId: z.uuid(),
    customerId: z.string(),
    currency: z.string().length(3),
    items: z
      .array(
        z.strictObject({
          // Releases that had no ids of lines are read as if a line's id were its number.
          lineId: text.optional(),
          sku: z.string(),
          name: text.optional(),
          quantity: z.int().min(1),
          priceCents: cents,
        }),
      )
      .min(1),
    shippingCents: cents.optional(),
    taxCents: cents.optional(),
    discountCents: cents.optional(),
    totalCents: cents,
    externalReference: text.optional(),
    metadata: z.record(z.string(), z.string()).optional(),
    hasShippingAddress: z.literal(true).optional(),
    hasContact: z.literal(true).optional(),
    hasPaymentMethod: z.literal(true).optional(),
  }),
  PaymentCaptured: z.strictObject({ amountCents: cents, paymentId: text, sagaId: text.optional() }),
  OrderShipped: z.strictObject(parcel),
  ParcelShipped: z.strictObject({ ...parcel, items: lines }),
  ParcelDelivered: z.strictObject({ trackingNumber: text }),
  ItemsReturned: z.strictObject({
    returnId: text,
    items: lines.min(1),
    reason: text,
    restock: z.boolean(),
  }),
  RefundRequested: z.strictObject({ ...refund, sagaId: text }),
  PaymentRefunded: z.strictObject({ ...refund, allowanceCents: cents.min(1).optional() }),
  RefundFailed: z.strictObject({ refundId: text, reason: text }),
  OrderCancelled: z.strictObject({ reason: text, refundAmountCents: cents }),
  FulfilmentStarted: z.strictObject({ sagaId: text }),
  CancellationRequested: z.strictObject({ reason: text }),
  ShipmentRequested: z.strictObject({ capturedPaymentId: text.optional() }),
  ShippingAddressChanged: z.strictObject({}),
  PersonalDataErased: z.strictObject({}),
} as const;

type DataShapes = typeof dataShapes;

/** An event of an order, whose data is typed. */
export type ShapedEvent = {
  [Type in keyof DataShapes]: Readonly<{ type: Type; data: z.infer<DataShapes[Type]> }>;
}[keyof DataShapes];
export type ShapedOf<Type> = Extract<ShapedEvent, { type: Type }>;

const eventShape: z.ZodType<ShapedEvent> = z.discriminatedUnion('type', [
  shapeOf('OrderPlaced'),
  shapeOf('PaymentCaptured'),
  shapeOf('OrderShipped'),
  shapeOf('ParcelShipped'),
  shapeOf('ParcelDelivered'),
  shapeOf('ItemsReturned'),
  shapeOf('RefundRequested'),
  shapeOf('PaymentRefunded'),
  shapeOf('RefundFailed'),
  shapeOf('OrderCancelled'),
  shapeOf('FulfilmentStarted'),
  shapeOf('CancellationRequested'),
  shapeOf('ShipmentRequested'),
  shapeOf('ShippingAddressChanged'),
  shapeOf('PersonalDataErased'),
]);

function shapeOf<Type extends keyof DataShapes>(type: Type) {
  return z.object({ type: z.literal(type), data: dataShapes[type] });
}

/** The event that is stored; what is wrong with it if it is none of an order. */
export function shaped(event: Readonly<{ type: string; data: unknown }>): ShapedEvent | string {
  const parsed = eventShape.safeParse(event);
  if (parsed.success) return parsed.data;
  return event.type in dataShapes ? z.prettifyError(parsed.error) : 'an event of another kind';
}
