import { describe, expect, test } from 'vitest';
import type { FulfilmentCommand, OrderCommand } from '#src/orders/domain/order-commands.ts';
import type { OrderEvent } from '#src/orders/domain/order-events.ts';
import { allowedCommands, decide } from '#src/orders/domain/order-commands.ts';
import { owedCents } from '#src/orders/domain/order.ts';
import type { Order } from '#src/orders/domain/order.ts';
import * as a from '#test/support/orders.ts';
import { specFor } from '#test/support/spec.ts';

const given = specFor<Order | null, OrderCommand | FulfilmentCommand, OrderEvent>({
  decide,
  evolve: a.next,
  initial: null,
});
const fold = (...events: OrderEvent[]) => events.reduce<Order | null>(a.next, null)!;

describe('placing an order', () => {
  test('computes the total of its items', () => given().when(a.place).emits(a.placed));

  test('cannot happen twice under one id', () =>
    given(a.placed).when(a.place).rejects('order_already_placed'));

  const lines = (quantity: number, priceCents: number, more = 0) => ({
    type: 'PlaceOrder' as const,
    orderId: a.orderId,
    customerId: 'c-1',
    currency: 'EUR',
    items: [
      { sku: 's', quantity, priceCents },
      { sku: 's', quantity: 1, priceCents: more },
    ],
  });

  test('takes a total of 2^53-1 and no more', () => {
    // 9,007 * 10^12 + 199,254,740,991 = 2^53 - 1
    expect(decide(lines(9007, 1e12, 199_254_740_991), null)[0]).toMatchObject({
      data: { totalCents: Number.MAX_SAFE_INTEGER },
    });
    given()
      .when(lines(9007, 1e12, 199_254_740_992))
      .rejects('total_too_large');
  });
});

describe('every command but place', () => {
  test.each([a.pay, a.ship, a.cancel, a.refund, a.fulfil])('$type needs an order', (command) =>
    given().when(command).rejects('order_not_found'),
  );
});

describe('paying an order', () => {
  test('captures its total', () => given(a.placed).when(a.pay).emits(a.paid));

  const payment = (paymentId: string, amountCents: number) => ({
    command: { type: 'PayOrder', paymentId, amountCents } as const,
    event: { type: 'PaymentCaptured', data: { amountCents, paymentId } } as const,
  });

  test('with less than its total leaves it pending until its payments cover the total', () => {
    const [first, rest] = [payment('pay-1', 2499), payment('pay-2', 1)];
    given(a.placed).when(first.command).emits(first.event);
    expect(fold(a.placed, first.event)).toMatchObject({ status: 'pending', capturedCents: 2499 });
    given(a.placed, first.event).when(a.ship).rejects('order_not_paid');
    given(a.placed, first.event).when(rest.command).emits(rest.event);
    const paid = fold(a.placed, first.event, rest.event);
    expect(paid).toMatchObject({ status: 'paid', capturedCents: 2500 });
    expect(owedCents(paid)).toBe(0);
    given(a.placed, first.event).when(a.cancel).emits(a.cancelled(2499));
  });

  test('with more than its total owes the excess', () => {
    const { command, event } = payment('pay-1', 2600);
    given(a.placed).when(command).emits(event);
    const paid = fold(a.placed, event);
    expect(paid.status).toBe('paid');
    expect(owedCents(paid)).toBe(100);
  });

  test.each<[string, OrderEvent[], number]>([
    ['paid', [a.placed, a.paid], 2500],
    ['shipped', [a.placed, a.paid, a.shipped], 2500],
    ['cancelled', [a.placed, a.cancelled(0)], 2500],
    ['cancelled and paid', [a.placed, a.paid, a.cancelled(2500)], 5000],
    ['cancelled and refunded', [a.placed, a.paid, a.cancelled(2500), a.refunded], 2500],
  ])('that is %s is recorded, and is owed to the customer', (_, history, owed) => {
    const { command, event } = payment('pay-2', 2500);
    given(...history)
      .when(command)
      .emits(event);
    const [before, after] = [fold(...history), fold(...history, event)];
    expect(after.status).toBe(before.status);
    expect(owedCents(after)).toBe(owed);
    expect(allowedCommands(after)).toContain('refund');
  });

  test('with another amount under a known id is refused', () => {
    given(a.placed, a.paid).when(payment('pay-1', 2600).command).rejects('payment_id_taken');
    given(a.placed, a.paid, a.cancelled(2500))
      .when(payment('pay-1', 1).command)
      .rejects('payment_id_taken');
  });

  test('with an amount of 0 is refused, unless the order costs nothing', () => {
    const nothing = payment('pay-2', 0).command;
    given(a.placed).when(nothing).rejects('payment_amount_mismatch');
    given(a.placed, a.paid).when(nothing).rejects('payment_amount_mismatch');
    given(a.placed, a.cancelled(0)).when(nothing).rejects('payment_amount_mismatch');
    const free = a.placedFor(0);
    const { command, event } = payment('pay-1', 0);
    given(free).when(command).emits(event);
    expect(fold(free, event).status).toBe('paid');
    given(free, event).when(nothing).rejects('payment_amount_mismatch');
  });

  test('is refused after 100 payments, or above 2^53-1 in all; duplicates are not', () => {
    given(a.placed, a.paid)
      .when(payment('pay-2', Number.MAX_SAFE_INTEGER - 2500).command)
      .emits(payment('pay-2', Number.MAX_SAFE_INTEGER - 2500).event);
    given(a.placed, a.paid)
      .when(payment('pay-2', Number.MAX_SAFE_INTEGER - 2499).command)
      .rejects('payment_amount_mismatch');
    const parts = Array.from({ length: 100 }, (_, index) => payment(`part-${index}`, 1));
    const events = parts.map(({ event }) => event);
    given(a.placed, ...events.slice(1))
      .when(parts[0]!.command)
      .emits(events[0]!);
    given(a.placed, ...events)
      .when(a.pay)
      .rejects('too_many_payments');
    given(a.placed, ...events)
      .when(parts[99]!.command)
      .emitsNothing();
  });

  test('with the same payment again changes nothing, whatever came after', () => {
    given(a.placed, a.paid).when(a.pay).emitsNothing();
    given(a.placed, a.paid, a.shipped).when(a.pay).emitsNothing();
  });

  test('by hand leaves room for what its saga may still capture', () => {
    const { MAX_SAFE_INTEGER: max } = Number;
    const running = [a.placed, a.fulfilmentStarted];
    const fits = payment('hand', max - a.totalCents);
    given(...running)
      .when(fits.command)
      .emits(fits.event);
    const both = fold(...running, fits.event, a.paid);
    expect(both.capturedCents).toBe(max);
    given(...running)
      .when(payment('hand', max - a.totalCents + 1).command)
      .rejects('payment_amount_mismatch');
    const late = payment('hand', max - 2 * a.totalCents);
    given(...running, a.paid, a.shipped, late.event)
      .when(payment('more', a.totalCents).command)
      .emits(payment('more', a.totalCents).event);
  });

  test('by hand and by its saga is recorded once', () => {
    const capture = { type: 'RecordPayment', paymentId: 'pay-1', amountCents: 2500 } as const;
    given(a.placed, a.fulfilmentStarted).when(a.pay).emits(a.paid);
    given(a.placed, a.fulfilmentStarted, a.paid).when(capture).emitsNothing();
    given(a.placed, a.fulfilmentStarted, a.paid).when(a.pay).emitsNothing();
  });
});

describe('shipping an order', () => {
  test('works once paid', () => given(a.placed, a.paid).when(a.ship).emits(a.shipped));
  test('needs a payment', () => given(a.placed).when(a.ship).rejects('order_not_paid'));

  test('again with the same tracking number changes nothing', () =>
    given(a.placed, a.paid, a.shipped).when(a.ship).emitsNothing());

  test('again with another tracking number is refused', () =>
    given(a.placed, a.paid, a.shipped)
      .when({ type: 'ShipOrder', trackingNumber: 'T-2', carrier: 'post' })
      .rejects('order_already_shipped'));

  test('is too late once cancelled', () =>
    given(a.placed, a.paid, a.cancelled(a.totalCents)).when(a.ship).rejects('order_cancelled'));

  test('is left to the saga once it runs', () =>
    given(a.placed, a.fulfilmentStarted).when(a.ship).rejects('fulfilment_running'));
});

describe('cancelling an order', () => {
  test('owes nothing before it is paid', () =>
    given(a.placed).when(a.cancel).emits(a.cancelled(0)));

  test('owes what was captured once it is paid', () =>
    given(a.placed, a.paid).when(a.cancel).emits(a.cancelled(a.totalCents)));

  test('is too late once shipped', () =>
    given(a.placed, a.paid, a.shipped).when(a.cancel).rejects('order_already_shipped'));

  test('twice changes nothing', () =>
    given(a.placed, a.cancelled(0)).when(a.cancel).emitsNothing());

  test('requests the cancellation of its saga, once', () => {
    given(a.placed, a.fulfilmentStarted).when(a.cancel).emits(a.cancellationRequested);
    given(a.placed, a.fulfilmentStarted, a.cancellationRequested).when(a.cancel).emitsNothing();
  });

  test('is too late once the saga has requested the shipment', () =>
    given(a.placed, a.fulfilmentStarted, a.paid, a.shipmentRequested)
      .when(a.cancel)
      .rejects('shipment_requested'));
});

describe('refunding an order', () => {
  const owed = [a.placed, a.paid, a.cancelled(a.totalCents)];
  const part = (refundId: string, amountCents: number) => ({
    type: 'RefundOrder' as const,
    refundId,
    amountCents,
    sagaId: 'refund-1',
  });

  test('refunds what is owed', () =>
    given(...owed)
      .when(a.refund)
      .emits(a.refunded));

  test('works in parts, up to the last cent', () => {
    const first: OrderEvent = {
      type: 'PaymentRefunded',
      data: { refundId: 'r1', amountCents: 2499, paymentId: 'pay-1' },
    };
    given(...owed, first)
      .when(part('r2', 1))
      .emits({
        type: 'PaymentRefunded',
        data: { refundId: 'r2', amountCents: 1, paymentId: 'pay-1' },
      });
    given(...owed, first)
      .when(part('r2', 2))
      .rejects('refund_exceeds_captured');
  });

  test('of an order that owes nothing lowers what the order costs', () => {
    const event: OrderEvent = {
      type: 'PaymentRefunded',
      data: { refundId: 'r1', amountCents: 1000, paymentId: 'pay-1', allowanceCents: 1000 },
    };
    given(a.placed, a.paid).when(part('r1', 1000)).emits(event);
    const late: OrderEvent = { type: 'PaymentCaptured', data: { amountCents: 9, paymentId: 'p2' } };
    expect(owedCents(fold(a.placed, a.paid, event))).toBe(0);
    expect(owedCents(fold(a.placed, a.paid, event, late))).toBe(9);
  });

  test('is refused if nothing was paid', () =>
    given(a.placed, a.cancelled(0)).when(a.refund).rejects('refund_exceeds_captured'));

  test('before the order is paid takes a part payment back, and leaves what it costs', () => {
    const part1: OrderEvent = {
      type: 'PaymentCaptured',
      data: { amountCents: 1000, paymentId: 'pay-1' },
    };
    const back: OrderEvent = {
      type: 'PaymentRefunded',
      data: { refundId: 'r1', amountCents: 1000, paymentId: 'pay-1' },
    };
    given(a.placed, part1).when(part('r1', 1000)).emits(back);
    const whole: OrderEvent = {
      type: 'PaymentCaptured',
      data: { amountCents: 2500, paymentId: 'p2' },
    };
    expect(owedCents(fold(a.placed, part1, back, whole))).toBe(0);
  });

  test('is possible up to what was captured, in every state', () => {
    const twice: OrderEvent = {
      type: 'PaymentCaptured',
      data: { amountCents: 2500, paymentId: 'pay-2' },
    };
    for (const history of [
      [a.placed, a.paid, twice],
      [a.placed, a.paid, twice, a.shipped],
    ]) {
      given(...history)
        .when(part('r1', 5001))
        .rejects('refund_exceeds_captured');
      const excess: OrderEvent = {
        type: 'PaymentRefunded',
        data: { refundId: 'r1', amountCents: 2500, paymentId: 'pay-2' },
      };
      given(...history)
        .when(part('r1', 2500))
        .emits(excess);
      expect(owedCents(fold(...history, excess))).toBe(0);
      given(...history, excess)
        .when(part('r2', 2500))
        .emits({
          type: 'PaymentRefunded',
          data: { refundId: 'r2', amountCents: 2500, paymentId: 'pay-1', allowanceCents: 2500 },
        });
    }
  });

  test('uses the payment that is named, or else the newest with enough left', () => {
    const more: OrderEvent = { type: 'PaymentCaptured', data: { amountCents: 9, paymentId: 'p2' } };
    const both = [...owed, more];
    const back = (refundId: string, amountCents: number, paymentId: string): OrderEvent => ({
      type: 'PaymentRefunded',
      data: { refundId, amountCents, paymentId },
    });
    given(...both)
      .when(part('r1', 9))
      .emits(back('r1', 9, 'p2'));
    given(...both)
      .when(part('r1', 10))
      .emits(back('r1', 10, 'pay-1'));
    given(...both)
      .when(part('r1', 2509))
      .emits(back('r1', 2509, 'p2'));
    given(...both, back('r1', 9, 'p2'))
      .when(part('r2', 9))
      .emits(back('r2', 9, 'pay-1'));
    given(...both)
      .when({ ...part('r1', 9), paymentId: 'pay-1' })
      .emits(back('r1', 9, 'pay-1'));
    for (const paymentId of ['p2', 'p3']) {
      given(...both)
        .when({ ...part('r1', 10), paymentId })
        .rejects('refund_exceeds_captured');
    }
    given(...both, back('r1', 9, 'p2'))
      .when({ ...part('r1', 9), paymentId: 'p2' })
      .emitsNothing();
    given(...both, back('r1', 9, 'p2'))
      .when({ ...part('r1', 9), paymentId: 'pay-1' })
      .rejects('refund_id_taken');
  });

  test('is left to the saga while it runs, and by hand once it has ended', () => {
    const running = [a.placed, a.fulfilmentStarted, a.paid];
    const late: OrderEvent = { type: 'PaymentCaptured', data: { amountCents: 9, paymentId: 'p2' } };
    given(...running, late)
      .when(part('r1', 9))
      .rejects('fulfilment_running');
    given(...running, a.refunded, a.cancelled(2500), late)
      .when(part('r1', 9))
      .emits({
        type: 'PaymentRefunded',
        data: { refundId: 'r1', amountCents: 9, paymentId: 'p2' },
      });
    expect(allowedCommands(fold(...running, late))).not.toContain('refund');
    expect(allowedCommands(fold(...running, late, a.shipped))).toContain('refund');
  });

  test('again under the same id changes nothing', () =>
    given(...owed, a.refunded)
      .when(a.refund)
      .emitsNothing());

  test('with another amount under the same id is refused', () =>
    given(...owed, a.refunded)
      .when(part('ref-1', 1))
      .rejects('refund_id_taken'));

  test('of more than was reported by hand is not taken for one that was made by hand', () => {
    const captured: OrderEvent = {
      type: 'PaymentCaptured',
      data: { amountCents: 2500, paymentId: 'pay-1', sagaId: 'saga-1' },
    };
    const late: OrderEvent = { type: 'PaymentCaptured', data: { amountCents: 9, paymentId: 'p2' } };
    const both = [a.placed, a.fulfilmentStarted, captured, a.shipped, late];
    given(...both)
      .when(part('r1', 2509))
      .rejects('refund_exceeds_captured');
    given(...both)
      .when({ ...part('r1', 2509), recordOnly: true })
      .emits({
        type: 'PaymentRefunded',
        data: { refundId: 'r1', amountCents: 2509, paymentId: 'p2', allowanceCents: 2500 },
      });
  });

  test('that was made elsewhere is not recorded under the id of one that has not been made', () => {
    const asked = [a.placed, a.fulfilmentStarted, a.paid, a.shipped, a.refundRequested];
    const made: OrderEvent = {
      type: 'PaymentRefunded',
      data: { refundId: 'ref-1', amountCents: 2500, paymentId: 'pay-1' },
    };
    const elsewhere = { ...a.refund, recordOnly: true };
    for (const history of [asked, [...asked, a.refundFailed]]) {
      given(...history)
        .when(a.refund)
        .emitsNothing();
      given(...history)
        .when(elsewhere)
        .rejects('refund_id_taken');
    }
    given(...asked, made)
      .when(elsewhere)
      .emitsNothing();
  });

  test('is refused after 100 refunds; duplicates are not', () => {
    const parts = Array.from({ length: 100 }, (_, index) => ({
      type: 'PaymentRefunded' as const,
      data: { refundId: `part-${index}`, amountCents: 1, paymentId: 'pay-1' },
    }));
    given(...owed, ...parts.slice(1))
      .when(part('part-0', 1))
      .emits(parts[0]!);
    given(...owed, ...parts)
      .when(part('part-100', 1))
      .rejects('too_many_refunds');
    given(...owed, ...parts)
      .when(part('part-99', 1))
      .emitsNothing();
    expect(allowedCommands(fold(...owed, ...parts))).toEqual([]);
  });
});

describe('fulfilling an order', () => {
  test('starts the saga', () => given(a.placed).when(a.fulfil).emits(a.fulfilmentStarted));

  test('twice starts nothing more', () =>
    given(a.placed, a.fulfilmentStarted)
      .when({ type: 'FulfilOrder', sagaId: 'saga-2' })
      .emitsNothing());

  test('needs a pending order', () => {
    given(a.placed, a.paid).when(a.fulfil).rejects('order_already_paid');
    given(a.placed, a.paid, a.shipped).when(a.fulfil).rejects('order_already_shipped');
    given(a.placed, a.cancelled(0)).when(a.fulfil).rejects('order_cancelled');
  });
});

describe('what the saga reports', () => {
  const capture = { type: 'RecordPayment', paymentId: 'pay-1', amountCents: 2500 } as const;
  const running = [a.placed, a.fulfilmentStarted];

  test('pays the order, once', () => {
    given(...running)
      .when(capture)
      .emits(a.paid);
    given(...running, a.paid)
      .when(capture)
      .emitsNothing();
  });

  test('is also recorded on a cancelled order, and changes only its amounts', () => {
    const late = [...running, a.cancelled(0)];
    given(...late)
      .when(capture)
      .emits(a.paid);
    expect(fold(...late, a.paid)).toMatchObject({ status: 'cancelled', capturedCents: 2500 });
  });

  test('requests the shipment, unless the cancellation was requested', () => {
    given(...running, a.paid)
      .when({ type: 'RequestShipment' })
      .emits(a.shipmentRequested);
    given(...running, a.paid, a.cancellationRequested)
      .when({ type: 'RequestShipment' })
      .rejects('cancellation_requested');
    given(...running, a.paid, a.shipmentRequested)
      .when({ type: 'RequestShipment' })
      .emitsNothing();
  });

  test('ships, refunds and cancels', () => {
    given(...running, a.paid, a.shipmentRequested)
      .when({ type: 'RecordShipment', parcels: [{ trackingNumber: 'T-1', carrier: 'post' }] })
      .emits(a.shipped);
    given(...running, a.paid)
      .when({ type: 'RecordRefund', refundId: 'ref-1', amountCents: 2500, paymentId: 'pay-1' })
      .emits(a.refunded);
    given(...running, a.paid, a.refunded)
      .when({ type: 'FinishCancellation', reason: 'changed my mind' })
      .emits(a.cancelled(a.totalCents));
    given(...running, a.paid, a.shipped)
      .when({ type: 'FinishCancellation', reason: 'changed my mind' })
      .rejects('order_already_shipped');
  });
});

describe('what is allowed now', () => {
  test.each<[string, OrderEvent[], string[]]>([
    ['pending', [a.placed], ['pay', 'fulfil', 'cancel']],
    ['paid', [a.placed, a.paid], ['ship', 'cancel', 'refund']],
    ['shipped', [a.placed, a.paid, a.shipped], ['deliver', 'return', 'refund']],
    ['cancelled and owing', [a.placed, a.paid, a.cancelled(2500)], ['refund']],
    ['cancelled and settled', [a.placed, a.paid, a.cancelled(2500), a.refunded], []],
    ['run by its saga', [a.placed, a.fulfilmentStarted], ['cancel']],
    ['being undone', [a.placed, a.fulfilmentStarted, a.cancellationRequested], []],
  ])('for an order that is %s', (_, events, allowed) => {
    expect(allowedCommands(fold(...events))).toEqual(allowed);
  });
});

describe('a parcel and a return of many lines', () => {
  const LINES = 200;
  let looks = 0;
  const item = (index: number) => ({
    get lineId() {
      looks += 1;
      return String(index + 1);
    },
    quantity: 1,
  });
  const items = Array.from({ length: LINES }, (_, index) => item(index));
  const lines = Array.from({ length: LINES }, (_, index) => ({
    lineId: String(index + 1),
    sku: 's',
    quantity: 2,
    priceCents: 0,
  }));
  const ofManyLines: OrderEvent = {
    type: 'OrderPlaced',
    data: { orderId: a.orderId, customerId: 'c-1', currency: 'EUR', items: lines, totalCents: 0 },
  };

  // Every read and every command folds the whole stream, and nobody else gets a turn meanwhile.
  test('are folded without searching their items for each line of the order', () => {
    const order = fold(
      ofManyLines,
      { type: 'ParcelShipped', data: { trackingNumber: 'T-1', carrier: 'post', items } },
      { type: 'ItemsReturned', data: { returnId: 'r-1', items, reason: 'r', restock: false } },
    );
    expect(order.items.at(-1)).toMatchObject({ shippedQuantity: 1, returnedQuantity: 1 });
    expect(looks).toBeLessThanOrEqual(4 * LINES);
  });
});
