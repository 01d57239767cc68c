import type { StoredEvent } from '../order-fold.ts';

/** How the ids of payments begin that a test reports by hand, beside the saga. */
export const BY_HAND = 'by-hand';

/** Money and state of an order, as its events tell them. */
export type FoldedOrder = Readonly<{
  status: 'pending' | 'paid' | 'shipped' | 'cancelled';
  version: number;
  currency: string;
  totalCents: number;
  /** The saga's own money. */
  capturedCents: number;
  refundedCents: number;
  /** Money that was reported by hand beside it. */
  byHand: Readonly<{ capturedCents: number; refundedCents: number }>;
  items: ReadonlyArray<Readonly<{ sku: string; quantity: number }>>;
  trackingNumber: string | null;
  started: boolean;
  cancellationAsked: boolean;
  shipmentAsked: boolean;
  placedAt: Date;
  paidAt: Date | null;
  shippedAt: Date | null;
  cancelledAt: Date | null;
}>;

/**
 * Folds the events of an order that a saga fulfils, by rules of the tests' own.
 * @throws Error when an event may not follow those before it
 */
export function foldFulfilledOrder(events: readonly StoredEvent[]): FoldedOrder {
  const [first, ...rest] = events;
  if (first?.type !== 'OrderPlaced') throw new Error('a history begins with OrderPlaced');
  return rest.reduce(applied, placed(first));
}

function placed({ data, version, recorded_at: placedAt }: StoredEvent): FoldedOrder {
  return {
    status: 'pending',
    version,
    currency: text(data, 'currency'),
    totalCents: whole(data, 'totalCents'),
    capturedCents: 0,
    refundedCents: 0,
    byHand: { capturedCents: 0, refundedCents: 0 },
    items: list(data, 'items').map((item) => ({
      sku: text(item, 'sku'),
      quantity: whole(item, 'quantity'),
    })),
    trackingNumber: null,
    started: false,
    cancellationAsked: false,
    shipmentAsked: false,
    placedAt,
    paidAt: null,
    shippedAt: null,
    cancelledAt: null,
  };
}

function applied(order: FoldedOrder, event: StoredEvent): FoldedOrder {
  const { data, type, version, recorded_at: at } = event;
  const next = { ...order, version };
  const need = (holds: boolean, rule: string) => {
    if (!holds) throw new Error(`${rule}: ${JSON.stringify(event)} on ${JSON.stringify(order)}`);
  };
  const paymentId = field(data, 'paymentId');
  if (typeof paymentId === 'string' && paymentId.startsWith(BY_HAND)) return handled(next, event);
  need(order.status !== 'shipped' && order.status !== 'cancelled', 'the end is the last event');
  switch (type) {
    case 'FulfilmentStarted':
      need(!order.started && order.status === 'pending', 'it starts once, while pending');
      return { ...next, started: true };
    case 'CancellationRequested':
      need(order.started && !order.cancellationAsked, 'a cancellation is asked for once');
      need(!order.shipmentAsked, 'not after the shipment was asked for');
      return { ...next, cancellationAsked: true };
    case 'PaymentCaptured': {
      const wasPending = order.status === 'pending' || order.byHand.capturedCents > 0;
      need(wasPending && order.capturedCents === 0, 'it is paid once');
      const capturedCents = whole(data, 'amountCents');
      return { ...next, status: 'paid', capturedCents, paidAt: order.paidAt ?? at };
    }
    case 'ShipmentRequested':
      need(order.status === 'paid' && !order.shipmentAsked, 'it is asked for once, when paid');
      need(order.capturedCents === order.totalCents, 'only what is paid in full is shipped');
      need(!order.cancellationAsked, 'not after the cancellation was asked for');
      return { ...next, shipmentAsked: true };
    case 'OrderShipped':
      need(order.shipmentAsked && order.refundedCents === 0, 'only what was asked for is shipped');
      return {
        ...next,
        status: 'shipped',
        trackingNumber: text(data, 'trackingNumber'),
        shippedAt: at,
      };
    case 'PaymentRefunded':
      need(order.refundedCents === 0 && order.capturedCents > 0, 'it is refunded once');
      return { ...next, refundedCents: whole(data, 'amountCents') };
    case 'OrderCancelled':
      need(order.refundedCents === order.capturedCents, 'all was given back before');
      need(
        whole(data, 'refundAmountCents') === order.capturedCents + order.byHand.capturedCents,
        'it tells all that was taken',
      );
      need(text(data, 'reason').length > 0, 'it says why');
      return { ...next, status: 'cancelled', cancelledAt: at };
    default:
      throw new Error(`no event of a fulfilled order: ${type}`);
  }
}

/** Taken whenever it comes, and given back by hand once the saga has ended. */
function handled(order: FoldedOrder, { data, type, recorded_at: at }: StoredEvent): FoldedOrder {
  const { capturedCents, refundedCents } = order.byHand;
  const amountCents = whole(data, 'amountCents');
  if (type === 'PaymentCaptured') {
    const byHand = { capturedCents: capturedCents + amountCents, refundedCents };
    const pays = order.status === 'pending' && order.started;
    return { ...order, byHand, ...(pays && { status: 'paid', paidAt: at }) };
  }
  const byHand = { capturedCents, refundedCents: refundedCents + amountCents };
  if (byHand.refundedCents > capturedCents) throw new Error('more is given back than was taken');
  if (order.status !== 'shipped' && order.status !== 'cancelled') {
    throw new Error('nothing is given back by hand while the saga runs');
  }
  return { ...order, byHand };
}

export function field(data: unknown, name: string): unknown {
  return typeof data === 'object' && data !== null ? Reflect.get(data, name) : undefined;
}

function text(data: unknown, name: string): string {
  const value = field(data, name);
  if (typeof value !== 'string') throw new Error(`${name} is ${String(value)}`);
  return value;
}

function whole(data: unknown, name: string): number {
  const value = field(data, name);
  if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < 0) {
    throw new Error(`${name} is ${String(value)}`);
  }
  return value;
}

function list(data: unknown, name: string): unknown[] {
  const value = field(data, name);
  if (!Array.isArray(value)) throw new Error(`${name} is no list`);
  return value;
}
