import type { Order } from './api-shapes.ts';

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

/** Says that a stream tells a story that the rules of an order do not allow. */
export class ImpossibleHistory extends Error {}

/**
 * The order that events make, folded by rules of the tests' own: nothing here is shared with the service,
 * so that a fault in its fold cannot hide itself.
 * @throws ImpossibleHistory when an event may not follow those before it
 */
export function foldOrder(events: readonly StoredEvent[]): Order {
  const [first, ...rest] = events;
  if (first?.type !== 'OrderPlaced') throw impossible(first, 'a history begins with OrderPlaced');
  return rest.reduce((order, event) => owing(applied(order, event)), placed(first));
}

/** What was captured and is neither given back nor earned: a cancelled order earns nothing. */
function owing(order: Order): Order {
  const { status, totalCents, capturedCents, refundedCents } = order;
  const keptCents = capturedCents - refundedCents;
  if (status === 'cancelled') return { ...order, owedCents: keptCents };
  return { ...order, owedCents: keptCents > totalCents ? keptCents - totalCents : 0 };
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

function applied(order: Order, event: StoredEvent): Order {
  const { data, type } = event;
  const at = event.recorded_at.toISOString();
  const next = { ...order, version: event.version };
  const need = (holds: boolean, rule: string) => {
    if (!holds) throw impossible(event, `${rule}, but the order is ${JSON.stringify(order)}`);
  };
  if (type === 'PaymentCaptured') {
    const amount = whole(data, 'amountCents');
    const capturedCents = order.capturedCents + amount;
    need(
      amount > 0 || order.totalCents === 0,
      'a payment moves money, unless there is none to pay',
    );
    if (order.status !== 'pending' || capturedCents < order.totalCents) {
      return { ...next, capturedCents };
    }
    return {
      ...next,
      status: 'paid',
      capturedCents,
      paidAt: at,
      paymentId: text(data, 'paymentId'),
    };
  }
  if (type === 'OrderShipped') {
    need(order.status === 'paid', 'only a paid order is shipped');
    const parcel = { trackingNumber: text(data, 'trackingNumber'), carrier: text(data, 'carrier') };
    return { ...next, status: 'shipped', shippedAt: at, ...parcel };
  }
  if (type === 'OrderCancelled') {
    need(order.status === 'pending' || order.status === 'paid', 'an end state never changes');
    const refundAmountCents = whole(data, 'refundAmountCents');
    need(refundAmountCents === order.capturedCents, 'it tells all that was captured');
    const reason = text(data, 'reason');
    return { ...next, status: 'cancelled', cancelledAt: at, reason, refundAmountCents };
  }
  if (type === 'PaymentRefunded') {
    const amount = whole(data, 'amountCents');
    need(amount <= order.owedCents, 'no more is given back than is owed');
    const refundedCents = order.refundedCents + amount;
    return { ...next, refundedCents };
  }
  throw impossible(event, 'an event of another kind');
}

function impossible(event: StoredEvent | undefined, rule: string): ImpossibleHistory {
  return new ImpossibleHistory(`${rule}: ${JSON.stringify(event)}`);
}

function field(data: unknown, name: string): unknown {
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
