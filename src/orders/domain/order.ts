import type { FulfilmentCommand, OrderCommand } from './order-commands.ts';
import type { OrderEvent, OrderItem } from './order-events.ts';
import { OrderRejected } from './order-rejected.ts';

/** Parts of a refund by hand: they make a stream longer, and every fold of it. */
const REFUNDS_MAX = 100;

/** `unplaced` is an order that has no event yet; it is never shown. */
export type OrderStatus = 'unplaced' | 'pending' | 'paid' | 'shipped' | 'cancelled';

/** Only what `decide` needs to know. What people read is folded in `order-view.ts`. */
export type Order = Readonly<{
  status: OrderStatus;
  totalCents: number;
  capturedCents: number;
  refundedCents: number;
  payments: readonly Readonly<{ paymentId: string; amountCents: number }>[];
  refunds: readonly Readonly<{ refundId: string; amountCents: number }>[];
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
    case 'PaymentCaptured':
      return {
        ...order,
        status: order.status === 'pending' ? 'paid' : order.status,
        capturedCents: order.capturedCents + event.data.amountCents,
        payments: [...order.payments, event.data],
      };
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
  return order.status === 'shipped' || order.status === 'cancelled' ? order : { ...order, status };
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
        ({ refundId, amountCents }) =>
          refundId === command.refundId && amountCents === command.amountCents,
      );
    case 'FulfilOrder':
      return order.fulfilmentStarted && order.status !== 'cancelled' && order.status !== 'shipped';
    case 'RequestShipment':
      return order.shipmentRequested;
  }
}

/** What a caller may ask of the order as it is now, as the last part of its route. */
export function allowedCommands(order: Order): string[] {
  const byHand = !order.fulfilmentStarted;
  const cancellable = order.status === 'pending' || order.status === 'paid';
  return [
    ...(byHand && order.status === 'pending' ? ['pay', 'fulfil'] : []),
    ...(byHand && order.status === 'paid' ? ['ship'] : []),
    ...(cancellable && !order.shipmentRequested && !order.cancellationRequested ? ['cancel'] : []),
    ...(byHand && order.status === 'cancelled' && isRefundable(order) ? ['refund'] : []),
  ];
}

function isRefundable(order: Order): boolean {
  return owedCents(order) > 0 && order.refunds.length < REFUNDS_MAX;
}

/** What a cancelled order still owes its customer. */
function owedCents(order: Order): number {
  return order.capturedCents - order.refundedCents;
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

function pay({ paymentId, amountCents }: Command<'PayOrder'>, order: Order): OrderEvent[] {
  refuseWhenOver(order);
  if (order.fulfilmentStarted) throw new OrderRejected('fulfilment_running');
  if (order.status === 'paid') throw new OrderRejected('order_already_paid');
  if (amountCents !== order.totalCents) throw new OrderRejected('payment_amount_mismatch');
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

function refund({ refundId, amountCents }: Command<'RefundOrder'>, order: Order): OrderEvent[] {
  if (order.fulfilmentStarted) throw new OrderRejected('fulfilment_running');
  if (order.status !== 'cancelled') throw new OrderRejected('order_not_cancelled');
  if (order.refunds.some((known) => known.refundId === refundId)) {
    throw new OrderRejected('refund_id_taken');
  }
  const [payment] = order.payments;
  if (!payment || amountCents > owedCents(order)) throw new OrderRejected('refund_exceeds_owed');
  if (order.refunds.length >= REFUNDS_MAX) throw new OrderRejected('too_many_refunds');
  const { paymentId } = payment;
  return [{ type: 'PaymentRefunded', data: { refundId, amountCents, paymentId } }];
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
