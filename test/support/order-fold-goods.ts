import type { Order } from './api-shapes.ts';
import type { ShapedOf } from './event-shapes.ts';

/** Holds a history against a rule. @throws ImpossibleHistory */
export type Need = (holds: boolean, rule: string) => void;

type Parts = ReadonlyArray<Readonly<{ lineId: string; quantity: number }>>;

/** What a parcel changes. The last one ships the order. */
export function shipped(
  order: Order,
  event: ShapedOf<'OrderShipped' | 'ParcelShipped'>,
  at: string,
  need: Need,
): Partial<Order> {
  const { trackingNumber, carrier } = event.data;
  const items = event.type === 'ParcelShipped' ? event.data.items : leftOf(order);
  need(order.status === 'paid', 'only a paid order is shipped');
  const isNew = !order.parcels.some((known) => known.trackingNumber === trackingNumber);
  need(isNew, 'each parcel has a tracking number of its own');
  needKnown(order, items, need);
  const lines = order.items.map((line) => {
    const shippedQuantity = line.shippedQuantity + countOf(line.lineId, items);
    need(shippedQuantity <= line.quantity, 'no more is shipped than was ordered');
    return { ...line, shippedQuantity };
  });
  const parcel = { trackingNumber, carrier, items, shippedAt: at };
  const after = { items: lines, parcels: [...order.parcels, parcel] };
  if (event.type === 'OrderShipped') {
    return { ...after, status: 'shipped', shippedAt: at, trackingNumber, carrier };
  }
  need(leftOf({ items: lines }).length > 0, 'the parcel with the rest ships the order');
  return after;
}

/** The parcels once one of them has arrived. */
export function delivered(
  { parcels }: Order,
  { data: { trackingNumber } }: ShapedOf<'ParcelDelivered'>,
  at: string,
  need: Need,
): Order['parcels'] {
  const known = parcels.find((parcel) => parcel.trackingNumber === trackingNumber);
  need(known !== undefined && known.deliveredAt === undefined, 'a parcel arrives once');
  return parcels.map((parcel) => (parcel === known ? { ...parcel, deliveredAt: at } : parcel));
}

/** What a return changes. */
export function returned(
  order: Order,
  { data: { returnId, items, reason, restock } }: ShapedOf<'ItemsReturned'>,
  at: string,
  need: Need,
): Partial<Order> {
  need(!order.returns.some((known) => known.returnId === returnId), 'a return comes once');
  needKnown(order, items, need);
  const lines = order.items.map((line) => {
    const returnedQuantity = line.returnedQuantity + countOf(line.lineId, items);
    need(returnedQuantity <= line.shippedQuantity, 'no more comes back than was shipped');
    return { ...line, returnedQuantity };
  });
  const entry = { returnId, items, reason, restock, returnedAt: at };
  return { items: lines, returns: [...order.returns, entry] };
}

/** What has not left yet, of each line that has something left. */
function leftOf({ items }: Pick<Order, 'items'>): Order['parcels'][number]['items'] {
  return items.flatMap(({ lineId, quantity, shippedQuantity }) =>
    quantity > shippedQuantity ? [{ lineId, quantity: quantity - shippedQuantity }] : [],
  );
}

function needKnown({ items }: Order, parts: Parts, need: Need): void {
  const ids = new Set(items.map(({ lineId }) => lineId));
  need(
    parts.every(({ lineId }) => ids.has(lineId)),
    'a line is of the order',
  );
}

function countOf(lineId: string, parts: Parts): number {
  const own = parts.filter((part) => part.lineId === lineId);
  return own.reduce((total, { quantity }) => total + quantity, 0);
}
