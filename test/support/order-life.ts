import fc from 'fast-check';
import type { FulfilmentCommand, OrderCommand } from '#src/orders/domain/order-commands.ts';
import type { FoldedOrder } from './order-fold.ts';
import { BY_HAND } from './order-fold.ts';
import { orderId } from './orders.ts';

/*
 * Random lives of an order. Callers send anything at any time; sagas report only what they could have done by then,
 * because what has happened outside of the service is recorded whatever the rules say.
 */

export type Command = OrderCommand | FulfilmentCommand;
type PlaceOrder = Extract<OrderCommand, { type: 'PlaceOrder' }>;

/** A command of a caller, or one of those that a saga would send now. */
export type Move = OrderCommand | Readonly<{ type: 'Saga'; pick: number }>;

export type Life = Readonly<{ place: PlaceOrder; moves: readonly Move[] }>;

const text = fc.constantFrom('a', 'b');
const item = fc.record(
  {
    sku: text,
    name: text,
    quantity: fc.integer({ min: 1, max: 3 }),
    priceCents: fc.constantFrom(0, 1, 400, 1250),
  },
  { requiredKeys: ['sku', 'quantity', 'priceCents'] },
);

const order = {
  type: is('PlaceOrder'),
  orderId: fc.constant(orderId),
  customerId: text,
  currency: fc.constant('EUR'),
  items: fc.array(item, { minLength: 1, maxLength: 3 }),
  shippingCents: fc.constant(490),
  taxCents: fc.constant(19),
  discountCents: fc.constantFrom(1, 400),
  externalReference: text,
  metadata: fc.constant({ channel: 'web' }),
  hasShippingAddress: fc.constant(true as const),
  hasContact: fc.constant(true as const),
  hasPaymentMethod: fc.constant(true as const),
};
const needed = ['type', 'orderId', 'customerId', 'currency', 'items'] as const;
/** Also orders with personal data that no fulfilment needs. */
const { hasShippingAddress: _, hasPaymentMethod: _method, ...withContact } = order;
const contactOnly = fc.record(withContact, { requiredKeys: [...needed, 'hasContact'] });
const forFulfilment = ['hasShippingAddress', 'hasPaymentMethod'] as const;

const place: fc.Arbitrary<PlaceOrder> = fc
  .oneof(
    fc.record(order, { requiredKeys: [...needed] }),
    contactOnly,
    fc.record(order, { requiredKeys: [...needed, ...forFulfilment] }),
    fc.record(order, { requiredKeys: [...needed, ...forFulfilment] }),
  )
  .filter((placed) => totalOf(placed) >= 0);

/** What the order costs, computed by the tests. */
export function totalOf({ items, ...more }: PlaceOrder): number {
  const { shippingCents = 0, taxCents = 0, discountCents = 0 } = more;
  const goods = items.reduce((sum, { quantity, priceCents }) => sum + quantity * priceCents, 0);
  return goods + shippingCents + taxCents - discountCents;
}

const part = fc.record({
  lineId: fc.constantFrom('1', '1', '1', '1', '2', '2', '3', 'none'),
  quantity: fc.constantFrom(1, 1, 1, 1, 2, 3, 4),
});
const parts = fc.uniqueArray(part, {
  minLength: 1,
  maxLength: 2,
  selector: ({ lineId }) => lineId,
});
const trackingNumber = fc.constantFrom('t1', 't1', 't2', 't3');
const parcelNumber = fc.constantFrom('t1', 't1', 't2', 't8', 't9', 't9');

/** What a caller sends, for an order of this total. */
function commandOf(totalCents: number): fc.Arbitrary<OrderCommand> {
  const half = Math.floor(totalCents / 2);
  const cents = fc.constantFrom(totalCents, totalCents, half, totalCents + 1, 1, 300);
  const paymentId = fc.constantFrom(`${BY_HAND}-1`, `${BY_HAND}-2`);
  const refund = {
    type: is('RefundOrder'),
    refundId: fc.constantFrom('ref-1', 'ref-2', 'ref-3', 'ref-4'),
    amountCents: fc.constantFrom(totalCents, half, 1, 1, 300, totalCents + 1).filter(Boolean),
    sagaId: fc.constantFrom('refund-saga-1', 'refund-saga-2'),
  };
  const more = {
    paymentId: fc.constantFrom(`${BY_HAND}-1`, 'captured', 'captured', 'none'),
    reason: text,
    returnId: fc.constantFrom('ret-1', 'ret-2'),
    recordOnly: fc.boolean(),
  };
  const required = { requiredKeys: ['type', 'refundId', 'amountCents', 'sagaId'] } as const;
  const ship = { type: is('ShipOrder'), trackingNumber, carrier: text };
  const giveBack = fc.record({
    type: is('ReturnItems'),
    returnId: fc.constantFrom('ret-1', 'ret-2', 'ret-3', 'ret-4'),
    items: parts,
    reason: text,
    restock: fc.boolean(),
  });
  return fc.oneof(
    { weight: 3, arbitrary: fc.record({ type: is('PayOrder'), paymentId, amountCents: cents }) },
    { weight: 5, arbitrary: fc.record({ ...ship, items: parts }) },
    { weight: 1, arbitrary: fc.record(ship) },
    {
      weight: 5,
      arbitrary: fc.record({ type: is('DeliverParcel'), trackingNumber: parcelNumber }),
    },
    { weight: 6, arbitrary: giveBack },
    { weight: 4, arbitrary: fc.record(refund) },
    {
      weight: 4,
      arbitrary: fc.record({ ...refund, ...more }, { requiredKeys: [...required.requiredKeys] }),
    },
    { weight: 2, arbitrary: fc.record({ type: is('CancelOrder'), reason: text }) },
    { weight: 1, arbitrary: fc.record({ type: is('FulfilOrder'), sagaId: fc.constant('saga') }) },
    { weight: 1, arbitrary: fc.record({ type: is('ChangeShippingAddress') }) },
    { weight: 2, arbitrary: fc.record({ type: is('ErasePersonalData') }) },
  );
}

function is<const Type extends string>(type: Type): fc.Arbitrary<Type> {
  return fc.constant(type);
}

/** A life, and often one that goes straight to where most can happen. */
export const life: fc.Arbitrary<Life> = place.chain((placed) => {
  const totalCents = totalOf(placed);
  const saga = fc.record({ type: is('Saga'), pick: fc.nat(11) });
  const move = fc.oneof<fc.MaybeWeightedArbitrary<Move>[]>(
    { weight: 5, arbitrary: commandOf(totalCents) },
    { weight: 3, arbitrary: saga },
  );
  const pay: Move = { type: 'PayOrder', paymentId: `${BY_HAND}-1`, amountCents: totalCents };
  const ship: Move = { type: 'ShipOrder', trackingNumber: 't1', carrier: 'a' };
  const piece: Move = { ...ship, items: [{ lineId: '1', quantity: 1 }] };
  const fulfil: Move = { type: 'FulfilOrder', sagaId: 'saga' };
  const asked = { refundId: 'ref-0', amountCents: Math.max(1, totalCents), sagaId: 'refund-saga' };
  const refundAll: Move = { type: 'RefundOrder', ...asked };
  const turns = (count: number, pick = 0) =>
    Array.from({ length: count }, (): Move => ({ type: 'Saga', pick }));
  const starts: readonly Move[][] = [
    [],
    [pay],
    [pay, piece],
    [pay, ship],
    [fulfil],
    [fulfil, ...turns(2)],
    [fulfil, ...turns(3)],
    [fulfil, ...turns(2), ...turns(1, 2)],
    [fulfil, ...turns(3), pay],
    [fulfil, ...turns(3), refundAll, ...turns(1, 0)],
    [fulfil, ...turns(3), refundAll, ...turns(1, 1)],
  ];
  return fc.record({
    place: fc.constant(placed),
    moves: fc
      .tuple(fc.constantFrom(...starts), fc.array(move, { maxLength: 25, size: 'max' }))
      .map(([start, others]) => start.concat(others)),
  });
});

/** The command that a saga sends now: one of those that follow, or again one that it has sent. */
export function sagaCommand(
  folded: FoldedOrder,
  sent: readonly Command[],
  pick: number,
): Command | undefined {
  const possible = [...fulfilmentCommands(folded), ...refundCommands(folded)];
  const all = pick > 8 ? [...possible, ...sent] : possible;
  return all[pick % Math.max(1, all.length)];
}

function fulfilmentCommands({ order, saga }: FoldedOrder): Command[] {
  if (saga === null || order.status === 'shipped' || order.status === 'cancelled') return [];
  const { capturedCents, refundedCents, cancellationRequested, shipmentRequested } = saga;
  const hasCaptured = order.payments.some(({ paymentId }) => paymentId === 'captured');
  const amountCents = order.totalCents;
  const isUndone = refundedCents === capturedCents;
  const undo: Command[] = [
    ...(hasCaptured && !isUndone
      ? [{ type: 'RecordRefund', refundId: 'undone', amountCents, paymentId: 'captured' } as const]
      : []),
    ...(isUndone ? [{ type: 'FinishCancellation', reason: 'no stock' } as const] : []),
  ];
  if (!hasCaptured && refundedCents === 0) {
    const capture = { amountCents, paymentId: 'captured', sagaId: 'saga' };
    return [{ type: 'RecordPayment', ...capture }, ...undo];
  }
  if (refundedCents > 0 || (amountCents === 0 && cancellationRequested)) return undo;
  if (shipmentRequested) return [...shipments(order), ...undo];
  // It may not know yet that the order is to be cancelled.
  return [{ type: 'RequestShipment' }, ...undo];
}

/** The carrier tells of one parcel, of one without its lines, or of two. */
function shipments({ items }: FoldedOrder['order']): Command[] {
  const [first, ...others] = items.map(({ lineId, quantity }) => ({ lineId, quantity }));
  if (first === undefined) return [];
  const parcel = (trackingNumber: string) => ({ trackingNumber, carrier: 'a' });
  const rest = first.quantity > 1 ? [{ ...first, quantity: first.quantity - 1 }] : [];
  const [one, two] = [[{ ...first, quantity: 1 }], [...rest, ...others]];
  return [
    { type: 'RecordShipment', parcels: [parcel('t9')] },
    { type: 'RecordShipment', parcels: [{ ...parcel('t9'), items: [first, ...others] }] },
    ...(two.length === 0
      ? []
      : [
          {
            type: 'RecordShipment' as const,
            parcels: [
              { ...parcel('t8'), items: one },
              { ...parcel('t9'), items: two },
            ],
          },
        ]),
  ];
}

function refundCommands({ order }: FoldedOrder): Command[] {
  return order.refunds
    .filter(({ state }) => state === 'requested')
    .flatMap(({ refundId, amountCents, paymentId }) => [
      { type: 'RecordRefund', refundId, amountCents, paymentId } as const,
      { type: 'FailRefund', refundId, reason: 'the account is closed' } as const,
    ]);
}
