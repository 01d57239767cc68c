import type { OrderEvent, OrderEventData, OrderItem } from './order-events.ts';
import { isOver } from './order.ts';
import type { Order } from './order.ts';

/** What callers can ask of an order. */
export type OrderCommand =
  /** `sagaId` starts its fulfilment at once, under this id. */
  | Readonly<
      { type: 'PlaceOrder'; sagaId?: string } & Omit<OrderEventData<'OrderPlaced'>, 'totalCents'>
    >
  | Readonly<{ type: 'PayOrder' } & OrderEventData<'PaymentCaptured'>>
  | Readonly<{ type: 'ShipOrder' } & OrderEventData<'OrderShipped'>>
  | Readonly<{ type: 'CancelOrder'; reason: string }>
  /** Without a `paymentId` the rules choose the payment that is refunded. */
  | Readonly<{
      type: 'RefundOrder';
      refundId: string;
      amountCents: number;
      paymentId?: string | undefined;
    }>
  | Readonly<{ type: 'FulfilOrder'; sagaId: string }>;

/** What the saga of an order reports. What has happened outside of the service is recorded in every state. */
export type FulfilmentCommand =
  | Readonly<{ type: 'RecordPayment' } & OrderEventData<'PaymentCaptured'>>
  | Readonly<{ type: 'RequestShipment' }>
  | Readonly<{ type: 'RecordShipment' } & OrderEventData<'OrderShipped'>>
  | Readonly<{ type: 'RecordRefund' } & OrderEventData<'PaymentRefunded'>>
  | Readonly<{ type: 'FinishCancellation'; reason: string }>;

type Command = OrderCommand | FulfilmentCommand;
type CommandOf<Type> = Extract<Command, { type: Type }>;

/** Why a command is refused. The HTTP status of each code is in `order-problems.ts`. */
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
  | 'shipment_requested'
  /** The version of the order is not the one in If-Match. */
  | 'version_mismatch'
  /** The command lost too many races. */
  | 'version_conflict';

/** A command was refused. Nothing was written. */
export class OrderRejected extends Error {
  readonly code: RejectionCode;
  /** What the caller is told of the order. Absent if there is no such order, or if it could not be read. */
  readonly current: Readonly<{ status: string; version: number; allowed: string[] }> | undefined;

  constructor(code: RejectionCode, order: Order | null) {
    super(code);
    this.name = 'OrderRejected';
    this.code = code;
    this.current = order
      ? { status: order.status, version: order.version, allowed: allowedCommands(order) }
      : undefined;
  }
}

/**
 * Applies the rules: the events that the command causes on this order, which is null before its first event.
 * A duplicate causes none, any other command at least one.
 * @throws OrderRejected
 */
export function decide(command: Command, order: Order | null): OrderEvent[] {
  if (command.type === 'PlaceOrder') return place(command, order);
  if (order === null) throw new OrderRejected('order_not_found', null);
  if (isDuplicate(command, order)) return [];
  const decided = ruleFor(command).decide(order, command);
  if (typeof decided === 'string') throw new OrderRejected(decided, order);
  return decided;
}

/** Whether the command has already taken effect, so that it changes nothing if it is sent again. */
export function isDuplicate(command: Command, order: Order): boolean {
  return command.type !== 'PlaceOrder' && ruleFor(command).isDuplicate(order, command);
}

/**
 * What a caller should send next, as the last part of its route. A payment that has happened is recorded
 * even if `pay` is not among them.
 */
export function allowedCommands(order: Order): string[] {
  return Object.values<Rule<never>>(rules).flatMap(({ route, isAllowed }) =>
    route !== undefined && isAllowed?.(order) ? [route] : [],
  );
}

type ChangingCommand = Exclude<Command, { type: 'PlaceOrder' }>;

type Rule<Command> = {
  /** Last part of the route, for commands of callers. */
  route?: string;
  /** Whether the command is listed among those that are allowed now. */
  isAllowed?: (order: Order) => boolean;
  isDuplicate(order: Order, command: Command): boolean;
  /** The events that the command causes, or why it is refused. */
  decide(order: Order, command: Command): OrderEvent[] | RejectionCode;
};

/** TypeScript allows this because `Rule` has methods. It is safe: a rule only gets commands of its own type. */
function ruleFor(command: ChangingCommand): Rule<ChangingCommand> {
  return rules[command.type];
}

/** Callers can report this many payments and refunds. Each makes every later fold of the stream longer. */
const PAYMENTS_MAX = 100;
const REFUNDS_MAX = 100;

const rules: Readonly<{ [Type in ChangingCommand['type']]: Rule<CommandOf<Type>> }> = {
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

  FulfilOrder: {
    route: 'fulfil',
    isAllowed: (order) => isByHand(order) && order.status === 'pending',
    isDuplicate: isRunByASaga,
    decide(order, { sagaId }) {
      if (order.status === 'shipped') return 'order_already_shipped';
      if (order.status === 'cancelled') return 'order_cancelled';
      if (order.status === 'paid') return 'order_already_paid';
      return [{ type: 'FulfilmentStarted', data: { sagaId } }];
    },
  },

  ShipOrder: {
    route: 'ship',
    isAllowed: (order) => isByHand(order) && order.status === 'paid',
    isDuplicate: hasTrackingNumber,
    decide(order, { trackingNumber, carrier }) {
      if (order.status === 'shipped') return 'order_already_shipped';
      if (order.status === 'cancelled') return 'order_cancelled';
      if (!isByHand(order)) return 'fulfilment_running';
      if (order.status === 'pending') return 'order_not_paid';
      return [{ type: 'OrderShipped', data: { trackingNumber, carrier } }];
    },
  },

  /** An order that a saga runs is cancelled by the saga, once it has undone its steps. */
  CancelOrder: {
    route: 'cancel',
    isAllowed: (order) =>
      !isOver(order) && !order.shipmentRequested && order.cancellationRequestedAt === undefined,
    isDuplicate: (order) =>
      order.status === 'cancelled' || order.cancellationRequestedAt !== undefined,
    decide(order, { reason }) {
      if (order.status === 'shipped') return 'order_already_shipped';
      if (order.shipmentRequested) return 'shipment_requested';
      if (!isByHand(order)) return [{ type: 'CancellationRequested', data: { reason } }];
      return [cancelled(order, reason)];
    },
  },

  RefundOrder: {
    route: 'refund',
    isAllowed: (order) =>
      !isRunByASaga(order) && order.owedCents > 0 && order.refunds.length < REFUNDS_MAX,
    isDuplicate: isKnownRefund,
    decide(order, command) {
      const { refundId, amountCents } = command;
      if (isRunByASaga(order)) return 'fulfilment_running';
      if (order.owedCents === 0 && order.status !== 'cancelled') return 'order_not_cancelled';
      if (order.refunds.some((known) => known.refundId === refundId)) return 'refund_id_taken';
      const paymentId = refundedPayment(order, command);
      if (paymentId === undefined || amountCents > order.owedCents) {
        return 'refund_exceeds_owed';
      }
      if (order.refunds.length >= REFUNDS_MAX) return 'too_many_refunds';
      return [{ type: 'PaymentRefunded', data: { refundId, amountCents, paymentId } }];
    },
  },

  RecordPayment: {
    isDuplicate: isKnownPayment,
    decide: (_, { paymentId, amountCents }) => [
      { type: 'PaymentCaptured', data: { amountCents, paymentId } },
    ],
  },

  RequestShipment: {
    isDuplicate: (order) => order.shipmentRequested,
    decide(order) {
      if (order.cancellationRequestedAt !== undefined) return 'cancellation_requested';
      return [{ type: 'ShipmentRequested', data: {} }];
    },
  },

  RecordShipment: {
    isDuplicate: hasTrackingNumber,
    decide: (_, { trackingNumber, carrier }) => [
      { type: 'OrderShipped', data: { trackingNumber, carrier } },
    ],
  },

  RecordRefund: {
    isDuplicate: isKnownRefund,
    decide: (_, { refundId, amountCents, paymentId }) => [
      { type: 'PaymentRefunded', data: { refundId, amountCents, paymentId } },
    ],
  },

  FinishCancellation: {
    isDuplicate: (order) => order.status === 'cancelled',
    decide(order, { reason }) {
      if (order.status === 'shipped') return 'order_already_shipped';
      return [cancelled(order, reason)];
    },
  },
};

function place(command: CommandOf<'PlaceOrder'>, order: Order | null): OrderEvent[] {
  if (order !== null) throw new OrderRejected('order_already_placed', order);
  const { orderId, customerId, currency, items, sagaId } = command;
  const totalCents = totalOf(items);
  const placed: OrderEvent = {
    type: 'OrderPlaced',
    data: { orderId, customerId, currency, items, totalCents },
  };
  return sagaId === undefined
    ? [placed]
    : [placed, { type: 'FulfilmentStarted', data: { sagaId } }];
}

function totalOf(items: readonly OrderItem[]): number {
  const total = items.reduce(
    (sum, { quantity, priceCents }) => sum + BigInt(quantity) * BigInt(priceCents),
    0n,
  );
  if (total > BigInt(Number.MAX_SAFE_INTEGER)) throw new OrderRejected('total_too_large', null);
  return Number(total);
}

function cancelled(order: Order, reason: string): OrderEvent {
  return { type: 'OrderCancelled', data: { reason, refundAmountCents: order.capturedCents } };
}

function isByHand(order: Order): boolean {
  return order.fulfilment === undefined;
}

function isRunByASaga(order: Order): boolean {
  return !isByHand(order) && !isOver(order);
}

function isKnownPayment(order: Order, payment: OrderEventData<'PaymentCaptured'>): boolean {
  return order.payments.some(
    ({ paymentId, amountCents }) =>
      paymentId === payment.paymentId && amountCents === payment.amountCents,
  );
}

function hasTrackingNumber(order: Order, parcel: OrderEventData<'OrderShipped'>): boolean {
  return order.trackingNumber === parcel.trackingNumber;
}

/** A refund that names no payment is known by its id and amount. */
function isKnownRefund(order: Order, refund: Omit<CommandOf<'RefundOrder'>, 'type'>): boolean {
  return order.refunds.some(
    ({ refundId, amountCents, paymentId }) =>
      refundId === refund.refundId &&
      amountCents === refund.amountCents &&
      paymentId === (refund.paymentId ?? paymentId),
  );
}

/**
 * The payment that is refunded: the one that the command names, if enough of it is left; otherwise the newest
 * with enough left, or else the newest with anything left.
 */
function refundedPayment(
  { payments, refunds }: Order,
  { amountCents, paymentId }: CommandOf<'RefundOrder'>,
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
  return parts
    .filter((part) => part.paymentId === paymentId)
    .reduce((sum, { amountCents }) => sum + amountCents, 0);
}
