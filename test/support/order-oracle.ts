import type { FoldedOrder } from './order-fold.ts';
import type { Command } from './order-life.ts';

/*
 * Which commands of callers take effect, by rules of the tests' own: from the promises of the API, not from its code.
 */

/** What is stored of an order apart from its events. */
export type Held = Readonly<{ address: boolean; contact: boolean; paymentMethod: boolean }>;

/**
 * Whether a command takes effect now. Undefined for what a saga reports: that has
 * happened.
 * A duplicate takes no effect, nor does a command that is refused.
 */
export function takesEffect(
  command: Command,
  folded: FoldedOrder | undefined,
  held: Held,
): boolean | undefined {
  if (command.type === 'PlaceOrder') return folded === undefined;
  if (folded === undefined) return false;
  const { order, saga } = folded;
  const isOver = order.status === 'shipped' || order.status === 'cancelled';
  const isRunning = saga !== null && !isOver;
  const hasLeft = order.parcels.length > 0;
  switch (command.type) {
    case 'PayOrder': {
      const isFree = order.status === 'pending' && order.totalCents === 0;
      const isKnown = order.payments.some(({ paymentId }) => paymentId === command.paymentId);
      return !isKnown && (command.amountCents > 0 || isFree);
    }
    case 'ShipOrder': {
      const isKnown = order.parcels.some(
        (known) => known.trackingNumber === command.trackingNumber,
      );
      const isReady = saga === null && order.status === 'paid' && !isKnown;
      return isReady && fits(command.items ?? [], order, 'quantity', 'shippedQuantity');
    }
    case 'DeliverParcel':
      return order.parcels.some(
        ({ trackingNumber, deliveredAt }) =>
          trackingNumber === command.trackingNumber && deliveredAt === undefined,
      );
    case 'ReturnItems': {
      const isKnown = order.returns.some(({ returnId }) => returnId === command.returnId);
      return !isKnown && fits(command.items, order, 'shippedQuantity', 'returnedQuantity');
    }
    case 'RefundOrder':
      return !isRunning && canRefund(command, order);
    case 'CancelOrder': {
      const isAsked = saga?.cancellationRequested === true || saga?.shipmentRequested === true;
      return !isOver && !hasLeft && !isAsked;
    }
    case 'FulfilOrder': {
      const dueCents = order.totalCents - order.capturedCents + order.refundedCents;
      const canPay = held.paymentMethod || dueCents <= 0;
      return saga === null && order.status === 'pending' && held.address && canPay;
    }
    case 'ChangeShippingAddress': {
      const isGone = isOver || hasLeft || saga?.shipmentRequested === true;
      return !isGone && order.personalDataErasedAt === undefined;
    }
    case 'ErasePersonalData':
      return !isRunning && Object.values(held).some(Boolean);
    case 'RequestShipment':
      return saga?.cancellationRequested === false && !saga.shipmentRequested;
    case 'RecordPayment':
    case 'RecordShipment':
    case 'RecordRefund':
    case 'FailRefund':
    case 'FinishCancellation':
      return undefined;
  }
}

type Order = FoldedOrder['order'];
type Quantity = 'quantity' | 'shippedQuantity' | 'returnedQuantity';

/** Whether the order has these lines, and of each as many as that. */
function fits(
  items: ReadonlyArray<Readonly<{ lineId: string; quantity: number }>>,
  order: Order,
  of: Quantity,
  less: Quantity,
): boolean {
  const left = new Map(order.items.map((line) => [line.lineId, line[of] - line[less]]));
  return items.every(({ lineId, quantity }) => quantity <= (left.get(lineId) ?? -1));
}

function canRefund(
  command: Extract<Command, { type: 'RefundOrder' }>,
  { refunds, payments, returns, capturedCents }: Order,
): boolean {
  if (refunds.some(({ refundId }) => refundId === command.refundId)) return false;
  const isNamed = command.returnId !== undefined;
  if (isNamed && !returns.some(({ returnId }) => returnId === command.returnId)) return false;
  const taken = refunds.filter(({ state }) => state !== 'failed');
  const sum = (parts: ReadonlyArray<Readonly<{ amountCents: number }>>) =>
    parts.reduce((total, { amountCents }) => total + amountCents, 0);
  if (command.amountCents > capturedCents - sum(taken)) return false;
  const leftOf = ({ paymentId, amountCents }: Order['payments'][number]) =>
    amountCents - sum(taken.filter((refund) => refund.paymentId === paymentId));
  if (command.paymentId !== undefined) {
    const payment = payments.find(({ paymentId }) => paymentId === command.paymentId);
    return payment !== undefined && leftOf(payment) >= command.amountCents;
  }
  // A provider is not asked for more than it took. What somebody has given back is recorded, however it was split.
  const byHand = payments.filter(
    ({ source }) => command.recordOnly === true || source === 'reported',
  );
  const leftByHand = byHand.reduce((total, payment) => total + leftOf(payment), 0);
  return (
    leftByHand >= command.amountCents ||
    payments.some((payment) => leftOf(payment) >= command.amountCents)
  );
}

/** What is held after a command that took effect. */
export function heldAfter(command: Command, held: Held): Held {
  if (command.type === 'ChangeShippingAddress') return { ...held, address: true };
  if (command.type === 'ErasePersonalData') return NOTHING_HELD;
  if (command.type !== 'PlaceOrder') return held;
  return {
    address: command.hasShippingAddress === true,
    contact: command.hasContact === true,
    paymentMethod: command.hasPaymentMethod === true,
  };
}

export const NOTHING_HELD: Held = { address: false, contact: false, paymentMethod: false };
