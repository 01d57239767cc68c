import type { OrderEvent, OrderItem } from './order-events.ts';
import { isByHand, isRunByASaga } from './order-rule.ts';
import type {
  ChangingCommand,
  Command,
  CommandOf,
  Refusal,
  RefusalDetails,
  RejectionCode,
  Rule,
  RulesOf,
} from './order-rule.ts';
import { dueCents, isOver } from './order.ts';
import type { Order } from './order.ts';
import { paymentRules } from './payment-rules.ts';
import { shipmentRules } from './shipment-rules.ts';

export type { FulfilmentCommand, OrderCommand, RejectionCode } from './order-rule.ts';

/** A command was refused. Nothing was written. */
export class OrderRejected extends Error {
  readonly code: RejectionCode;
  /** What the caller is told of the order. Absent if there is no such order, or if it could not be read. */
  readonly current: Readonly<{ status: string; version: number; allowed: string[] }> | undefined;
  readonly details: RefusalDetails | undefined;

  constructor(code: RejectionCode, order: Order | null, details?: RefusalDetails) {
    super(code);
    this.name = 'OrderRejected';
    this.code = code;
    this.details = details;
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
  if (Array.isArray(decided)) return decided;
  const { code, details }: Refusal = typeof decided === 'string' ? { code: decided } : decided;
  throw new OrderRejected(code, order, details);
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

/** TypeScript allows this because `Rule` has methods. It is safe: a rule only gets commands of its own type. */
function ruleFor(command: ChangingCommand): Rule<ChangingCommand> {
  return rules[command.type];
}

const fulfilmentRules: RulesOf<'FulfilOrder'> = {
  FulfilOrder: {
    route: 'fulfil',
    isAllowed: (order) =>
      isByHand(order) &&
      order.status === 'pending' &&
      missingForFulfilment(order, dueCents(order)) === undefined,
    isDuplicate: isRunByASaga,
    decide(order, { sagaId }) {
      if (order.status === 'shipped') return 'order_already_shipped';
      if (order.status === 'cancelled') return 'order_cancelled';
      if (order.status === 'paid') return 'order_already_paid';
      const missing = missingForFulfilment(order, dueCents(order));
      return missing ?? [{ type: 'FulfilmentStarted', data: { sagaId } }];
    },
  },
};

const cancellationRules: RulesOf<'CancelOrder' | 'FinishCancellation'> = {
  /** An order that a saga runs is cancelled by the saga, once it has undone its steps. */
  CancelOrder: {
    route: 'cancel',
    isAllowed: (order) =>
      !isOver(order) &&
      !order.shipmentRequested &&
      order.parcels.length === 0 &&
      order.cancellationRequestedAt === undefined,
    isDuplicate: (order) =>
      order.status === 'cancelled' || order.cancellationRequestedAt !== undefined,
    decide(order, { reason }) {
      if (order.status === 'shipped') return 'order_already_shipped';
      if (order.parcels.length > 0) return 'order_partly_shipped';
      if (order.shipmentRequested) return 'shipment_requested';
      if (!isByHand(order)) return [{ type: 'CancellationRequested', data: { reason } }];
      return [cancelled(order, reason)];
    },
  },

  FinishCancellation: {
    isDuplicate: (order) => order.status === 'cancelled',
    decide(order, { reason }) {
      if (order.status === 'shipped') return 'order_already_shipped';
      return [cancelled(order, reason)];
    },
  },
};

const { PayOrder, RefundOrder, ...paymentRecords } = paymentRules;
const { ShipOrder, DeliverParcel, ReturnItems, ...shipmentRecords } = shipmentRules;
const { CancelOrder, FinishCancellation } = cancellationRules;

/** In the order in which `allowedCommands` lists them. */
const rules: RulesOf<ChangingCommand['type']> = {
  PayOrder,
  ...fulfilmentRules,
  ShipOrder,
  CancelOrder,
  DeliverParcel,
  ReturnItems,
  RefundOrder,
  ...paymentRecords,
  ...shipmentRecords,
  FinishCancellation,
};

/** A fulfilment needs to know where to ship to, and how to capture what is left to be paid. */
function missingForFulfilment(
  given: Readonly<{
    hasShippingAddress?: boolean | undefined;
    hasPaymentMethod?: boolean | undefined;
  }>,
  leftCents: number,
): RejectionCode | undefined {
  if (given.hasShippingAddress !== true) return 'shipping_address_missing';
  return leftCents > 0 && given.hasPaymentMethod !== true ? 'payment_method_missing' : undefined;
}

function place(command: CommandOf<'PlaceOrder'>, order: Order | null): OrderEvent[] {
  if (order !== null) throw new OrderRejected('order_already_placed', order);
  const { type: _, sagaId, ...data } = command;
  const totalCents = totalOf(command);
  const items = data.items.map((item, index) => ({ lineId: String(index + 1), ...item }));
  const placed: OrderEvent = { type: 'OrderPlaced', data: { ...data, items, totalCents } };
  if (sagaId === undefined) return [placed];
  const missing = missingForFulfilment(data, totalCents);
  if (missing !== undefined) throw new OrderRejected(missing, null);
  return [placed, { type: 'FulfilmentStarted', data: { sagaId } }];
}

/** @throws OrderRejected if the discount is larger than the rest, or the sum before it is too large */
function totalOf(command: CommandOf<'PlaceOrder'>): number {
  const { items, shippingCents = 0, taxCents = 0, discountCents = 0 } = command;
  const sum = sumOf(items) + BigInt(shippingCents) + BigInt(taxCents);
  if (sum > BigInt(Number.MAX_SAFE_INTEGER)) throw new OrderRejected('total_too_large', null);
  if (BigInt(discountCents) > sum) throw new OrderRejected('discount_exceeds_total', null);
  return Number(sum) - discountCents;
}

function sumOf(items: readonly Omit<OrderItem, 'lineId'>[]): bigint {
  return items.reduce(
    (sum, { quantity, priceCents }) => sum + BigInt(quantity) * BigInt(priceCents),
    0n,
  );
}

function cancelled(order: Order, reason: string): OrderEvent {
  return { type: 'OrderCancelled', data: { reason, refundAmountCents: order.capturedCents } };
}
