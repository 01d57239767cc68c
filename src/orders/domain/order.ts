import type { FulfilmentCommand, OrderCommand } from './order-commands.ts';
import type { OrderEvent, OrderItem } from './order-events.ts';
import { isPaid, owedCents } from './order-money.ts';
import type { OrderMoney } from './order-money.ts';
import { OrderRejected } from './order-rejected.ts';

/** Payments and refunds that callers may report: each makes the stream longer, and every fold of it. */
const PAYMENTS_MAX = 100;
const REFUNDS_MAX = 100;

/** `unplaced` is an order that has no event yet; it is never shown. */
export type OrderStatus = OrderMoney['status'];

/** Only what `decide` needs to know. What people read is folded in `order-view.ts`. */
export type Order = OrderMoney &
  Readonly<{
    payments: readonly Readonly<{ paymentId: string; amountCents: number }>[];
    refunds: readonly Readonly<{ refundId: string; amountCents: number; paymentId: string }>[];
    trackingNumber: string | null;
    fulfilmentStarted: boolean;
    cancellationRequested: boolean;
    shipmentRequested: boolean;
  }>;

export const initialOrder: Order = {
  status: 'unplaced',
  totalCents: 0,
  capturedCents: 0,
  refundedCents: 0,
  payments: [],
  refunds: [],
  trackingNumber: null,
  fulfilmentStarted: false,
  cancellationRequested: false,
  shipmentRequested: false,
};

/** Applies one fact. It never refuses: history cannot be rejected. */
export function evolve(order: Order, event: OrderEvent): Order {
  switch (event.type) {
    case 'OrderPlaced':
      return { ...order, status: 'pending', totalCents: event.data.totalCents };
    case 'PaymentCaptured': {
      const capturedCents = order.capturedCents + event.data.amountCents;
      const after = { ...order, capturedCents, payments: [...order.payments, event.data] };
      const pays = order.status === 'pending' && isPaid(after, order.fulfilmentStarted);
      return pays ? { ...after, status: 'paid' } : after;
    }
    case 'OrderShipped':
      return { ...end(order, 'shipped'), trackingNumber: event.data.trackingNumber };
    case 'OrderCancelled':
      return end(order, 'cancelled');
    case 'PaymentRefunded':
      return {
        ...order,
        refundedCents: order.refundedCents + event.data.amountCents,
        refunds: [...order.refunds, event.data],
      };
    case 'FulfilmentStarted':
      return { ...order, fulfilmentStarted: true };
    case 'CancellationRequested':
      return { ...order, cancellationRequested: true };
    case 'ShipmentRequested':
      return { ...order, shipmentRequested: true };
  }
}

/** An order ends once: what arrives after its end cannot end it again. */
function end(order: Order, status: 'shipped' | 'cancelled'): Order {
  return isOver(order) ? order : { ...order, status };
}

function isOver({ status }: Order): boolean {
  return status === 'shipped' || status === 'cancelled';
}

/**
 * Applies the rules: the events that the command causes on this order.
 * A repeated command causes none.
 * @throws OrderRejected when the rules refuse the command
 */
export function decide(command: OrderCommand | FulfilmentCommand, order: Order): OrderEvent[] {
  if (command.type !== 'PlaceOrder' && order.status === 'unplaced') {
    throw new OrderRejected('order_not_found');
  }
  if (isRepeat(command, order)) return [];
  switch (command.type) {
    case 'PlaceOrder':
      return place(command, order);
    case 'PayOrder':
      return pay(command, order);
    case 'ShipOrder':
      return ship(command, order);
    case 'CancelOrder':
      return cancel(command, order);
    case 'RefundOrder':
      return refund(command, order);
    case 'FulfilOrder':
      return fulfil(command, order);
    case 'RecordPayment': {
      const { paymentId, amountCents } = command;
      return [{ type: 'PaymentCaptured', data: { amountCents, paymentId } }];
    }
    case 'RequestShipment':
      if (order.cancellationRequested) throw new OrderRejected('cancellation_requested');
      return [{ type: 'ShipmentRequested', data: {} }];
    case 'RecordShipment': {
      const { trackingNumber, carrier } = command;
      return [{ type: 'OrderShipped', data: { trackingNumber, carrier } }];
    }
    case 'RecordRefund': {
      const { refundId, amountCents, paymentId } = command;
      return [{ type: 'PaymentRefunded', data: { refundId, amountCents, paymentId } }];
    }
    case 'FinishCancellation':
      if (order.status === 'shipped') throw new OrderRejected('order_already_shipped');
      return [cancelled(command.reason, order)];
  }
}

/** Whether the command has already taken effect, so that asking again changes nothing. */
export function isRepeat(command: OrderCommand | FulfilmentCommand, order: Order): boolean {
  switch (command.type) {
    case 'PlaceOrder':
      return false;
    case 'PayOrder':
    case 'RecordPayment':
      return order.payments.some(
        ({ paymentId, amountCents }) =>
          paymentId === command.paymentId && amountCents === command.amountCents,
      );
    case 'ShipOrder':
    case 'RecordShipment':
      return order.trackingNumber === command.trackingNumber;
    case 'CancelOrder':
      return order.status === 'cancelled' || order.cancellationRequested;
    case 'FinishCancellation':
      return order.status === 'cancelled';
    case 'RefundOrder':
    case 'RecordRefund':
      return order.refunds.some(
        ({ refundId, amountCents, paymentId }) =>
          refundId === command.refundId &&
          amountCents === command.amountCents &&
          paymentId === (command.paymentId ?? paymentId),
      );
    case 'FulfilOrder':
      return order.fulfilmentStarted && !isOver(order);
    case 'RequestShipment':
      return order.shipmentRequested;
  }
}

/**
 * What a caller may ask of the order as it is now, as the last part of its route. A payment that has
 * happened is recorded even where none is asked for.
 */
export function allowedCommands(order: Order): string[] {
  const byHand = !order.fulfilmentStarted;
  const cancellable = order.status === 'pending' || order.status === 'paid';
  return [
    ...(byHand && order.status === 'pending' ? ['pay', 'fulfil'] : []),
    ...(byHand && order.status === 'paid' ? ['ship'] : []),
    ...(cancellable && !order.shipmentRequested && !order.cancellationRequested ? ['cancel'] : []),
    ...((byHand || isOver(order)) && isRefundable(order) ? ['refund'] : []),
  ];
}

function isRefundable(order: Order): boolean {
  return owedCents(order) > 0 && order.refunds.length < REFUNDS_MAX;
}

type Command<Type> = Extract<OrderCommand, { type: Type }>;

function place(command: Command<'PlaceOrder'>, order: Order): OrderEvent[] {
  if (order.status !== 'unplaced') throw new OrderRejected('order_already_placed');
  const { orderId, customerId, currency, items, sagaId } = command;
  const totalCents = totalOf(items);
  return [
    { type: 'OrderPlaced', data: { orderId, customerId, currency, items, totalCents } },
    ...(sagaId === undefined ? [] : [started(sagaId)]),
  ];
}

function totalOf(items: readonly OrderItem[]): number {
  const total = items.reduce(
    (sum, { quantity, priceCents }) => sum + BigInt(quantity) * BigInt(priceCents),
    0n,
  );
  if (total > BigInt(Number.MAX_SAFE_INTEGER)) throw new OrderRejected('total_too_large');
  return Number(total);
}

/**
 * A payment is a fact: it is recorded whatever the order is by now, and what the order has no claim to
 * is owed back. A known id with another amount is no second payment but a contradiction.
 */
function pay({ paymentId, amountCents }: Command<'PayOrder'>, order: Order): OrderEvent[] {
  if (order.payments.some((known) => known.paymentId === paymentId)) {
    throw new OrderRejected('payment_id_taken');
  }
  const isFree = order.status === 'pending' && order.totalCents === 0;
  const isNothing = amountCents === 0 && !isFree;
  // While its saga runs, that may still capture the total, and nobody could refuse it.
  const roomCents = order.fulfilmentStarted && !isOver(order) ? order.totalCents : 0;
  if (isNothing || amountCents > Number.MAX_SAFE_INTEGER - order.capturedCents - roomCents) {
    throw new OrderRejected('payment_amount_mismatch');
  }
  if (order.payments.length >= PAYMENTS_MAX) throw new OrderRejected('too_many_payments');
  return [{ type: 'PaymentCaptured', data: { amountCents, paymentId } }];
}

function ship({ trackingNumber, carrier }: Command<'ShipOrder'>, order: Order): OrderEvent[] {
  refuseWhenOver(order);
  if (order.fulfilmentStarted) throw new OrderRejected('fulfilment_running');
  if (order.status === 'pending') throw new OrderRejected('order_not_paid');
  return [{ type: 'OrderShipped', data: { trackingNumber, carrier } }];
}

function cancel({ reason }: Command<'CancelOrder'>, order: Order): OrderEvent[] {
  if (order.status === 'shipped') throw new OrderRejected('order_already_shipped');
  if (order.shipmentRequested) throw new OrderRejected('shipment_requested');
  if (order.fulfilmentStarted) return [{ type: 'CancellationRequested', data: { reason } }];
  return [cancelled(reason, order)];
}

function cancelled(reason: string, order: Order): OrderEvent {
  return { type: 'OrderCancelled', data: { reason, refundAmountCents: order.capturedCents } };
}

function refund(command: Command<'RefundOrder'>, order: Order): OrderEvent[] {
  const { refundId, amountCents } = command;
  if (order.fulfilmentStarted && !isOver(order)) throw new OrderRejected('fulfilment_running');
  const owed = owedCents(order);
  if (owed === 0 && order.status !== 'cancelled') throw new OrderRejected('order_not_cancelled');
  if (order.refunds.some((known) => known.refundId === refundId)) {
    throw new OrderRejected('refund_id_taken');
  }
  const paymentId = refundedPayment(command, order);
  if (paymentId === undefined || amountCents > owed) throw new OrderRejected('refund_exceeds_owed');
  if (order.refunds.length >= REFUNDS_MAX) throw new OrderRejected('too_many_refunds');
  return [{ type: 'PaymentRefunded', data: { refundId, amountCents, paymentId } }];
}

/**
 * The payment that a refund gives back: the one it names, if that much of it is left; else the newest
 * of which that much is left, or at least something.
 */
function refundedPayment(
  { amountCents, paymentId }: Command<'RefundOrder'>,
  { payments, refunds }: Order,
): string | undefined {
  const sumOf = (parts: Order['payments'], id: string) =>
    parts.reduce((sum, part) => (part.paymentId === id ? sum + part.amountCents : sum), 0);
  const hasLeft = (id: string, cents: number) => sumOf(payments, id) - sumOf(refunds, id) >= cents;
  const ids = payments.map((payment) => payment.paymentId);
  if (paymentId !== undefined) {
    return ids.includes(paymentId) && hasLeft(paymentId, amountCents) ? paymentId : undefined;
  }
  return ids.findLast((id) => hasLeft(id, amountCents)) ?? ids.findLast((id) => hasLeft(id, 1));
}

function fulfil({ sagaId }: Command<'FulfilOrder'>, order: Order): OrderEvent[] {
  refuseWhenOver(order);
  if (order.status === 'paid') throw new OrderRejected('order_already_paid');
  return [started(sagaId)];
}

function started(sagaId: string): OrderEvent {
  return { type: 'FulfilmentStarted', data: { sagaId } };
}

function refuseWhenOver(order: Order): void {
  if (order.status === 'shipped') throw new OrderRejected('order_already_shipped');
  if (order.status === 'cancelled') throw new OrderRejected('order_cancelled');
}
