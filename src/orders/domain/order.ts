import type { z } from 'zod';
import type { LineQuantity, OrderEvent, RecordedOrderEvent } from './order-events.ts';
import type { orderView } from './order-view.ts';

/** An order, folded from its events: what callers see, and what only the rules need. */
export type Order = Readonly<z.infer<typeof orderView>> &
  Readonly<{
    shipmentRequested: boolean;
    hasShippingAddress: boolean;
    hasContact: boolean;
    hasPaymentMethod: boolean;
    /** What was refunded without being owed: the order costs less by this. */
    allowanceCents: number;
  }>;

/** `stuck` is known to the saga only. The other states follow from the order's own events. */
export type FulfilmentState = NonNullable<Order['fulfilment']>;

type Refund = Order['refunds'][number];

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
  if (event.type === 'OrderPlaced') return placed(event);
  if (order === null) throw new StreamDamaged(event.version);
  const after = { ...order, ...changes(order, event), version: event.version };
  after.owedCents = owedCents(after);
  after.paymentStatus = paymentStatus(after);
  return after;
}

type Recorded<Type> = Extract<RecordedOrderEvent, { type: Type }>;

function placed({ data, version, recordedAt }: Recorded<'OrderPlaced'>): Order {
  const { orderId, customerId, externalReference, currency, items, totalCents, metadata } = data;
  return {
    orderId,
    customerId,
    ...(externalReference !== undefined && { externalReference }),
    status: 'pending',
    paymentStatus: 'unpaid',
    shipmentStatus: 'unshipped',
    currency,
    items: items.map((item) => ({ ...item, shippedQuantity: 0, returnedQuantity: 0 })),
    itemCount: items.length,
    shippingCents: data.shippingCents ?? 0,
    taxCents: data.taxCents ?? 0,
    discountCents: data.discountCents ?? 0,
    totalCents,
    ...(metadata && { metadata }),
    version,
    placedAt: recordedAt,
    capturedCents: 0,
    refundedCents: 0,
    owedCents: 0,
    allowanceCents: 0,
    payments: [],
    refunds: [],
    parcels: [],
    returns: [],
    shipmentRequested: false,
    hasShippingAddress: data.hasShippingAddress ?? false,
    hasContact: data.hasContact ?? false,
    hasPaymentMethod: data.hasPaymentMethod ?? false,
  };
}

function changes(
  order: Order,
  event: Exclude<RecordedOrderEvent, { type: 'OrderPlaced' }>,
): Partial<Order> {
  const { recordedAt } = event;
  switch (event.type) {
    case 'PaymentCaptured':
      return captured(order, event);
    case 'OrderShipped': {
      const { trackingNumber, carrier } = event.data;
      const fields = { status: 'shipped', shippedAt: recordedAt } as const;
      const parcel = { ...event.data, items: unshipped(order) };
      const last = { trackingNumber, carrier, ...end(order, fields, 'completed') };
      return { ...shipped(order, parcel, recordedAt), ...last };
    }
    case 'ParcelShipped':
      return shipped(order, event.data, recordedAt);
    case 'ParcelDelivered':
      return delivered(order, event);
    case 'ItemsReturned':
      return returned(order, event);
    case 'OrderCancelled': {
      const fields = { ...event.data, status: 'cancelled', cancelledAt: recordedAt } as const;
      return end(order, fields, 'compensated');
    }
    case 'RefundRequested': {
      const refund = { ...event.data, state: 'requested', requestedAt: recordedAt } as const;
      return { refunds: withRefund(order, refund) };
    }
    case 'PaymentRefunded':
      return refunded(order, event);
    case 'RefundFailed': {
      const { refundId, reason: failure } = event.data;
      const asked = requestedRefund(order, refundId);
      if (asked === undefined) return {};
      const failed = { ...asked, state: 'failed', failedAt: recordedAt, failure } as const;
      return { refunds: withRefund(order, failed) };
    }
    case 'FulfilmentStarted':
      return { fulfilment: 'running' };
    case 'CancellationRequested':
      return { fulfilment: 'compensating', cancellationRequestedAt: recordedAt };
    case 'ShipmentRequested':
      return { shipmentRequested: true, payments: claimed(order, event) };
    case 'ShippingAddressChanged':
      return { hasShippingAddress: true };
    case 'PersonalDataErased':
      return { ...withoutPersonalData, personalDataErasedAt: recordedAt };
  }
}

const withoutPersonalData = {
  hasShippingAddress: false,
  hasContact: false,
  hasPaymentMethod: false,
};

/** The payments, of which one turns out to be what the fulfilment captured. */
function claimed({ payments }: Order, { data }: Recorded<'ShipmentRequested'>): Order['payments'] {
  const place = payments.findIndex(({ paymentId }) => paymentId === data.capturedPaymentId);
  const payment = payments[place];
  return payment ? payments.with(place, { ...payment, source: 'fulfilment' }) : payments;
}

/**
 * A pending order is paid when its payments cover the total. Once a saga runs, its first payment makes it
 * paid, whatever the amount: the saga itself judges what it captured.
 */
function captured(order: Order, { data, recordedAt }: Recorded<'PaymentCaptured'>): Partial<Order> {
  const { paymentId, amountCents } = data;
  const capturedCents = order.capturedCents + amountCents;
  const isCovered = order.fulfilment !== undefined || capturedCents >= order.totalCents;
  // Earlier releases did not record who captured. A refund of such a payment is recorded, as it was then.
  const source = data.sagaId === undefined ? 'reported' : 'fulfilment';
  const payment = { paymentId, amountCents, source, capturedAt: recordedAt } as const;
  const money = { capturedCents, payments: [...order.payments, payment] };
  if (order.status !== 'pending' || !isCovered) return money;
  return { ...money, status: 'paid', paidAt: recordedAt, paymentId };
}

type Parcel = Readonly<{ trackingNumber: string; carrier: string; items: readonly LineQuantity[] }>;

/** What of each line has not shipped yet. */
export function unshipped({ items }: Pick<Order, 'items'>): LineQuantity[] {
  return items.flatMap(({ lineId, quantity, shippedQuantity }) =>
    quantity > shippedQuantity ? [{ lineId, quantity: quantity - shippedQuantity }] : [],
  );
}

function shipped(order: Order, parcel: Parcel, shippedAt: string): Partial<Order> {
  const { trackingNumber, carrier, items } = parcel;
  const parcels = [...order.parcels, { trackingNumber, carrier, items: [...items], shippedAt }];
  const lines = counted(order, 'shippedQuantity', items);
  return withShipmentStatus({ ...order, parcels, items: lines });
}

function delivered(order: Order, event: Recorded<'ParcelDelivered'>): Partial<Order> {
  const { trackingNumber } = event.data;
  const parcels = order.parcels.map((parcel) =>
    parcel.trackingNumber === trackingNumber
      ? { ...parcel, deliveredAt: event.recordedAt }
      : parcel,
  );
  return withShipmentStatus({ ...order, parcels });
}

function returned(order: Order, { data, recordedAt }: Recorded<'ItemsReturned'>): Partial<Order> {
  const returns = [...order.returns, { ...data, returnedAt: recordedAt }];
  const items = counted(order, 'returnedQuantity', data.items);
  return withShipmentStatus({ ...order, returns, items });
}

/** The lines with more in one count. Searching the parts for each line of a large order would hold everybody up. */
function counted(
  { items }: Order,
  count: 'shippedQuantity' | 'returnedQuantity',
  parts: readonly LineQuantity[],
): Order['items'] {
  const more = new Map<string, number>();
  for (const { lineId, quantity } of parts) more.set(lineId, (more.get(lineId) ?? 0) + quantity);
  return items.map((line) => ({ ...line, [count]: line[count] + (more.get(line.lineId) ?? 0) }));
}

function withShipmentStatus(order: Order): Partial<Order> {
  const { items, parcels, returns } = order;
  return { items, parcels, returns, shipmentStatus: shipmentStatus(order) };
}

function shipmentStatus({ items, parcels }: Order): Order['shipmentStatus'] {
  const isUntouched = items.every(({ shippedQuantity }) => shippedQuantity === 0);
  if (isUntouched) return 'unshipped';
  if (items.some(({ quantity, shippedQuantity }) => shippedQuantity < quantity)) {
    return 'partially_shipped';
  }
  if (items.every(({ quantity, returnedQuantity }) => returnedQuantity >= quantity)) {
    return 'returned';
  }
  return parcels.every(({ deliveredAt }) => deliveredAt !== undefined) ? 'delivered' : 'shipped';
}

/** A refund that was requested before keeps what was known of it. */
function refunded(order: Order, { data, recordedAt }: Recorded<'PaymentRefunded'>): Partial<Order> {
  const { allowanceCents = 0, ...own } = data;
  const asked = requestedRefund(order, data.refundId);
  return {
    refundedCents: order.refundedCents + data.amountCents,
    allowanceCents: order.allowanceCents + allowanceCents,
    refunds: withRefund(order, { ...asked, ...own, state: 'refunded', refundedAt: recordedAt }),
  };
}

/** The refund with this id that the provider has not confirmed yet. */
export function requestedRefund({ refunds }: Order, refundId: string): Refund | undefined {
  return refunds.find((known) => known.refundId === refundId && known.state === 'requested');
}

/** The refunds, with this one: in the place of its request if there is one, or else at the end. */
function withRefund({ refunds }: Order, refund: Refund): Refund[] {
  const place = refunds.findIndex(
    ({ refundId, state }) => refundId === refund.refundId && state === 'requested',
  );
  return place === -1 ? [...refunds, refund] : refunds.with(place, refund);
}

/** An order ends once: what arrives after its end does not end it again. */
function end(order: Order, fields: Partial<Order>, fulfilment: FulfilmentState): Partial<Order> {
  if (isOver(order)) return {};
  return order.fulfilment === undefined ? fields : { ...fields, fulfilment };
}

/** Whether the order has ended: shipped or cancelled. */
export function isOver({ status }: Pick<Order, 'status'>): boolean {
  return status === 'shipped' || status === 'cancelled';
}

/**
 * What the order owes its customer, never below 0: all that was captured if it is cancelled, else what
 * exceeds its total less allowances; less what was refunded.
 */
export function owedCents(
  order: Pick<
    Order,
    'status' | 'totalCents' | 'capturedCents' | 'refundedCents' | 'allowanceCents'
  >,
): number {
  const earnedCents = order.status === 'cancelled' ? 0 : order.totalCents - order.allowanceCents;
  return Math.max(0, order.capturedCents - order.refundedCents - earnedCents);
}

/** What is left to be paid, never below 0. */
export function dueCents({
  totalCents,
  allowanceCents,
  capturedCents,
  refundedCents,
}: Pick<Order, 'totalCents' | 'allowanceCents' | 'capturedCents' | 'refundedCents'>): number {
  return Math.max(0, totalCents - allowanceCents - (capturedCents - refundedCents));
}

/** An order counts as paid once its payments have covered its total. */
export function paymentStatus(
  order: Readonly<{ paidAt?: unknown; capturedCents: number; refundedCents: number }>,
): Order['paymentStatus'] {
  const { paidAt, capturedCents, refundedCents } = order;
  if (refundedCents > 0) return refundedCents < capturedCents ? 'partially_refunded' : 'refunded';
  return paidAt === undefined || paidAt === null ? 'unpaid' : 'paid';
}

/** The order as callers see it (`orderView`), as JSON text, with more members if given. */
export function toJson(order: Order, more?: Readonly<Record<string, unknown>>): string {
  // JSON leaves out what is undefined. To spread is faster than to copy all other fields.
  return JSON.stringify({
    ...order,
    shipmentRequested: undefined,
    hasShippingAddress: undefined,
    hasContact: undefined,
    hasPaymentMethod: undefined,
    allowanceCents: undefined,
    ...more,
  });
}

/** The event as it is recorded next on the order. `recordedAt` is ISO 8601 in UTC. */
export function recordNext(
  order: Order | null,
  event: OrderEvent,
  recordedAt: string,
): RecordedOrderEvent {
  return { ...event, version: (order?.version ?? 0) + 1, recordedAt };
}
