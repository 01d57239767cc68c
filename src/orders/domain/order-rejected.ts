/** Why the rules say no. The HTTP status of each is in `order-problems.ts`. */
export type RejectionCode =
  | 'order_not_found'
  | 'order_already_placed'
  | 'order_already_paid'
  | 'order_not_paid'
  | 'order_already_shipped'
  | 'order_cancelled'
  | 'order_not_cancelled'
  | 'total_too_large'
  | 'payment_amount_mismatch'
  | 'payment_id_taken'
  | 'too_many_payments'
  | 'refund_exceeds_owed'
  | 'refund_id_taken'
  | 'too_many_refunds'
  | 'fulfilment_running'
  | 'cancellation_requested'
  | 'shipment_requested';

/** A command that the rules refuse: expected, with a code that callers can act on. */
export class OrderRejected extends Error {
  readonly code: RejectionCode;

  constructor(code: RejectionCode) {
    super(code);
    this.name = 'OrderRejected';
    this.code = code;
  }
}
