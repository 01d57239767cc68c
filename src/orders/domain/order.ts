import type { FulfilmentCommand, OrderCommand } from './order-commands.ts';
import type { OrderEvent, OrderEventData, OrderItem, RecordedOrderEvent } from './order-events.ts';
import { OrderRejected } from './order-rejected.ts';

/** Payments and refunds that callers may report: each makes the stream longer, and every fold of it. */
const PAYMENTS_MAX = 100;
const REFUNDS_MAX = 100;

/**
 * An order as callers see it: the body of every response that shows one. Fields that are not set are absent.
 * Times are ISO 8601 in UTC, amounts in the minor unit of the currency.
 */
export type OrderView = Readonly<{
  orderId: string;
  customerId: string;
  status: 'pending' | 'paid' | 'shipped' | 'cancelled';
  currency: string;
  items: readonly OrderItem[];
  itemCount: number;
  totalCents: number;
  version: number;
  placedAt: string;
  paidAt?: string;
  /** The payment that made the order paid. */
  paymentId?: string;
  shippedAt?: string;
  trackingNumber?: string;
  carrier?: string;
  cancelledAt?: string;
  reason?: string;
  refundAmountCents?: number;
  capturedCents: number;
  refundedCents: number;
  /** What must still be paid back to the customer. */
  owedCents: number;
  /** State of the saga, as far as the order's events tell it. Absent if the order is fulfilled by hand. */
  fulfilment?: FulfilmentState;
  cancellationRequestedAt?: string;
}>;

/** `stuck` is known to the saga only. The other states follow from the order's own events. */
export type FulfilmentState = 'running' | 'compensating' | 'completed' | 'compensated' | 'stuck';

/** An order, folded from its events: what callers see, and what only the rules need. */
export type Order = OrderView &
  Readonly<{
    payments: readonly OrderEventData<'PaymentCaptured'>[];
    refunds: readonly OrderEventData<'PaymentRefunded'>[];
    shipmentRequested: boolean;
  }>;

/** The stream of an order does not start with `OrderPlaced`. */
export class StreamDamaged extends Error {
  constructor(version: number) {
    super(`an order's stream starts with version ${version} before OrderPlaced`);
    this.name = 'StreamDamaged';
  }
}

/**
 * Applies one event to the order, which is null before its first event. Whatever follows `OrderPlaced` is
 * applied, because history cannot be rejected.
 * @throws StreamDamaged if another event comes first
 */
export function evolve(order: Order | null, event: RecordedOrderEvent): Order {
  const after = event.type === 'OrderPlaced' ? placed(event) : changed(order, event);
  return { ...after, version: event.version, owedCents: owedCents(after) };
}

type Recorded<Type> = Extract<RecordedOrderEvent, { type: Type }>;

function placed({ data, version, recordedAt }: Recorded<'OrderPlaced'>): Order {
  const { orderId, customerId, currency, items, totalCents } = data;
  return {
    orderId,
    customerId,
    status: 'pending',
    currency,
    items,
    itemCount: items.length,
    totalCents,
    version,
    placedAt: recordedAt,
    capturedCents: 0,
    refundedCents: 0,
    owedCents: 0,
    payments: [],
    refunds: [],
    shipmentRequested: false,
  };
}

function changed(
  order: Order | null,
  event: Exclude<RecordedOrderEvent, { type: 'OrderPlaced' }>,
): Order {
  if (order === null) throw new StreamDamaged(event.version);
  const { recordedAt } = event;
  switch (event.type) {
    case 'PaymentCaptured':
      return captured(order, event);
    case 'OrderShipped': {
      const shipped = end(order, { status: 'shipped', shippedAt: recordedAt }, 'completed');
      return { ...order, ...event.data, ...shipped };
    }
    case 'OrderCancelled': {
      const fields = { ...event.data, status: 'cancelled', cancelledAt: recordedAt } as const;
      return { ...order, ...end(order, fields, 'compensated') };
    }
    case 'PaymentRefunded': {
      const refundedCents = order.refundedCents + event.data.amountCents;
      return { ...order, refundedCents, refunds: [...order.refunds, event.data] };
    }
    case 'FulfilmentStarted':
      return { ...order, fulfilment: 'running' };
    case 'CancellationRequested':
      return { ...order, fulfilment: 'compensating', cancellationRequestedAt: recordedAt };
    case 'ShipmentRequested':
      return { ...order, shipmentRequested: true };
  }
}

/**
 * A pending order is paid when its payments cover the total. Once a saga runs, its first payment makes it
 * paid, whatever the amount: the saga itself judges what it captured.
 */
function captured(order: Order, { data, recordedAt }: Recorded<'PaymentCaptured'>): Order {
  const capturedCents = order.capturedCents + data.amountCents;
  const after = { ...order, capturedCents, payments: [...order.payments, data] };
  const isCovered = order.fulfilment !== undefined || capturedCents >= order.totalCents;
  if (order.status !== 'pending' || !isCovered) return after;
  return { ...after, status: 'paid', paidAt: recordedAt, paymentId: data.paymentId };
}

/** An order ends once: what arrives after its end does not end it again. */
function end(
  order: Order,
  fields: Partial<OrderView>,
  fulfilment: FulfilmentState,
): Partial<OrderView> {
  if (isOver(order)) return {};
  return order.fulfilment === undefined ? fields : { ...fields, fulfilment };
}

function isOver({ status }: Order): boolean {
  return status === 'shipped' || status === 'cancelled';
}

/**
 * What the order owes its customer, never below 0: all that was captured if it is cancelled, else what
 * exceeds its total; less what was refunded.
 */
export function owedCents(
  order: Pick<OrderView, 'status' | 'totalCents' | 'capturedCents' | 'refundedCents'>,
): number {
  const earnedCents = order.status === 'cancelled' ? 0 : order.totalCents;
  return Math.max(0, order.capturedCents - order.refundedCents - earnedCents);
}

/** Leaves out what only the rules need. */
export function toOrderView(order: Order): OrderView {
  const { payments: _, refunds: _refunds, shipmentRequested: _shipment, ...view } = order;
  return view;
}

/** The event as it is recorded next on the order. `recordedAt` is ISO 8601 in UTC. */
export function recordNext(
  order: Order | null,
  event: OrderEvent,
  recordedAt: string,
): RecordedOrderEvent {
  return { ...event, version: (order?.version ?? 0) + 1, recordedAt };
}

/**
 * Applies the rules: the events that the command causes on this order, which is null before its first event.
 * A duplicate causes none.
 * @throws OrderRejected when the rules refuse the command
 */
export function decide(
  command: OrderCommand | FulfilmentCommand,
  order: Order | null,
): OrderEvent[] {
  if (command.type === 'PlaceOrder') return place(command, order);
  if (order === null) throw new OrderRejected('order_not_found');
  if (isDuplicate(command, order)) return [];
  switch (command.type) {
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
      if (order.cancellationRequestedAt) throw new OrderRejected('cancellation_requested');
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
export function isDuplicate(command: OrderCommand | FulfilmentCommand, order: Order): boolean {
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
      return order.status === 'cancelled' || order.cancellationRequestedAt !== undefined;
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
      return order.fulfilment !== undefined && !isOver(order);
    case 'RequestShipment':
      return order.shipmentRequested;
  }
}

/**
 * What a caller may ask of the order as it is now, as the last part of its route. A payment that has
 * happened is recorded even where none is asked for.
 */
export function allowedCommands(order: Order): string[] {
  const byHand = order.fulfilment === undefined;
  const cancellable = order.status === 'pending' || order.status === 'paid';
  return [
    ...(byHand && order.status === 'pending' ? ['pay', 'fulfil'] : []),
    ...(byHand && order.status === 'paid' ? ['ship'] : []),
    ...(cancellable && !order.shipmentRequested && order.cancellationRequestedAt === undefined
      ? ['cancel']
      : []),
    ...((byHand || isOver(order)) && isRefundable(order) ? ['refund'] : []),
  ];
}

function isRefundable(order: Order): boolean {
  return order.owedCents > 0 && order.refunds.length < REFUNDS_MAX;
}

type Command<Type> = Extract<OrderCommand, { type: Type }>;

function place(command: Command<'PlaceOrder'>, order: Order | null): OrderEvent[] {
  if (order !== null) throw new OrderRejected('order_already_placed');
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
  const roomCents = order.fulfilment !== undefined && !isOver(order) ? order.totalCents : 0;
  if (isNothing || amountCents > Number.MAX_SAFE_INTEGER - order.capturedCents - roomCents) {
    throw new OrderRejected('payment_amount_mismatch');
  }
  if (order.payments.length >= PAYMENTS_MAX) throw new OrderRejected('too_many_payments');
  return [{ type: 'PaymentCaptured', data: { amountCents, paymentId } }];
}

function ship({ trackingNumber, carrier }: Command<'ShipOrder'>, order: Order): OrderEvent[] {
  refuseWhenOver(order);
  if (order.fulfilment !== undefined) throw new OrderRejected('fulfilment_running');
  if (order.status === 'pending') throw new OrderRejected('order_not_paid');
  return [{ type: 'OrderShipped', data: { trackingNumber, carrier } }];
}

function cancel({ reason }: Command<'CancelOrder'>, order: Order): OrderEvent[] {
  if (order.status === 'shipped') throw new OrderRejected('order_already_shipped');
  if (order.shipmentRequested) throw new OrderRejected('shipment_requested');
  if (order.fulfilment !== undefined) return [{ type: 'CancellationRequested', data: { reason } }];
  return [cancelled(reason, order)];
}

function cancelled(reason: string, order: Order): OrderEvent {
  return { type: 'OrderCancelled', data: { reason, refundAmountCents: order.capturedCents } };
}

function refund(command: Command<'RefundOrder'>, order: Order): OrderEvent[] {
  const { refundId, amountCents } = command;
  if (order.fulfilment !== undefined && !isOver(order))
    throw new OrderRejected('fulfilment_running');
  if (order.owedCents === 0 && order.status !== 'cancelled')
    throw new OrderRejected('order_not_cancelled');
  if (order.refunds.some((known) => known.refundId === refundId)) {
    throw new OrderRejected('refund_id_taken');
  }
  const paymentId = refundedPayment(command, order);
  if (paymentId === undefined || amountCents > order.owedCents)
    throw new OrderRejected('refund_exceeds_owed');
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
  const hasLeft = (id: string, cents: number) =>
    centsOf(id, payments) - centsOf(id, refunds) >= cents;
  const ids = payments.map((payment) => payment.paymentId);
  if (paymentId !== undefined) {
    return ids.includes(paymentId) && hasLeft(paymentId, amountCents) ? paymentId : undefined;
  }
  return ids.findLast((id) => hasLeft(id, amountCents)) ?? ids.findLast((id) => hasLeft(id, 1));
}

function centsOf(
  paymentId: string,
  parts: readonly Readonly<{ paymentId: string; amountCents: number }>[],
): number {
  return parts.reduce(
    (sum, part) => (part.paymentId === paymentId ? sum + part.amountCents : sum),
    0,
  );
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
