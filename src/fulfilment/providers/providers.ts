import { z } from 'zod';
import type { CancelOutcome, LookUpOutcome, SendOutcome } from '#src/sagas/saga-call.ts';

/** Text that Postgres can store: no NUL, no lone surrogate. */
export const text = z
  .string()
  .min(1)
  .max(100)
  .refine((value) => value.isWellFormed() && !value.includes('\0'));
const amountCents = z.int().min(0);

const PARCELS_MAX = 100;
/** More than the lines of an order. */
const PARCEL_LINES_MAX = 1_000;

/** Money to take for an order. A key always means the same capture with the same amount. */
export const captureRequest = z.object({ orderId: z.string(), amountCents, currency: z.string() });
/** Money to give back of one capture. */
export const refundRequest = captureRequest.extend({ paymentId: z.string() });
/** What to send. A key always means the same shipment with the same content. */
export const shipmentRequest = z.object({
  orderId: z.string(),
  items: z.array(
    z.object({
      lineId: z.string().exactOptional(),
      sku: z.string(),
      name: z.string().exactOptional(),
      quantity: z.int(),
    }),
  ),
});

/** Money taken, as the provider states it. */
export const capture = z.object({
  paymentId: text,
  amountCents,
  currency: z.string().regex(/^[A-Z]{3}$/),
});
/** Money given back, as the provider states it. */
export const refund = capture.extend({ refundId: text });
/** A parcel that the carrier has accepted. `items` is what is in it, by the lines of the request. */
const parcel = z.object({
  trackingNumber: text,
  carrier: text,
  items: z
    .array(z.object({ lineId: text, quantity: z.int().min(1) }))
    .min(1)
    .max(PARCEL_LINES_MAX)
    .refine((items) => areDistinct(items.map(({ lineId }) => lineId)))
    .exactOptional(),
});
/** What the carrier has accepted. Only a single parcel may leave out its `items`: then everything is in it. */
export const shipment = z.object({
  parcels: z
    .array(parcel)
    .min(1)
    .max(PARCELS_MAX)
    .refine((parcels) => areDistinct(parcels.map(({ trackingNumber }) => trackingNumber)))
    .refine((parcels) => parcels.length === 1 || parcels.every(({ items }) => items)),
});

function areDistinct(texts: readonly string[]): boolean {
  return new Set(texts).size === texts.length;
}

export type Capture = Readonly<z.infer<typeof capture>>;
export type Refund = Readonly<z.infer<typeof refund>>;
export type Parcel = Readonly<z.infer<typeof parcel>>;
export type Shipment = Readonly<z.infer<typeof shipment>>;

/** Where parcels go. Personal data: it is sent, and kept in no result, reason or log. */
export type ShippingAddress = Readonly<{
  name: string;
  line1: string;
  line2?: string | undefined;
  postalCode: string;
  city: string;
  region?: string | undefined;
  country: string;
}>;
/** How the carrier reaches the customer. Personal data too. */
export type Contact = Readonly<{ email?: string | undefined; phone?: string | undefined }>;

/** A part of a shipment. Without a `lineId`, the provider can only send everything in one parcel. */
export type ShipmentItem = Readonly<{
  lineId?: string;
  sku: string;
  name?: string | undefined;
  quantity: number;
}>;

/** A request of the saga, with the key that it is made under. */
type Keyed<Request> = Readonly<Request & { key: string }>;
/** `paymentMethod` is the provider's token for how the customer pays. It is a secret. */
export type CaptureRequest = Keyed<
  z.infer<typeof captureRequest> & { paymentMethod?: string | undefined }
>;
export type RefundRequest = Keyed<z.infer<typeof refundRequest>>;
export type ShipmentRequest = Keyed<{
  orderId: string;
  items: readonly ShipmentItem[];
  shippingAddress?: ShippingAddress | undefined;
  contact?: Contact | undefined;
}>;
/** A key that is looked up or closed, and the order that it is for. */
export type KeyOfOrder = Keyed<{ orderId: string }>;
/** The key of a shipment, and what was to be sent. Without `items`, only a single parcel can be found. */
export type KeyOfShipment = Keyed<{
  orderId: string;
  items?: readonly Pick<ShipmentItem, 'lineId' | 'quantity'>[];
}>;

/**
 * Takes and gives back money. A call throws nothing but CallNotMade. The results of `ok` and `found` agree
 * with the request in amount and currency. An aborted `signal` ends the wait for the response, but not what
 * was requested.
 */
export type PaymentProvider = Readonly<{
  capture(request: CaptureRequest, signal?: AbortSignal): Promise<SendOutcome<Capture>>;
  lookUpCapture(request: CaptureRequest, signal?: AbortSignal): Promise<LookUpOutcome<Capture>>;
  /** Closes the key. It is `already_done` if money was taken; otherwise none is ever taken under it. */
  cancelCapture(request: KeyOfOrder, signal?: AbortSignal): Promise<CancelOutcome<Capture>>;
  refund(request: RefundRequest, signal?: AbortSignal): Promise<SendOutcome<Refund>>;
  lookUpRefund(request: RefundRequest, signal?: AbortSignal): Promise<LookUpOutcome<Refund>>;
}>;

/**
 * Hands parcels to a carrier. Errors and `signal` are as those of a PaymentProvider. The parcels of every
 * result hold together what was asked for, line by line.
 */
export type ShippingProvider = Readonly<{
  ship(request: ShipmentRequest, signal?: AbortSignal): Promise<SendOutcome<Shipment>>;
  lookUpShipment(request: KeyOfShipment, signal?: AbortSignal): Promise<LookUpOutcome<Shipment>>;
  /** Closes the key. It is `already_done` if parcels were accepted; otherwise none ever is. */
  cancelShipment(request: KeyOfShipment, signal?: AbortSignal): Promise<CancelOutcome<Shipment>>;
}>;

/** The providers that a fulfilment calls. */
export type Providers = Readonly<{ payments: PaymentProvider; shipping: ShippingProvider }>;
