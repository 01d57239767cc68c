import { z } from 'zod';
import type { CancelOutcome, LookUpOutcome, SendOutcome } from '#src/sagas/saga-call.ts';

/** Text that Postgres can store: no NUL, no lone surrogate. */
const text = z
  .string()
  .min(1)
  .max(100)
  .refine((value) => value.isWellFormed() && !value.includes('\0'));
const amountCents = z.int().min(0);

/** Money to take for an order. A key always means the same capture with the same amount. */
export const captureRequest = z.object({ orderId: z.string(), amountCents, currency: z.string() });
/** Money to give back of one capture. */
export const refundRequest = captureRequest.extend({ paymentId: z.string() });
/** A parcel to send. A key always means the same shipment with the same content. */
export const shipmentRequest = z.object({
  orderId: z.string(),
  items: z.array(z.object({ sku: z.string(), quantity: z.int() })),
});

/** Money taken, as the provider states it. */
export const capture = z.object({
  paymentId: text,
  amountCents,
  currency: z.string().regex(/^[A-Z]{3}$/),
});
/** Money given back, as the provider states it. */
export const refund = capture.extend({ refundId: text });
/** A parcel that the carrier has accepted. */
export const shipment = z.object({ trackingNumber: text, carrier: text });

export type Capture = Readonly<z.infer<typeof capture>>;
export type Refund = Readonly<z.infer<typeof refund>>;
export type Shipment = Readonly<z.infer<typeof shipment>>;

/** A request of the saga, with the key that it is made under. */
type Keyed<Request> = Readonly<Request & { key: string }>;
export type CaptureRequest = Keyed<z.infer<typeof captureRequest>>;
export type RefundRequest = Keyed<z.infer<typeof refundRequest>>;
export type ShipmentRequest = Keyed<z.infer<typeof shipmentRequest>>;
/** A key that is looked up or closed, and the order that it is for. */
export type KeyOfOrder = Keyed<{ orderId: string }>;

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

/** Hands parcels to a carrier. Errors and `signal` are as those of a PaymentProvider. */
export type ShippingProvider = Readonly<{
  ship(request: ShipmentRequest, signal?: AbortSignal): Promise<SendOutcome<Shipment>>;
  lookUpShipment(request: KeyOfOrder, signal?: AbortSignal): Promise<LookUpOutcome<Shipment>>;
  /** Closes the key. It is `already_done` if a parcel was accepted; otherwise none ever is. */
  cancelShipment(request: KeyOfOrder, signal?: AbortSignal): Promise<CancelOutcome<Shipment>>;
}>;

/** The providers that a fulfilment calls. */
export type Providers = Readonly<{ payments: PaymentProvider; shipping: ShippingProvider }>;
