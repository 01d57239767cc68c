import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { OrderRejected, allowedCommands, decide } from '#src/orders/domain/order-commands.ts';
import type { OrderEvent } from '#src/orders/domain/order-events.ts';
import { toJson } from '#src/orders/domain/order.ts';
import type { Order } from '#src/orders/domain/order.ts';
import { appendToOrder } from '#src/orders/order-stream.ts';
import { life, sagaCommand, totalOf } from '#test/support/order-life.ts';
import type { Command, Life } from '#test/support/order-life.ts';
import { foldOrder } from '#test/support/order-fold.ts';
import type { FoldedOrder, StoredEvent } from '#test/support/order-fold.ts';
import { NOTHING_HELD, heldAfter, takesEffect } from '#test/support/order-oracle.ts';
import { next, orderId } from '#test/support/orders.ts';

/*
 * What holds for every order, whatever callers and sagas do to it in whatever order. The fold of the tests computes it
 * once more, and throws on a history that must not be: too much shipped, returned or refunded, an end that changes.
 */
const RUNS = 400;
const AT = '2026-01-31T12:00:00.000Z';

type Step = Readonly<{
  command: Command;
  before: Order | null;
  /** By the fold of the tests. Undefined before the order was placed. */
  folded: FoldedOrder | undefined;
  events: readonly OrderEvent[];
  after: Order | null;
  refusal: OrderRejected | undefined;
}>;

/** Lives a life. A command that is refused is a step too. */
function run({ place, moves }: Life): Step[] {
  const steps: Step[] = [];
  const stored: StoredEvent[] = [];
  const sent: Command[] = [];
  let order: Order | null = null;
  for (const move of [place, ...moves]) {
    const folded: FoldedOrder | undefined = stored.length > 0 ? foldOrder(stored) : undefined;
    const command = move.type === 'Saga' ? folded && sagaCommand(folded, sent, move.pick) : move;
    if (command === undefined) continue;
    if (move.type === 'Saga') sent.push(command);
    const before: Order | null = frozen(order);
    const { events, refusal } = decided(command, before);
    order = events.reduce<Order | null>((state, event) => frozen(next(state, event)), before);
    for (const event of events) stored.push(storedOf(event, stored.length + 1));
    steps.push({ command, before, folded, events, after: order, refusal });
  }
  return steps;
}

function decided(command: Command, order: Order | null): Pick<Step, 'events' | 'refusal'> {
  try {
    return { events: decide(command, order), refusal: undefined };
  } catch (error) {
    if (!(error instanceof OrderRejected)) throw error;
    return { events: [], refusal: error };
  }
}

/** It is another fault than to ask for too much of a line. */
function hasUnknownLine(command: Command, folded: FoldedOrder | undefined): boolean {
  const known = new Set(folded?.order.items.map(({ lineId }) => lineId));
  const { items = [] } = command.type === 'ShipOrder' ? command : {};
  const parts = command.type === 'ReturnItems' ? command.items : items;
  return parts.some(({ lineId }) => !known.has(lineId));
}

/** Neither the rules nor the fold may change what they are given. */
function frozen<T>(value: T): T {
  if (typeof value !== 'object' || value === null || Object.isFrozen(value)) return value;
  for (const part of Object.values(value)) frozen(part);
  return Object.freeze(value);
}

function storedOf({ type, data }: OrderEvent, version: number): StoredEvent {
  const event = { position: version, stream_id: orderId, version, schema_version: 1 };
  return { ...event, type, data: JSON.parse(JSON.stringify(data)), recorded_at: new Date(AT) };
}

function foldedAfter(steps: readonly Step[]): FoldedOrder {
  const events = steps.flatMap((step) => step.events);
  return foldOrder(events.map((event, index) => storedOf(event, index + 1)));
}

/** The order as callers see it. */
function shown(order: Order): Record<string, unknown> {
  return JSON.parse(toJson(order));
}

/** Holds for each step of a random life. */
function always(check: (step: Step & Readonly<{ after: Order }>, steps: readonly Step[]) => void) {
  fc.assert(
    fc.property(life, (random) => {
      const steps = run(random);
      for (const step of steps) {
        const { after } = step;
        if (after !== null) check({ ...step, after }, steps);
      }
    }),
    { numRuns: RUNS },
  );
}

const sum = (numbers: readonly number[]) => numbers.reduce((total, number) => total + number, 0);
const centsOf = (parts: ReadonlyArray<Readonly<{ amountCents: number }>>) =>
  sum(parts.map(({ amountCents }) => amountCents));

describe('whatever happens to an order', () => {
  test('it is what the tests fold from its events, at every step', () => {
    always(({ after }, steps) => {
      const until = steps.findIndex((step) => step.after === after) + 1;
      const { order, saga, allowanceCents } = foldedAfter(steps.slice(0, until));
      const { fulfilment, cancellationRequestedAt, ...view } = shown(after);
      expect(view).toEqual(order);
      expect(after.allowanceCents).toBe(allowanceCents);
      expect(cancellationRequestedAt).toBe(saga?.cancellationRequested ? AT : undefined);
      const ends = { shipped: 'completed', cancelled: 'compensated' } as const;
      const running = saga?.cancellationRequested ? 'compensating' : 'running';
      const { status } = order;
      const end = status === 'pending' || status === 'paid' ? running : ends[status];
      expect(fulfilment).toBe(saga === null ? undefined : end);
    });
  });

  test('no line ships more than was ordered, and no more comes back than was shipped', () => {
    always(({ after: { items, parcels, returns } }) => {
      for (const { lineId, quantity, shippedQuantity, returnedQuantity } of items) {
        expect(shippedQuantity).toBeLessThanOrEqual(quantity);
        expect(returnedQuantity).toBeLessThanOrEqual(shippedQuantity);
        const of = (lists: ReadonlyArray<Readonly<{ items: Order['parcels'][number]['items'] }>>) =>
          sum(
            lists
              .flatMap((list) => list.items)
              .filter((item) => item.lineId === lineId)
              .map((item) => item.quantity),
          );
        expect(of(parcels)).toBe(shippedQuantity);
        expect(of(returns)).toBe(returnedQuantity);
      }
    });
  });

  test('no more is refunded, or on its way, than was captured', () => {
    always(({ after }) => {
      const { payments, refunds, capturedCents, refundedCents } = after;
      const inState = (state: string) => refunds.filter((refund) => refund.state === state);
      expect(capturedCents).toBe(centsOf(payments));
      expect(refundedCents).toBe(centsOf(inState('refunded')));
      expect(refundedCents + centsOf(inState('requested'))).toBeLessThanOrEqual(capturedCents);
      const ids = new Set(payments.map(({ paymentId }) => paymentId));
      expect(refunds.every(({ paymentId }) => ids.has(paymentId))).toBe(true);
    });
  });

  test('what it owes is never hidden: it is what it holds beyond what it may keep', () => {
    always(({ after }) => {
      const { status, totalCents, capturedCents, refundedCents, owedCents } = after;
      const keptCents = capturedCents - refundedCents;
      expect(owedCents).toBeGreaterThanOrEqual(0);
      expect(owedCents).toBeLessThanOrEqual(keptCents);
      if (status === 'cancelled') expect(owedCents).toBe(keptCents);
      // An allowance lowers what the order may keep; nothing raises it.
      expect(owedCents).toBeGreaterThanOrEqual(keptCents - totalCents);
    });
  });

  test('a payment is owed as far as the order is paid already, and a refund lowers what is owed', () => {
    always(({ command, before, events, after }) => {
      if (before === null || events.length === 0) return;
      const { amountCents = 0 } = 'amountCents' in command ? command : {};
      const change = after.owedCents - before.owedCents;
      if (command.type === 'PayOrder' || command.type === 'RecordPayment') {
        expect(change).toBeGreaterThanOrEqual(0);
        expect(change).toBeLessThanOrEqual(amountCents);
        if (before.owedCents > 0) expect(change).toBe(amountCents);
      }
      if (events[0]?.type === 'PaymentRefunded') {
        expect(after.owedCents).toBe(Math.max(0, before.owedCents - amountCents));
      }
      if (command.type === 'ReturnItems' || command.type === 'ShipOrder') expect(change).toBe(0);
    });
  });

  test('its total is that of its lines, shipping and tax less the discount, and never changes', () => {
    always(({ after }, [first]) => {
      if (first?.command.type !== 'PlaceOrder') throw new Error('a life begins with an order');
      expect(after.totalCents).toBe(totalOf(first.command));
      expect(after.totalCents).toBeGreaterThanOrEqual(0);
      expect(after.items.map(({ lineId }) => lineId)).toEqual(
        after.items.map((_, index) => String(index + 1)),
      );
    });
  });

  test('shipped and cancelled are for ever, and a shipment never goes back', () => {
    const progress = ['unshipped', 'partially_shipped', 'shipped', 'delivered', 'returned'];
    always(({ before, after }) => {
      if (before === null) return;
      if (before.status === 'shipped' || before.status === 'cancelled') {
        expect(after.status).toBe(before.status);
        expect(after.shippedAt).toBe(before.shippedAt);
        expect(after.cancelledAt).toBe(before.cancelledAt);
      }
      expect(progress.indexOf(after.shipmentStatus)).toBeGreaterThanOrEqual(
        progress.indexOf(before.shipmentStatus),
      );
      for (const list of ['payments', 'parcels', 'returns', 'refunds'] as const) {
        expect(after[list].length).toBeGreaterThanOrEqual(before[list].length);
      }
    });
  });

  test('its shipment status tells what its lines and parcels tell', () => {
    always(({ after: { items, parcels, status, shipmentStatus } }) => {
      const all = (hold: (line: Order['items'][number]) => boolean) => items.every(hold);
      const hasShipped = parcels.length > 0;
      const isShipped = all(({ quantity, shippedQuantity }) => quantity === shippedQuantity);
      const isBack = all(({ quantity, returnedQuantity }) => quantity === returnedQuantity);
      const isThere = parcels.every(({ deliveredAt }) => deliveredAt !== undefined);
      expect(status === 'shipped').toBe(isShipped);
      expect(shipmentStatus === 'unshipped').toBe(!hasShipped);
      expect(shipmentStatus === 'partially_shipped').toBe(hasShipped && !isShipped);
      expect(shipmentStatus === 'returned').toBe(isBack);
      expect(shipmentStatus === 'delivered').toBe(isShipped && isThere && !isBack);
    });
  });

  test('what is brought back to the stock is what came back with restock, by sku', () => {
    always(({ command, before, events, after }) => {
      if (before === null) return;
      const context = { recordedAt: AT, metadata: { correlationId: '', actor: '' }, topic: '' };
      const { unit } = appendToOrder(orderId, before, events, context);
      const restocked = new Map<string, number>();
      for (const row of unit.reservations ?? []) {
        if (row.op !== 'restock') throw new Error(`an order does ${row.op} nothing`);
        restocked.set(row.sku, (restocked.get(row.sku) ?? 0) + row.quantity);
      }
      const expected = new Map<string, number>();
      const isRestocked = command.type === 'ReturnItems' && command.restock && events.length > 0;
      for (const { lineId, quantity } of isRestocked ? command.items : []) {
        const { sku } = after.items.find((line) => line.lineId === lineId)!;
        expected.set(sku, (expected.get(sku) ?? 0) + quantity);
      }
      expect(restocked).toEqual(expected);
    });
  });

  test('a command that has had its effect has no other, at once or later', () => {
    /** Two addresses are two changes. A fulfilment that has ended cannot be started again. */
    const forOnce = new Set(['PlaceOrder', 'ChangeShippingAddress', 'FulfilOrder']);
    always(({ after }, steps) => {
      const until = steps.findIndex((step) => step.after === after) + 1;
      for (const { command, events } of steps.slice(0, until)) {
        if (events.length === 0 || forOnce.has(command.type)) continue;
        expect(decided(command, after)).toEqual({ events: [], refusal: undefined });
      }
    });
  });

  test('a command takes effect if the promises of the API say so, and only then', () => {
    fc.assert(
      fc.property(life, (random) => {
        let held = NOTHING_HELD;
        for (const { command, folded, events, refusal } of run(random)) {
          const expected = takesEffect(command, folded, held);
          if (expected !== undefined) {
            expect([command, events.length > 0, refusal?.code]).toEqual([
              command,
              expected,
              expected ? undefined : refusal?.code,
            ]);
          }
          const isUnknown = hasUnknownLine(command, folded);
          if (refusal?.code === 'line_not_found') expect(isUnknown).toBe(true);
          else if (isUnknown) expect(refusal?.code).not.toMatch(/_exceeds_/);
          if (events.length > 0) held = heldAfter(command, held);
        }
      }),
      { numRuns: RUNS },
    );
  });

  test('what it says is allowed would take effect, and nothing else but a payment', () => {
    always(({ after }) => {
      const ids = { paymentId: 'new', refundId: 'new', returnId: 'new', trackingNumber: 'new' };
      const { refundId, trackingNumber, returnId } = ids;
      const piece = ({ lineId }: Order['items'][number]): Command => {
        const items = [{ lineId, quantity: 1 }];
        return { type: 'ReturnItems', returnId, items, reason: 'a', restock: false };
      };
      const asked = { refundId, amountCents: 1, recordOnly: true, sagaId: 'saga' };
      const candidates: Readonly<Record<string, readonly Command[]>> = {
        fulfil: [{ type: 'FulfilOrder', sagaId: 'saga' }],
        ship: [{ type: 'ShipOrder', trackingNumber, carrier: 'a' }],
        cancel: [{ type: 'CancelOrder', reason: 'a' }],
        deliver: after.parcels.map((parcel) => ({ type: 'DeliverParcel', ...parcel })),
        return: after.items.map(piece),
        refund: [{ type: 'RefundOrder', ...asked }],
      };
      const possible = Object.entries(candidates).flatMap(([name, commands]) =>
        commands.some((command) => decided(command, after).events.length > 0) ? [name] : [],
      );
      const allowed = allowedCommands(after);
      expect(allowed.filter((name) => name !== 'pay').toSorted()).toEqual(possible.toSorted());
      expect(allowed.includes('pay')).toBe(
        after.fulfilment === undefined && after.status === 'pending',
      );
    });
  });

  test('the provider that took money is asked to give it back, unless that has happened', () => {
    always(({ command, before, events, after }) => {
      for (const { paymentId, source } of after.payments) {
        expect(source).toBe(paymentId === 'captured' ? 'fulfilment' : 'reported');
      }
      const [event] = events;
      if (command.type !== 'RefundOrder' || event === undefined || before === null) return;
      if (event.type !== 'RefundRequested' && event.type !== 'PaymentRefunded') {
        throw new Error(`a refund is no ${event.type}`);
      }
      const isAsked = event.data.paymentId === 'captured' && command.recordOnly !== true;
      expect(event.type).toBe(isAsked ? 'RefundRequested' : 'PaymentRefunded');
      const { refundId, amountCents, reason, returnId } = command;
      const asked = { refundId, amountCents, reason, returnId };
      expect(event.data).toMatchObject(JSON.parse(JSON.stringify(asked)));
      if (isAsked) {
        expect(event.data).toMatchObject({ sagaId: command.sagaId });
        expect(after.refundedCents).toBe(before.refundedCents);
        expect(after.owedCents).toBe(before.owedCents);
      }
    });
  });

  test('a command that is refused says what the order is and what it allows', () => {
    always(({ before, refusal }) => {
      if (refusal === undefined || before === null) return;
      const { status, version } = before;
      expect(refusal.current).toEqual({ status, version, allowed: allowedCommands(before) });
    });
  });
});
