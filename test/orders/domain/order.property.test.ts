import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { FulfilmentCommand, OrderCommand } from '#src/orders/domain/order-commands.ts';
import type { OrderEvent } from '#src/orders/domain/order-events.ts';
import { OrderRejected, decide, isDuplicate } from '#src/orders/domain/order-commands.ts';
import { StreamDamaged, owedCents } from '#src/orders/domain/order.ts';
import type { Order } from '#src/orders/domain/order.ts';
import { next, orderId, placed } from '#test/support/orders.ts';

type Command = OrderCommand | FulfilmentCommand;

const id = fc.constantFrom('a', 'b', 'c');
const cents = fc.constantFrom(0, 1, 2, 1250, 2500, 2501);
const item = fc.record({
  sku: id,
  quantity: fc.constantFrom(1, 2, 100_000),
  priceCents: fc.constantFrom(0, 1250, 1_000_000_000_000),
});

const line = item.chain((own) => id.map((lineId) => ({ lineId, ...own })));

const command: fc.Arbitrary<Command> = fc.oneof(
  fc.record({
    type: fc.constant('PlaceOrder' as const),
    orderId: fc.constant(orderId),
    customerId: id,
    currency: fc.constant('EUR'),
    items: fc.array(item, { minLength: 1, maxLength: 200 }),
  }),
  fc.record({ type: fc.constant('PayOrder' as const), paymentId: id, amountCents: cents }),
  fc.record({ type: fc.constant('ShipOrder' as const), trackingNumber: id, carrier: id }),
  fc.record({ type: fc.constant('CancelOrder' as const), reason: id }),
  fc.record(
    {
      type: fc.constant('RefundOrder' as const),
      refundId: id,
      amountCents: cents,
      paymentId: id,
      sagaId: id,
    },
    { requiredKeys: ['type', 'refundId', 'amountCents', 'sagaId'] },
  ),
  fc.record({ type: fc.constant('FulfilOrder' as const), sagaId: id }),
  fc.record({ type: fc.constant('RecordPayment' as const), paymentId: id, amountCents: cents }),
  fc.record({ type: fc.constant('RequestShipment' as const) }),
  fc.record({
    type: fc.constant('RecordShipment' as const),
    parcels: fc.array(fc.record({ trackingNumber: id, carrier: id }), {
      minLength: 1,
      maxLength: 1,
    }),
  }),
  fc.record({
    type: fc.constant('RecordRefund' as const),
    refundId: id,
    amountCents: cents,
    paymentId: id,
  }),
  fc.record({ type: fc.constant('FinishCancellation' as const), reason: id }),
);
const smallOrder: Command = {
  type: 'PlaceOrder',
  orderId,
  customerId: 'c',
  currency: 'EUR',
  items: [{ sku: 's', quantity: 2, priceCents: 1250 }],
};
const life = fc
  .array(command, { maxLength: 12 })
  .chain((commands) => fc.constantFrom(commands, [smallOrder, ...commands]));

type Step = Readonly<{
  command: Command;
  before: Order | null;
  events: OrderEvent[];
  after: Order;
}>;

/** Runs commands one after another; commands that are refused leave no step. */
function run(commands: readonly Command[]): Step[] {
  let order: Order | null = null;
  return commands.flatMap((command) => {
    const before = order;
    const events = accepted(command, before);
    const after = events?.reduce<Order | null>(next, before);
    if (!events || !after) return [];
    order = after;
    return [{ command, before, events, after }];
  });
}

function accepted(command: Command, order: Order | null): OrderEvent[] | undefined {
  try {
    return decide(command, order);
  } catch (error) {
    if (!(error instanceof OrderRejected)) throw error;
    return undefined;
  }
}

describe('any sequence of commands on an order', () => {
  test('leaves the state that a fold of its events gives', () => {
    fc.assert(
      fc.property(life, (commands) => {
        const steps = run(commands);
        const replayed = steps.flatMap(({ events }) => events).reduce<Order | null>(next, null);
        expect(replayed).toEqual(steps.at(-1)?.after ?? null);
      }),
    );
  });

  test('causes no event if a command is sent again at once', () => {
    fc.assert(
      fc.property(life, (commands) => {
        for (const { command, after } of run(commands)) {
          if (command.type === 'PlaceOrder') continue;
          expect(isDuplicate(command, after)).toBe(true);
          expect(decide(command, after)).toEqual([]);
        }
      }),
    );
  });

  test('never leaves an end state', () => {
    fc.assert(
      fc.property(life, (commands) => {
        for (const { before, after } of run(commands)) {
          if (before?.status === 'shipped' || before?.status === 'cancelled') {
            expect(after.status).toBe(before.status);
          }
        }
      }),
    );
  });

  test('keeps amounts safe integers, and never refunds more by hand than was captured', () => {
    fc.assert(
      fc.property(life, (commands) => {
        for (const { command, before, events, after } of run(commands)) {
          expect(Number.isSafeInteger(after.totalCents)).toBe(true);
          expect(Number.isSafeInteger(after.capturedCents)).toBe(true);
          if (command.type === 'RefundOrder' && events.length > 0) {
            // What sagas report is recorded, be it more than was captured.
            const { capturedCents = 0, refundedCents = 0 } = before ?? {};
            const leftCents = Math.max(0, capturedCents - refundedCents);
            expect(command.amountCents).toBeLessThanOrEqual(leftCents);
          }
        }
      }),
    );
  });

  test('lets a later payment be recorded in every state', () => {
    fc.assert(
      fc.property(life, fc.integer({ min: 1, max: 5000 }), (commands, amountCents) => {
        const before = run(commands).at(-1)?.after;
        if (!before) return;
        const isFull = before.capturedCents + amountCents > Number.MAX_SAFE_INTEGER;
        const paid = accepted({ type: 'PayOrder', paymentId: 'late', amountCents }, before);
        expect(paid?.length).toBe(isFull ? undefined : 1);
        const after = (paid ?? []).reduce(next, before);
        expect(after.capturedCents - before.capturedCents).toBe(isFull ? 0 : amountCents);
        if (after.status !== 'cancelled' || isFull) return;
        expect(owedCents(after)).toBe(Math.max(0, after.capturedCents - after.refundedCents));
      }),
    );
  });

  test('refunds by hand only what was captured, of a payment of the order', () => {
    fc.assert(
      fc.property(life, (commands) => {
        for (const { command, before, events } of run(commands)) {
          if (command.type !== 'RefundOrder' || events.length === 0 || !before) continue;
          // A saga may record that more came back than was captured.
          const leftCents = Math.max(0, before.capturedCents - before.refundedCents);
          expect(command.amountCents).toBeLessThanOrEqual(leftCents);
          const [event] = events;
          const ids = before.payments.map(({ paymentId }) => paymentId);
          expect(event?.type === 'PaymentRefunded' && ids.includes(event.data.paymentId)).toBe(
            true,
          );
        }
      }),
    );
  });

  test('by hand makes it paid exactly when payments cover the total, and ships it only then', () => {
    fc.assert(
      fc.property(life, (commands) => {
        for (const { command, before, events, after } of run(commands)) {
          if (after.fulfilment !== undefined) continue;
          const isCovered = after.payments.length > 0 && after.capturedCents >= after.totalCents;
          if (after.status === 'pending') expect(isCovered).toBe(false);
          if (after.status === 'paid') expect(isCovered).toBe(true);
          if (command.type === 'ShipOrder' && events.length > 0)
            expect(before?.status).toBe('paid');
        }
      }),
    );
  });

  test('leaves the amounts and the version that its events tell', () => {
    fc.assert(
      fc.property(life, (commands) => {
        const steps = run(commands);
        const events = steps.flatMap((step) => step.events);
        const order = steps.at(-1)?.after;
        const centsOf = (type: OrderEvent['type']) =>
          events.reduce(
            (sum, event) =>
              event.type === type && 'amountCents' in event.data
                ? sum + event.data.amountCents
                : sum,
            0,
          );
        expect(order?.capturedCents ?? 0).toBe(centsOf('PaymentCaptured'));
        expect(order?.refundedCents ?? 0).toBe(centsOf('PaymentRefunded'));
        expect(order?.owedCents ?? 0).toBe(order ? owedCents(order) : 0);
        expect(order?.version ?? 0).toBe(events.length);
      }),
    );
  });
});

describe('the fold', () => {
  const event: fc.Arbitrary<OrderEvent> = fc.oneof(
    fc.record({
      type: fc.constant('OrderPlaced' as const),
      data: fc.record({
        orderId: fc.constant(orderId),
        customerId: id,
        currency: fc.constant('EUR'),
        items: fc.array(line, { maxLength: 2 }),
        totalCents: cents,
      }),
    }),
    fc.record({
      type: fc.constant('PaymentCaptured' as const),
      data: fc.record({ amountCents: cents, paymentId: id }),
    }),
    fc.record({
      type: fc.constant('OrderShipped' as const),
      data: fc.record({ trackingNumber: id, carrier: id }),
    }),
    fc.record({
      type: fc.constant('OrderCancelled' as const),
      data: fc.record({ reason: id, refundAmountCents: cents }),
    }),
    fc.record({
      type: fc.constant('PaymentRefunded' as const),
      data: fc.record({ refundId: id, amountCents: cents, paymentId: id }),
    }),
    fc.record({
      type: fc.constant('FulfilmentStarted' as const),
      data: fc.record({ sagaId: id }),
    }),
    fc.record({
      type: fc.constant('CancellationRequested' as const),
      data: fc.record({ reason: id }),
    }),
    fc.record({ type: fc.constant('ShipmentRequested' as const), data: fc.constant({}) }),
  );

  test('never throws after OrderPlaced, in whatever order events come', () => {
    fc.assert(
      fc.property(fc.array(event), (events) => {
        expect(() => [placed, ...events].reduce<Order | null>(next, null)).not.toThrow();
      }),
    );
  });

  test('refuses a stream that starts with another event than OrderPlaced', () => {
    fc.assert(
      fc.property(event, (first) => {
        if (first.type === 'OrderPlaced') return;
        expect(() => next(null, first)).toThrow(StreamDamaged);
      }),
    );
  });
});
