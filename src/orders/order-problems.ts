import type { ProblemKind } from '#src/http/problem.ts';
import type { RejectionCode } from './domain/order-commands.ts';

type Kind = Omit<ProblemKind, 'code'>;

/** What a request about orders can fail with, by code. A refusal without an entry does not compile. */
const kinds = {
  order_not_found: {
    status: 404,
    title: 'No such order',
    advice: 'There is no order with this id. Check the id.',
  },
  other_customer: {
    status: 403,
    title: 'Order for another customer',
    advice:
      'The API key or token belongs to a customer, and `customerId` names another one. Nothing ' +
      'was done. Send your own.',
  },
  order_already_placed: {
    status: 409,
    title: 'Order already placed',
    advice: 'There is already an order with this id. Read it.',
  },
  order_already_paid: {
    status: 409,
    title: 'Order already paid',
    advice:
      'The order is already paid, so it cannot be fulfilled automatically. Ship it or cancel it ' +
      'by hand.',
  },
  order_not_paid: {
    status: 409,
    title: 'Order not paid',
    advice: 'The order must be paid before it ships. Pay it first.',
  },
  order_already_shipped: {
    status: 409,
    title: 'Order already shipped',
    advice: 'The parcel has left. The order can no longer be shipped, cancelled or fulfilled.',
  },
  order_cancelled: {
    status: 409,
    title: 'Order cancelled',
    advice: 'The order is cancelled and stays cancelled. Place a new one.',
  },
  order_partly_shipped: {
    status: 409,
    title: 'Order partly shipped',
    advice:
      'A parcel of the order has left, so it cannot be cancelled and its address cannot change. Ship the ' +
      'rest, or record a return and refund it.',
  },
  total_too_large: {
    status: 400,
    title: 'Total too large',
    advice:
      'The sum of quantity times price plus shipping and tax is above 2^53-1. Split the order.',
  },
  discount_exceeds_total: {
    status: 422,
    title: 'Discount larger than the sum',
    advice: 'discountCents is more than items, shipping and tax together. Lower it.',
  },
  reference_taken: {
    status: 409,
    title: 'Reference taken',
    advice:
      'You have already placed an order with this externalReference: orderId of this response. ' +
      'Nothing was placed. Read that order, or send another reference.',
  },
  payment_amount_mismatch: {
    status: 422,
    title: 'Payment amount not valid',
    advice:
      'Nothing was recorded. An amount of 0 is valid only for a pending order whose total is 0, ' +
      'and all payments of an order together may not exceed 2^53-1.',
  },
  payment_id_taken: {
    status: 409,
    title: 'Payment id taken',
    advice:
      'This paymentId is already recorded with another amount. Nothing was recorded. Compare ' +
      'both amounts with the payment provider, and report a second payment under its own id.',
  },
  too_many_payments: {
    status: 409,
    title: 'Too many payments',
    advice:
      'An order can have at most 100 payments. Nothing was recorded. Refund this payment ' +
      'outside of this service.',
  },
  refund_exceeds_captured: {
    status: 409,
    title: 'Refund larger than what was captured',
    advice:
      'Refund at most refundableCents of this response: what was captured, less what was refunded ' +
      'or is being refunded. A payment cannot give back more than is left of it: refund each by itself.',
  },
  refund_id_taken: {
    status: 409,
    title: 'Refund id taken',
    advice:
      'This refundId is already recorded with another amount or payment, or, with recordOnly, belongs to a ' +
      'refund that the provider has not made. Nothing was recorded. Send another refund under its own id.',
  },
  too_many_refunds: {
    status: 409,
    title: 'Too many refunds',
    advice: 'An order can have at most 100 refunds. Refund the rest outside of this service.',
  },
  line_not_found: {
    status: 422,
    title: 'No such line',
    advice:
      'The order has no line with this lineId. `lines` of this response lists its lines, with what is ' +
      'left of each.',
  },
  shipment_exceeds_ordered: {
    status: 409,
    title: 'Shipment larger than what is left',
    advice:
      'A line has fewer items left to ship than the parcel would hold. `lines` of this response says ' +
      'how many are left. Nothing was recorded.',
  },
  tracking_number_taken: {
    status: 409,
    title: 'Tracking number taken',
    advice:
      'The order already has a parcel with this trackingNumber and another content. Nothing was ' +
      'recorded. Compare the two.',
  },
  too_many_parcels: {
    status: 409,
    title: 'Too many parcels',
    advice: 'An order can have at most 100 parcels. Ship everything that is left in one.',
  },
  parcel_not_found: {
    status: 404,
    title: 'No such parcel',
    advice: 'The order has no parcel with this trackingNumber. Read `parcels` of the order.',
  },
  return_exceeds_shipped: {
    status: 409,
    title: 'Return larger than what was shipped',
    advice:
      'A line has fewer items that were shipped and not returned. `lines` of this response says how ' +
      'many are left. Nothing was recorded.',
  },
  return_id_taken: {
    status: 409,
    title: 'Return id taken',
    advice:
      'This returnId is already recorded with another content. Nothing was recorded. Report another ' +
      'return under its own id.',
  },
  return_not_found: {
    status: 422,
    title: 'No such return',
    advice: 'The order has no return with this returnId. Record the return first, or leave it out.',
  },
  too_many_returns: {
    status: 409,
    title: 'Too many returns',
    advice: 'An order can have at most 100 returns. Nothing was recorded.',
  },
  shipping_address_missing: {
    status: 422,
    title: 'Shipping address missing',
    advice:
      'An automatic fulfilment needs an address to ship to. Set shippingAddress of the order.',
  },
  payment_method_missing: {
    status: 422,
    title: 'Payment method missing',
    advice:
      'An automatic fulfilment captures what is left to be paid, so the order needs a payment method. ' +
      'Send payment.method when you place the order, or record its payment by hand.',
  },
  personal_data_erased: {
    status: 409,
    title: 'Personal data erased',
    advice: 'The personal data of the order was erased, so it takes no new address.',
  },
  fulfilment_running: {
    status: 409,
    title: 'Fulfilment running',
    advice:
      'An automatic fulfilment ships this order, refunds what it captured, and needs its personal ' +
      'data. Follow the fulfilment until it has ended, or cancel the order.',
  },
  cancellation_requested: {
    status: 409,
    title: 'Cancellation requested',
    advice:
      'The order is being cancelled: its fulfilment is being undone. Wait until it is cancelled.',
  },
  shipment_requested: {
    status: 409,
    title: 'Shipment requested',
    advice:
      'The carrier has already been asked to ship the order. It can no longer be cancelled or sent ' +
      'to another address.',
  },
  version_conflict: {
    status: 409,
    title: 'Too many concurrent changes',
    advice: 'Other requests changed the order during every attempt. Nothing was written. Retry.',
  },
  version_mismatch: {
    status: 412,
    title: 'Order has changed',
    advice:
      'The version of the order is not the one in If-Match. Read the order again, decide again, ' +
      'and send its new ETag.',
  },
  order_version_not_found: {
    status: 404,
    title: 'No such version of the order',
    advice:
      'The order exists, but not at this version or time. Leave the parameter out to read it as ' +
      'it is now.',
  },
  cursor_invalid: {
    status: 400,
    title: 'Cursor not valid',
    advice:
      'Send nextCursor of the previous page unchanged and with the same filters, or start ' +
      'without a cursor.',
  },
  fulfilment_off: {
    status: 409,
    title: 'Fulfilment is switched off',
    advice:
      'This installation has no payment and shipping providers (PAYMENT_URL, SHIPPING_URL). Pay ' +
      'and ship the order by hand, and record a refund that was made elsewhere with recordOnly.',
  },
  outbox_full: {
    status: 503,
    title: 'Outbox full',
    advice:
      'Too many events wait to be published to Kafka (OUTBOX_MAX_ROWS). Nothing was written. ' +
      'Retry after the number of seconds in Retry-After. An operator should look at the relay.',
  },
  clock_off: {
    status: 503,
    title: 'Clock is wrong',
    advice:
      'The clock of this replica differs from the clock of the database by more than 30 s, so ' +
      'the replica writes no events. Nothing was written. Retry after the number of seconds in ' +
      'Retry-After. An operator should correct the clock.',
  },
  database_unavailable: {
    status: 503,
    title: 'Database unavailable',
    advice:
      'The database is unavailable at the moment. Nothing was written. Retry after the number of ' +
      'seconds in Retry-After.',
  },
  outcome_unknown: {
    status: 503,
    title: 'Outcome unknown',
    advice:
      'The database did not respond in time, so the command may or may not have taken effect. ' +
      'Retry it with the same Idempotency-Key, or read the resource before you try again.',
  },
} as const satisfies Record<RejectionCode, Kind> & Record<string, Kind>;

export type OrderProblemCode = keyof typeof kinds;

export function orderProblemKind(code: OrderProblemCode): ProblemKind {
  return { code, ...kinds[code] };
}

export function orderProblemKinds(...codes: readonly OrderProblemCode[]): ProblemKind[] {
  return codes.map(orderProblemKind);
}
