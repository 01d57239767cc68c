import type { OrderEvent, OrderEventData } from './order-events.ts';
import { isByHand, isRunByASaga, refuse } from './order-rule.ts';
import type { CommandOf, Refusal, RulesOf } from './order-rule.ts';
import { owedCents, requestedRefund } from './order.ts';
import type { Order } from './order.ts';

/** Callers can report this many payments and refunds. Each makes every later fold of the stream longer. */
const PAYMENTS_MAX = 100;
const REFUNDS_MAX = 100;

type MoneyCommand = 'PayOrder' | 'RefundOrder' | 'RecordPayment' | 'RecordRefund' | 'FailRefund';

/** The rules of payments and refunds. */
export const paymentRules: RulesOf<MoneyCommand> = {
  /**
   * A payment has happened: it is recorded in every state of the order, and what the order may not keep is
   * owed to the customer. A known id with another amount is a contradiction, not a second payment.
   */
  PayOrder: {
    route: 'pay',
    isAllowed: (order) => isByHand(order) && order.status === 'pending',
    isDuplicate: isKnownPayment,
    decide(order, { paymentId, amountCents }) {
      if (order.payments.some((known) => known.paymentId === paymentId)) return 'payment_id_taken';
      const isFree = order.status === 'pending' && order.totalCents === 0;
      // A running saga may still capture the total, and its payment cannot be refused.
      const reservedCents = isRunByASaga(order) ? order.totalCents : 0;
      const mostCents = Number.MAX_SAFE_INTEGER - order.capturedCents - reservedCents;
      if (amountCents === 0 && !isFree) return 'payment_amount_mismatch';
      if (amountCents > mostCents) return 'payment_amount_mismatch';
      if (order.payments.length >= PAYMENTS_MAX) return 'too_many_payments';
      return [{ type: 'PaymentCaptured', data: { amountCents, paymentId } }];
    },
  },

  /**
   * A payment that the fulfilment captured is refunded by its provider, unless that has happened already. Any
   * other refund has happened, and is recorded.
   */
  RefundOrder: {
    route: 'refund',
    isAllowed: (order) =>
      !isRunByASaga(order) && refundableCents(order) > 0 && order.refunds.length < REFUNDS_MAX,
    isDuplicate: isKnownRefund,
    decide(order, command) {
      const { refundId, amountCents, returnId, sagaId } = command;
      if (isRunByASaga(order)) return 'fulfilment_running';
      if (order.refunds.some((known) => known.refundId === refundId)) return 'refund_id_taken';
      if (amountCents > refundableCents(order)) return refundExceeds(order);
      const isKnownReturn = order.returns.some((known) => known.returnId === returnId);
      if (returnId !== undefined && !isKnownReturn) return 'return_not_found';
      const payment = refundedPayment(order, command);
      if (payment === undefined) return refundExceeds(order);
      if (order.refunds.length >= REFUNDS_MAX) return 'too_many_refunds';
      const { paymentId, source } = payment;
      const data = { refundId, amountCents, paymentId, ...whyOf(command) };
      return source === 'fulfilment' && command.recordOnly !== true
        ? [{ type: 'RefundRequested', data: { ...data, sagaId } }]
        : [refunded(order, data)];
    },
  },

  RecordPayment: {
    isDuplicate: isKnownPayment,
    decide: (_, { type: _type, ...data }) => [{ type: 'PaymentCaptured', data }],
  },

  /** The refund that was requested, or one of a fulfilment that is undone: then the order will be cancelled. */
  RecordRefund: {
    isDuplicate: (order, refund) =>
      requestedRefund(order, refund.refundId) === undefined && isKnownRefund(order, refund),
    decide(order, { refundId, amountCents, paymentId }) {
      const data = { refundId, amountCents, paymentId };
      const asked = requestedRefund(order, refundId);
      if (asked === undefined) return [{ type: 'PaymentRefunded', data }];
      return [refunded(order, { ...data, ...whyOf(asked) })];
    },
  },

  FailRefund: {
    isDuplicate: (order, { refundId }) => requestedRefund(order, refundId) === undefined,
    decide: (_, { refundId, reason }) => [{ type: 'RefundFailed', data: { refundId, reason } }],
  },
};

/** Why it is refunded, as far as that is set. */
function whyOf({
  reason,
  returnId,
}: Pick<CommandOf<'RefundOrder'>, 'reason' | 'returnId'>): Readonly<{
  reason?: string;
  returnId?: string;
}> {
  return { ...(reason !== undefined && { reason }), ...(returnId !== undefined && { returnId }) };
}

/**
 * What the order does not owe lowers what it costs, once it has been paid. Before, a refund only takes a part
 * payment back.
 */
function refunded(order: Order, data: OrderEventData<'PaymentRefunded'>): OrderEvent {
  const isEarned = order.status !== 'pending';
  const allowanceCents = isEarned ? Math.max(0, data.amountCents - owedCents(order)) : 0;
  return {
    type: 'PaymentRefunded',
    data: allowanceCents > 0 ? { ...data, allowanceCents } : data,
  };
}

/** What can still be refunded: what was captured, less what was refunded or is being refunded. */
export function refundableCents(order: Order): number {
  const openCents = order.refunds
    .filter(({ state }) => state === 'requested')
    .reduce((sum, { amountCents }) => sum + amountCents, 0);
  return Math.max(0, order.capturedCents - order.refundedCents - openCents);
}

function refundExceeds(order: Order): Refusal {
  return refuse('refund_exceeds_captured', { refundableCents: refundableCents(order) });
}

function isKnownPayment(
  order: Order,
  payment: Pick<CommandOf<'PayOrder'>, 'paymentId' | 'amountCents'>,
): boolean {
  return order.payments.some(
    ({ paymentId, amountCents }) =>
      paymentId === payment.paymentId && amountCents === payment.amountCents,
  );
}

/**
 * A refund that names no payment is known by its id and amount. One that was made elsewhere is not that which the
 * provider has not made.
 */
function isKnownRefund(
  order: Order,
  refund: Pick<CommandOf<'RefundOrder'>, 'refundId' | 'amountCents' | 'paymentId' | 'recordOnly'>,
): boolean {
  return order.refunds.some(
    ({ refundId, amountCents, paymentId, state }) =>
      refundId === refund.refundId &&
      amountCents === refund.amountCents &&
      paymentId === (refund.paymentId ?? paymentId) &&
      (refund.recordOnly !== true || state === 'refunded'),
  );
}

type Payment = Order['payments'][number];

/**
 * The payment that is refunded: the one that the command names, if enough of it is left; otherwise the newest
 * with enough left. A provider refunds no more than it captured. What was made by hand may have been split: if the
 * payments that were reported have enough left together, it is the newest of them with anything left.
 */
function refundedPayment(
  order: Order,
  { amountCents, paymentId, recordOnly }: CommandOf<'RefundOrder'>,
): Payment | undefined {
  const hasLeft = (cents: number) => (payment: Payment) => leftCents(order, payment) >= cents;
  const hasEnough = hasLeft(amountCents);
  if (paymentId !== undefined) {
    return order.payments.find((known) => known.paymentId === paymentId && hasEnough(known));
  }
  const byHand = order.payments.filter(
    ({ source }) => recordOnly === true || source === 'reported',
  );
  const leftByHand = byHand.reduce((sum, payment) => sum + leftCents(order, payment), 0);
  return (
    order.payments.findLast(hasEnough) ??
    (leftByHand >= amountCents ? byHand.findLast(hasLeft(1)) : undefined)
  );
}

/** What is left of a payment. A refund that failed took nothing of it. */
function leftCents({ refunds }: Order, { paymentId, amountCents }: Payment): number {
  return refunds.reduce(
    (left, refund) =>
      refund.paymentId === paymentId && refund.state !== 'failed'
        ? left - refund.amountCents
        : left,
    amountCents,
  );
}
