import type { CancelOutcome, LookUpOutcome, SendOutcome } from '#src/sagas/saga-definition.ts';

/** Money to take for an order. A key always means the same capture with the same amount. */
export type CaptureRequest = Readonly<{
  key: string;
  orderId: string;
  amountCents: number;
  currency: string;
}>;

/** Money taken, as the provider states it. */
export type Capture = Readonly<{ paymentId: string; amountCents: number; currency: string }>;

/** Money to give back of one capture. */
export type RefundRequest = Readonly<{
  key: string;
  orderId: string;
  paymentId: string;
  amountCents: number;
  currency: string;
}>;

/** Money given back, as the provider states it. */
export type Refund = Readonly<{
  refundId: string;
  paymentId: string;
  amountCents: number;
  currency: string;
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
  cancelCapture(
    request: Readonly<{ key: string; orderId: string }>,
    signal?: AbortSignal,
  ): Promise<CancelOutcome<Capture>>;
  refund(request: RefundRequest, signal?: AbortSignal): Promise<SendOutcome<Refund>>;
  lookUpRefund(request: RefundRequest, signal?: AbortSignal): Promise<LookUpOutcome<Refund>>;
}>;

/** A parcel to send. A key always means the same shipment with the same content. */
export type ShipmentRequest = Readonly<{
  key: string;
  orderId: string;
  items: readonly Readonly<{ sku: string; quantity: number }>[];
}>;

/** A parcel that the carrier has accepted. */
export type Shipment = Readonly<{ trackingNumber: string; carrier: string }>;

/** Hands parcels to a carrier. Errors and `signal` are as those of a PaymentProvider. */
export type ShippingProvider = Readonly<{
  ship(request: ShipmentRequest, signal?: AbortSignal): Promise<SendOutcome<Shipment>>;
  lookUpShipment(
    request: Readonly<{ key: string; orderId: string }>,
    signal?: AbortSignal,
  ): Promise<LookUpOutcome<Shipment>>;
  /** Closes the key. It is `already_done` if a parcel was accepted; otherwise none ever is. */
  cancelShipment(
    request: Readonly<{ key: string; orderId: string }>,
    signal?: AbortSignal,
  ): Promise<CancelOutcome<Shipment>>;
}>;
