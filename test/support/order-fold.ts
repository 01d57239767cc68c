import type { Order } from './api-shapes.ts';

/** Tests that report payments by hand on an order that a saga fulfils begin their ids with this. */
export const BY_HAND = 'by-hand';

/** An event as the table holds it. */
export type StoredEvent = Readonly<{
  position: number;
  stream_id: string;
  version: number;
  type: string;
  schema_version: number;
  data: unknown;
  recorded_at: Date;
}>;

/** What the saga of an order did to it. */
export type SagaEffects = Readonly<{
  /** The money that the saga itself moved. */
  capturedCents: number;
  refundedCents: number;
  cancellationRequested: boolean;
  shipmentRequested: boolean;
}>;

/** `saga` is null for an order that is fulfilled by hand. */
export type FoldedOrder = Readonly<{ order: Order; saga: SagaEffects | null }>;

/** A stream whose events the rules of an order do not allow. */
export class ImpossibleHistory extends Error {}

/**
 * The order that events make, folded by rules of the tests' own. It shares nothing with the service, so that a
 * fault in the service's fold cannot hide itself.
 * @throws ImpossibleHistory when an event may not follow those before it
 */
export function foldOrder(events: readonly StoredEvent[]): FoldedOrder {
  const [first, ...rest] = events;
  if (first?.type !== 'OrderPlaced') throw impossible(first, 'a history begins with OrderPlaced');
  return rest.reduce<FoldedOrder>(
    (folded, event) => {
      const { order, saga } = applied(folded, event);
      return { order: { ...order, version: event.version, owedCents: owedCents(order) }, saga };
    },
    { order: placed(first), saga: null },
  );
}

/** What was captured and is neither given back nor earned: a cancelled order earns nothing. */
function owedCents({ status, totalCents, capturedCents, refundedCents }: Order): number {
  const keptCents = capturedCents - refundedCents;
  if (status === 'cancelled') return keptCents;
  return keptCents > totalCents ? keptCents - totalCents : 0;
}

function placed(event: StoredEvent): Order {
  const items = list(event, 'items').map((item) => ({
    sku: text(item, 'sku'),
    quantity: whole(item, 'quantity'),
    priceCents: whole(item, 'priceCents'),
  }));
  const total = items.reduce(
    (sum, { quantity, priceCents }) => sum + BigInt(quantity) * BigInt(priceCents),
    0n,
  );
  const data = event.data;
  if (total !== BigInt(whole(data, 'totalCents'))) throw impossible(event, `the total is ${total}`);
  if (text(data, 'orderId') !== event.stream_id) throw impossible(event, 'another orderId');
  return {
    orderId: event.stream_id,
    customerId: text(data, 'customerId'),
    status: 'pending',
    currency: text(data, 'currency'),
    items,
    itemCount: items.length,
    totalCents: Number(total),
    version: event.version,
    placedAt: event.recorded_at.toISOString(),
    capturedCents: 0,
    refundedCents: 0,
    owedCents: 0,
  };
}

function applied(folded: FoldedOrder, event: StoredEvent): FoldedOrder {
  const { order, saga } = folded;
  const { data, type } = event;
  const need = (holds: boolean, rule: string) => {
    if (!holds) throw impossible(event, `${rule}, but the order is ${JSON.stringify(folded)}`);
  };
  const at = event.recorded_at.toISOString();
  const isOver = order.status === 'shipped' || order.status === 'cancelled';
  switch (type) {
    case 'PaymentCaptured':
      return captured(folded, event, need);
    case 'PaymentRefunded':
      return refunded(folded, event, need);
    case 'OrderShipped': {
      need(order.status === 'paid', 'only a paid order is shipped');
      need(saga === null || saga.shipmentRequested, 'a saga requests the shipment before');
      need(saga === null || saga.refundedCents === 0, 'a saga ships nothing that it refunded');
      const parcel = {
        trackingNumber: text(data, 'trackingNumber'),
        carrier: text(data, 'carrier'),
      };
      return { order: { ...order, status: 'shipped', shippedAt: at, ...parcel }, saga };
    }
    case 'OrderCancelled': {
      need(!isOver, 'an end state never changes');
      need(saga?.refundedCents === saga?.capturedCents, 'a saga gives back all before');
      const refundAmountCents = whole(data, 'refundAmountCents');
      need(refundAmountCents === order.capturedCents, 'it tells all that was captured');
      const reason = text(data, 'reason');
      need(reason.length > 0, 'it says why');
      const end = { status: 'cancelled', cancelledAt: at, reason, refundAmountCents } as const;
      return { order: { ...order, ...end }, saga };
    }
    case 'FulfilmentStarted': {
      need(saga === null && order.status === 'pending', 'it starts once, while pending');
      const nothing = { capturedCents: 0, refundedCents: 0 };
      return {
        order,
        saga: { ...nothing, cancellationRequested: false, shipmentRequested: false },
      };
    }
    case 'CancellationRequested':
      if (saga === null) throw impossible(event, 'only a saga is asked to cancel');
      need(!isOver && !saga.cancellationRequested, 'a cancellation is requested once');
      need(!saga.shipmentRequested, 'not after the shipment was requested');
      return { order, saga: { ...saga, cancellationRequested: true } };
    case 'ShipmentRequested':
      if (saga === null) throw impossible(event, 'only a saga requests a shipment');
      need(order.status === 'paid' && !saga.shipmentRequested, 'it is requested once, when paid');
      need(saga.capturedCents === order.totalCents, 'only what is paid in full is shipped');
      need(!saga.cancellationRequested, 'not after the cancellation was requested');
      return { order, saga: { ...saga, shipmentRequested: true } };
    default:
      throw impossible(event, 'an event of another kind');
  }
}

type Need = (holds: boolean, rule: string) => void;

/** The first payment pays an order that a saga fulfils; by hand, payments must cover the total. */
function captured({ order, saga }: FoldedOrder, event: StoredEvent, need: Need): FoldedOrder {
  const amountCents = whole(event.data, 'amountCents');
  const paymentId = text(event.data, 'paymentId');
  need(
    amountCents > 0 || order.totalCents === 0,
    'a payment moves money, unless there is none to pay',
  );
  const capturedCents = order.capturedCents + amountCents;
  const pays = order.status === 'pending' && (saga !== null || capturedCents >= order.totalCents);
  const after: Order = {
    ...order,
    capturedCents,
    ...(pays && { status: 'paid', paidAt: event.recorded_at.toISOString(), paymentId }),
  };
  if (saga === null || paymentId.startsWith(BY_HAND)) return { order: after, saga };
  need(order.status === 'pending' || order.status === 'paid', 'the end is the last event');
  need(saga.capturedCents === 0, 'a saga captures once');
  need(order.status === 'pending' || order.capturedCents > 0, 'only a payment by hand pays before');
  return { order: after, saga: { ...saga, capturedCents: amountCents } };
}

function refunded({ order, saga }: FoldedOrder, event: StoredEvent, need: Need): FoldedOrder {
  const amountCents = whole(event.data, 'amountCents');
  const after = { ...order, refundedCents: order.refundedCents + amountCents };
  const isOver = order.status === 'shipped' || order.status === 'cancelled';
  if (saga === null || text(event.data, 'paymentId').startsWith(BY_HAND)) {
    need(saga === null || isOver, 'nothing is given back by hand while the saga runs');
    need(amountCents <= order.owedCents, 'no more is given back than is owed');
    return { order: after, saga };
  }
  need(!isOver, 'the end is the last event');
  need(saga.refundedCents === 0 && saga.capturedCents > 0, 'a saga refunds once');
  return { order: after, saga: { ...saga, refundedCents: amountCents } };
}

function impossible(event: StoredEvent | undefined, rule: string): ImpossibleHistory {
  return new ImpossibleHistory(`${rule}: ${JSON.stringify(event)}`);
}

/** A member of event data that is not typed; undefined if it is not there. */
export function field(data: unknown, name: string): unknown {
  return typeof data === 'object' && data !== null ? Reflect.get(data, name) : undefined;
}

function text(data: unknown, name: string): string {
  const value = field(data, name);
  if (typeof value !== 'string') throw new ImpossibleHistory(`${name} is ${String(value)}`);
  return value;
}

function whole(data: unknown, name: string): number {
  const value = field(data, name);
  if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < 0) {
    throw new ImpossibleHistory(`${name} is ${String(value)}`);
  }
  return value;
}

function list(event: StoredEvent, name: string): unknown[] {
  const value = field(event.data, name);
  if (!Array.isArray(value)) throw impossible(event, `${name} is a list`);
  return value;
}
