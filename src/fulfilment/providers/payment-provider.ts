import type { CancelOutcome, LookUpOutcome, SendOutcome } from '#src/sagas/saga-definition.ts';

/** Money to take for an order. One key stands for one capture, for ever, with one amount. */
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
 * Takes and gives back money. No call throws. `ok` and `found` agree with the request in every
 * amount and currency. An aborted `signal` ends the wait for the answer, not what it asked for.
 */
export type PaymentProvider = Readonly<{
  capture(request: CaptureRequest, signal?: AbortSignal): Promise<SendOutcome<Capture>>;
  lookUpCapture(request: CaptureRequest, signal?: AbortSignal): Promise<LookUpOutcome<Capture>>;
  /** Settles the key: what was taken is `already_done`; otherwise nothing is ever taken under it. */
  cancelCapture(
    request: Readonly<{ key: string; orderId: string }>,
    signal?: AbortSignal,
  ): Promise<CancelOutcome<Capture>>;
  refund(request: RefundRequest, signal?: AbortSignal): Promise<SendOutcome<Refund>>;
  lookUpRefund(request: RefundRequest, signal?: AbortSignal): Promise<LookUpOutcome<Refund>>;
}>;
