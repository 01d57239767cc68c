import type { Order } from './api-shapes.ts';
import { shaped } from './event-shapes.ts';
import type { ShapedEvent, ShapedOf } from './event-shapes.ts';
import { delivered, returned, shipped } from './order-fold-goods.ts';
import type { Need } from './order-fold-goods.ts';

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

/** An order as its events make it. */
export type FoldedOrder = Readonly<{
  order: Order;
  /** Null for an order that is fulfilled by hand. */
  saga: SagaEffects | null;
  /** What was refunded though it was not owed. It lowers what the order costs. */
  allowanceCents: number;
}>;

/** A stream whose events the rules of an order do not allow. */
export class ImpossibleHistory extends Error {}

const NOTHING: SagaEffects = {
  capturedCents: 0,
  refundedCents: 0,
  cancellationRequested: false,
  shipmentRequested: false,
};

type Changes = Partial<FoldedOrder>;

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
      const after = applied(folded, event);
      return { ...after, order: derived(after, event.version) };
    },
    { order: placed(first), saga: null, allowanceCents: 0 },
  );
}

/** The order with all that follows from the rest of it. */
function derived({ order, allowanceCents }: FoldedOrder, version: number): Order {
  return {
    ...order,
    version,
    owedCents: owedCents(order, allowanceCents),
    paymentStatus: paymentStatus(order),
    shipmentStatus: shipmentStatus(order),
  };
}

/** What was captured and is neither given back nor earned: a cancelled order earns nothing. */
function owedCents(order: Order, allowanceCents: number): number {
  const keptCents = order.capturedCents - order.refundedCents;
  const costCents = order.status === 'cancelled' ? 0 : order.totalCents - allowanceCents;
  return keptCents > costCents ? keptCents - costCents : 0;
}

function paymentStatus({ capturedCents, refundedCents, paidAt }: Order): Order['paymentStatus'] {
  if (refundedCents === 0) return paidAt === undefined ? 'unpaid' : 'paid';
  return refundedCents < capturedCents ? 'partially_refunded' : 'refunded';
}

function shipmentStatus({ status, items, parcels }: Order): Order['shipmentStatus'] {
  if (parcels.length === 0) return 'unshipped';
  if (status !== 'shipped') return 'partially_shipped';
  if (items.every(({ quantity, returnedQuantity }) => quantity === returnedQuantity)) {
    return 'returned';
  }
  return parcels.every(({ deliveredAt }) => deliveredAt !== undefined) ? 'delivered' : 'shipped';
}

function placed(stored: StoredEvent): Order {
  const event = shaped(stored);
  if (typeof event === 'string') throw impossible(stored, event);
  if (event.type !== 'OrderPlaced') throw impossible(stored, 'not how a history begins');
  const { hasShippingAddress: _, hasContact: _c, hasPaymentMethod: _p, ...data } = event.data;
  const items = data.items.map(({ lineId, ...item }, index) => ({
    ...item,
    lineId: lineId ?? String(index + 1),
    shippedQuantity: 0,
    returnedQuantity: 0,
  }));
  const { shippingCents = 0, taxCents = 0, discountCents = 0 } = data;
  const more = BigInt(shippingCents) + BigInt(taxCents) - BigInt(discountCents);
  const total = items.reduce(
    (sum, { quantity, priceCents }) => sum + BigInt(quantity) * BigInt(priceCents),
    more,
  );
  if (total !== BigInt(data.totalCents)) throw impossible(stored, `the total is ${total}`);
  if (data.orderId !== stored.stream_id) throw impossible(stored, 'another orderId');
  if (new Set(items.map(({ lineId }) => lineId)).size < items.length) {
    throw impossible(stored, 'each line has an id of its own');
  }
  return {
    ...data,
    status: 'pending',
    paymentStatus: 'unpaid',
    shipmentStatus: 'unshipped',
    items,
    itemCount: items.length,
    shippingCents,
    taxCents,
    discountCents,
    version: stored.version,
    placedAt: stored.recorded_at.toISOString(),
    capturedCents: 0,
    refundedCents: 0,
    owedCents: 0,
    payments: [],
    refunds: [],
    parcels: [],
    returns: [],
  };
}

function applied(folded: FoldedOrder, stored: StoredEvent): FoldedOrder {
  const event = shaped(stored);
  if (typeof event === 'string') throw impossible(stored, event);
  const at = stored.recorded_at.toISOString();
  const need = (holds: boolean, rule: string) => {
    if (!holds) throw impossible(stored, `${rule}, but the order is ${JSON.stringify(folded)}`);
  };
  return { ...folded, ...changes(folded, event, at, need) };
}

function changes(folded: FoldedOrder, event: ShapedEvent, at: string, need: Need): Changes {
  const { order } = folded;
  switch (event.type) {
    case 'OrderPlaced':
      need(false, 'an order is placed once');
      return {};
    case 'PaymentCaptured':
      return captured(folded, event, at, need);
    case 'RefundRequested':
      needRefundable(order, event.data, need);
      needLeft(order, event.data, need);
      return {
        order: {
          ...order,
          refunds: [
            ...order.refunds,
            { ...asRefund(event), sagaId: event.data.sagaId, state: 'requested', requestedAt: at },
          ],
        },
      };
    case 'RefundFailed':
      need(refundOf(order, event)?.state === 'requested', 'only what was requested fails');
      return {
        order: {
          ...order,
          refunds: settled(order, event, {
            state: 'failed',
            failedAt: at,
            failure: event.data.reason,
          }),
        },
      };
    case 'PaymentRefunded':
      return refunded(folded, event, at, need);
    case 'OrderShipped':
    case 'ParcelShipped':
      need(folded.saga?.shipmentRequested !== false, 'a saga requests the shipment before');
      need((folded.saga?.refundedCents ?? 0) === 0, 'a saga ships nothing that it refunded');
      return { order: { ...order, ...shipped(order, event, at, need) } };
    case 'ParcelDelivered':
      return { order: { ...order, parcels: delivered(order, event, at, need) } };
    case 'ItemsReturned':
      return { order: { ...order, ...returned(order, event, at, need) } };
    case 'ShippingAddressChanged':
      need(order.personalDataErasedAt === undefined, 'personal data does not come back');
      need(order.parcels.length === 0, 'not after a parcel has left');
      need(folded.saga?.shipmentRequested !== true, 'not after the shipment was requested');
      return {};
    case 'PersonalDataErased':
      need(order.personalDataErasedAt === undefined, 'personal data is erased once');
      need(folded.saga === null || isOver(order), 'a running saga needs the personal data');
      return { order: { ...order, personalDataErasedAt: at } };
    case 'FulfilmentStarted':
    case 'CancellationRequested':
    case 'ShipmentRequested':
    case 'OrderCancelled':
      return stage(folded, event, at, need);
  }
}

/** The events of a fulfilment, and the end by cancellation. */
function stage(
  { order, saga }: FoldedOrder,
  event: ShapedOf<
    'FulfilmentStarted' | 'CancellationRequested' | 'ShipmentRequested' | 'OrderCancelled'
  >,
  at: string,
  need: Need,
): Changes {
  const effects = saga ?? NOTHING;
  switch (event.type) {
    case 'OrderCancelled': {
      need(!isOver(order), 'an end state never changes');
      need(order.parcels.length === 0, 'what has left cannot be cancelled');
      need(saga?.refundedCents === saga?.capturedCents, 'a saga gives back all before');
      const { reason, refundAmountCents } = event.data;
      need(refundAmountCents === order.capturedCents, 'it tells all that was captured');
      const end = { status: 'cancelled', cancelledAt: at, reason, refundAmountCents } as const;
      return { order: { ...order, ...end } };
    }
    case 'FulfilmentStarted':
      need(saga === null && order.status === 'pending', 'it starts once, while pending');
      return { saga: NOTHING };
    case 'CancellationRequested':
      need(saga !== null && !isOver(order), 'only a running saga is asked to cancel');
      need(!effects.cancellationRequested, 'a cancellation is requested once');
      need(!effects.shipmentRequested, 'not after the shipment was requested');
      return { saga: { ...effects, cancellationRequested: true } };
    case 'ShipmentRequested':
      need(saga !== null && order.status === 'paid', 'only a saga requests it, when paid');
      need(!effects.shipmentRequested, 'a shipment is requested once');
      need(effects.capturedCents === order.totalCents, 'only what is paid in full is shipped');
      need(!effects.cancellationRequested, 'not after the cancellation was requested');
      return {
        order: { ...order, payments: claimed(order, event.data.capturedPaymentId, need) },
        saga: { ...effects, shipmentRequested: true },
      };
  }
}

/** A payment that was reported before the saga knew that it had captured it. */
function claimed(
  { payments }: Order,
  claimedId: string | undefined,
  need: Need,
): Order['payments'] {
  if (claimedId === undefined) return payments;
  const isClaimed = ({ paymentId, source }: Order['payments'][number]) =>
    paymentId === claimedId && source === 'reported';
  need(payments.some(isClaimed), 'only what was reported turns out to be captured');
  return payments.map((payment) =>
    isClaimed(payment) ? Object.assign({}, payment, { source: 'fulfilment' as const }) : payment,
  );
}

/** The first payment pays an order that a saga fulfils; by hand, payments must cover the total. */
function captured(
  { order, saga }: FoldedOrder,
  { data: { amountCents, paymentId, sagaId } }: ShapedOf<'PaymentCaptured'>,
  at: string,
  need: Need,
): Changes {
  need(amountCents > 0 || order.totalCents === 0, 'a payment moves money, if there is any to pay');
  need(!order.payments.some((known) => known.paymentId === paymentId), 'a payment comes once');
  const capturedCents = order.capturedCents + amountCents;
  const source = sagaId === undefined ? 'reported' : 'fulfilment';
  const pays = order.status === 'pending' && (saga !== null || capturedCents >= order.totalCents);
  const after: Order = {
    ...order,
    capturedCents,
    payments: [...order.payments, { paymentId, amountCents, source, capturedAt: at }],
    ...(pays && { status: 'paid', paidAt: at, paymentId }),
  };
  if (saga === null || paymentId.startsWith(BY_HAND)) {
    need(sagaId === undefined, 'what is reported by hand was captured by no saga');
    return { order: after };
  }
  need(!isOver(order), 'the end is the last event');
  need(saga.capturedCents === 0, 'a saga captures once');
  need(order.status === 'pending' || order.capturedCents > 0, 'only a payment by hand pays before');
  return { order: after, saga: { ...saga, capturedCents: amountCents } };
}

type Refund = Order['refunds'][number];

function asRefund({
  data,
}: ShapedOf<'RefundRequested' | 'PaymentRefunded'>): Omit<Refund, 'state'> {
  const { refundId, amountCents, paymentId, reason, returnId } = data;
  const why = {
    ...(reason !== undefined && { reason }),
    ...(returnId !== undefined && { returnId }),
  };
  return { refundId, amountCents, paymentId, ...why };
}

function refundOf(
  { refunds }: Order,
  { data: { refundId } }: ShapedOf<'RefundRequested' | 'PaymentRefunded' | 'RefundFailed'>,
): Refund | undefined {
  return refunds.find((refund) => refund.refundId === refundId);
}

function settled(
  { refunds }: Order,
  { data: { refundId } }: ShapedOf<'PaymentRefunded' | 'RefundFailed'>,
  end: Partial<Refund>,
): Refund[] {
  return refunds.map((refund) =>
    refund.refundId === refundId ? Object.assign({}, refund, end) : refund,
  );
}

/** No more goes back than came in and is not on its way back. */
function needRefundable(
  { payments, refunds }: Order,
  { refundId, amountCents, paymentId }: Pick<Refund, 'refundId' | 'amountCents' | 'paymentId'>,
  need: Need,
): void {
  need(!refunds.some((known) => known.refundId === refundId), 'a refund has an id of its own');
  const left = sum(payments) - sum(refunds.filter(isTaken));
  need(amountCents <= left, 'no more is given back than was captured');
  const isOfOrder = payments.some((payment) => payment.paymentId === paymentId);
  need(isOfOrder, 'a payment of the order is given back');
}

/** A provider gives back no more than is left of the payment. Who reports a refund may have split it. */
function needLeft(
  { payments, refunds }: Order,
  { amountCents, paymentId }: Pick<Refund, 'amountCents' | 'paymentId'>,
  need: Need,
): void {
  const own = payments.filter((payment) => payment.paymentId === paymentId);
  const gone = refunds.filter((refund) => refund.paymentId === paymentId && isTaken(refund));
  need(
    own.every(({ source }) => source === 'fulfilment'),
    'a provider gives back what it took',
  );
  need(amountCents <= sum(own) - sum(gone), 'nor more than it took');
}

function isTaken({ state }: Refund): boolean {
  return state !== 'failed';
}

function sum(parts: ReadonlyArray<Readonly<{ amountCents: number }>>): number {
  return parts.reduce((total, { amountCents }) => total + amountCents, 0);
}

/** By hand, by a saga of its own, or by the fulfilment that is undone. */
function refunded(
  { order, saga, allowanceCents }: FoldedOrder,
  event: ShapedOf<'PaymentRefunded'>,
  at: string,
  need: Need,
): Changes {
  const { amountCents, paymentId, allowanceCents: allowed = 0 } = event.data;
  const known = refundOf(order, event);
  if (known === undefined) needRefundable(order, event.data, need);
  else {
    need(known.state === 'requested', 'a refund comes once');
    const { reason, returnId } = event.data;
    const isSame = known.amountCents === amountCents && known.paymentId === paymentId;
    const hasSameCause = known.reason === reason && known.returnId === returnId;
    need(isSame && hasSameCause, 'a refund is what was requested');
  }
  const end = { state: 'refunded', refundedAt: at } as const;
  const refunds = known
    ? settled(order, event, end)
    : [...order.refunds, { ...asRefund(event), ...end }];
  const after = { ...order, refundedCents: order.refundedCents + amountCents, refunds };
  if (saga === null || isOver(order)) {
    // A refund before the order is paid only takes a part payment back.
    const unowed =
      order.status !== 'pending' && amountCents > order.owedCents
        ? amountCents - order.owedCents
        : 0;
    need(allowed === unowed, `what was not owed is ${unowed}`);
    return { order: after, allowanceCents: allowanceCents + allowed };
  }
  need(!paymentId.startsWith(BY_HAND), 'nothing is given back by hand while the saga runs');
  need(saga.refundedCents === 0 && saga.capturedCents > 0, 'a saga refunds once');
  need(allowed === 0, 'what a saga undoes was no allowance');
  return { order: after, saga: { ...saga, refundedCents: amountCents } };
}

function isOver({ status }: Order): boolean {
  return status === 'shipped' || status === 'cancelled';
}

function impossible(event: StoredEvent | undefined, rule: string): ImpossibleHistory {
  return new ImpossibleHistory(`${rule}: ${JSON.stringify(event)}`);
}

/** A member of event data that is not typed; undefined if it is not there. */
export function field(data: unknown, name: string): unknown {
  return typeof data === 'object' && data !== null ? Reflect.get(data, name) : undefined;
}
