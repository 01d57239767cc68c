import fc from 'fast-check';
import { decide, OrderRejected } from '#src/orders/domain/order-commands.ts';
import type { FulfilmentCommand, OrderCommand } from '#src/orders/domain/order-commands.ts';
import type { Order } from '#src/orders/domain/order.ts';
import { next, orderId } from '#test/support/orders.ts';

type Command = OrderCommand | FulfilmentCommand;

const name = fc.constantFrom('a', 'b', 'c');
const lineIds = ['1', '2', '3'];
const quantity = fc.integer({ min: 1, max: 3 });
const amountCents = fc.constantFrom(1, 100, 999, 2500, 10_000);
const price = fc.constantFrom(0, 1, 999, 2500, 1_000_000_000_000);
const lineQuantities = fc.uniqueArray(
  fc.record({ lineId: fc.constantFrom(...lineIds), quantity }),
  {
    minLength: 1,
    selector: ({ lineId }) => lineId,
  },
);
const optional = <T>(value: fc.Arbitrary<T>) => fc.option(value, { nil: undefined });

const place = fc.record(
  {
    type: fc.constant('PlaceOrder' as const),
    orderId: fc.constant(orderId),
    customerId: fc.constant('c-1'),
    currency: fc.constant('EUR'),
    items: fc.array(
      fc.record(
        { sku: name, name: fc.string({ minLength: 1, maxLength: 9 }), quantity, priceCents: price },
        { requiredKeys: ['sku', 'quantity', 'priceCents'] },
      ),
      { minLength: 1, maxLength: lineIds.length },
    ),
    shippingCents: price,
    taxCents: price,
    discountCents: fc.constantFrom(0, 1, 100),
    externalReference: name,
    hasShippingAddress: fc.constant(true as const),
    hasPaymentMethod: fc.constant(true as const),
  },
  {
    requiredKeys: [
      'type',
      'orderId',
      'customerId',
      'currency',
      'items',
      'hasShippingAddress',
      'hasPaymentMethod',
    ],
  },
);

const command: fc.Arbitrary<Command> = fc.oneof(
  fc.record({ type: fc.constant('PayOrder' as const), paymentId: name, amountCents }),
  fc.record({
    type: fc.constant('ShipOrder' as const),
    trackingNumber: name,
    carrier: name,
    items: optional(lineQuantities),
  }),
  fc.record({ type: fc.constant('DeliverParcel' as const), trackingNumber: name }),
  fc.record({
    type: fc.constant('ReturnItems' as const),
    returnId: name,
    items: lineQuantities,
    reason: name,
    restock: fc.boolean(),
  }),
  fc.record({
    type: fc.constant('RefundOrder' as const),
    refundId: name,
    amountCents,
    reason: optional(name),
    recordOnly: fc.boolean(),
    sagaId: fc.constant('refund-1'),
  }),
  fc.record({ type: fc.constant('CancelOrder' as const), reason: name }),
  fc.record({ type: fc.constant('FulfilOrder' as const), sagaId: fc.constant('saga-1') }),
  fc.record({
    type: fc.constant('RecordPayment' as const),
    paymentId: fc.constant('pay_1'),
    amountCents,
    sagaId: fc.constant('saga-1'),
  }),
  fc.record({ type: fc.constant('RequestShipment' as const) }),
  fc.record({
    type: fc.constant('RecordShipment' as const),
    parcels: fc.constant([{ trackingNumber: 'd', carrier: 'post' }]),
  }),
  fc.record({ type: fc.constant('FailRefund' as const), refundId: name, reason: name }),
  fc.record({ type: fc.constant('ErasePersonalData' as const) }),
);

const payAll: Command = { type: 'PayOrder', paymentId: 'all', amountCents: 20_000_000_000_000 };
/** Without them few orders would be paid. */
const beginnings: readonly (readonly Command[])[] = [
  [],
  [payAll],
  [
    { type: 'FulfilOrder', sagaId: 'saga-1' },
    { type: 'RecordPayment', paymentId: 'pay_1', amountCents: 5000, sagaId: 'saga-1' },
    { type: 'RequestShipment' },
    { type: 'RecordShipment', parcels: [{ trackingNumber: 'd', carrier: 'post' }] },
  ],
];

/** An order after commands in any order. Those that the rules refuse change nothing. */
export const anyOrder: fc.Arbitrary<Order> = fc
  .tuple(place, fc.constantFrom(...beginnings), fc.array(command, { maxLength: 25 }))
  .map(([first, begun, others]) => [first, ...begun, ...others].reduce<Order | null>(after, null))
  .filter((order) => order !== null);

function after(order: Order | null, command: Command): Order | null {
  try {
    return decide(command, order).reduce<Order | null>(next, order);
  } catch (error) {
    if (error instanceof OrderRejected) return order;
    throw error;
  }
}
