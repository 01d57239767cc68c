import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { toUcpOrder, ucpOrder } from '#src/orders/ucp-order.ts';
import { anyOrder } from './random-orders.ts';

const permalinkUrl = 'https://shop.example/orders/1';
const shippingAddress = {
  name: 'Ada Example',
  line1: '1 Sample Street',
  line2: 'Back house',
  postalCode: '10115',
  city: 'Berlin',
  region: 'BE',
  country: 'DE',
};
const contact = { email: 'ada@example.com', phone: '+49 30 1234567' };

type Ucp = ReturnType<typeof toUcpOrder>;
type Quantity = Readonly<{ id: string; quantity: number }>;

const sum = (numbers: readonly number[]) => numbers.reduce((total, one) => total + one, 0);
const of = (id: string, lines: readonly Quantity[]) =>
  sum(lines.filter((line) => line.id === id).map(({ quantity }) => quantity));
const changed = ({ adjustments }: Ucp, type?: string) =>
  adjustments
    .filter((each) => type === undefined || each.type === type)
    .flatMap(({ line_items: lines = [] }) => lines);
const happened = ({ fulfillment }: Ucp, type: string) =>
  fulfillment.events.filter((event) => event.type === type).flatMap((event) => event.line_items);

describe("UCP's form of any order", () => {
  const holds = (check: (ucp: Ucp, order: Parameters<typeof toUcpOrder>[0]) => void) =>
    fc.assert(
      fc.property(anyOrder, (order) => check(toUcpOrder(order, { permalinkUrl }), order)),
      { numRuns: 500 },
    );

  test('is what the OpenAPI document says, and survives JSON', () => {
    holds((ucp) => {
      expect(ucpOrder.strict().parse(JSON.parse(JSON.stringify(ucp)))).toEqual(ucp);
    });
  });

  test('has totals that add up: of the order and of each line', () => {
    holds((ucp, order) => {
      for (const { totals } of [ucp, ...ucp.line_items]) {
        const parts = totals.filter(({ type }) => type !== 'total').map(({ amount }) => amount);
        const [total, ...more] = totals.filter(({ type }) => type === 'total');
        expect(more).toEqual([]);
        expect(sum(parts)).toBe(total?.amount);
      }
      const subtotal = ucp.totals.find(({ type }) => type === 'subtotal');
      expect(sum(ucp.line_items.map(({ totals }) => totals[0]!.amount))).toBe(subtotal?.amount);
      expect(ucp.totals.at(-1)).toEqual({ type: 'total', amount: order.totalCents });
    });
  });

  test('has quantities that follow from its events and adjustments', () => {
    holds((ucp) => {
      for (const { id, quantity, status } of ucp.line_items) {
        const { original, total, fulfilled } = quantity;
        expect(total).toBe(original + of(id, changed(ucp)));
        expect(fulfilled).toBe(of(id, happened(ucp, 'shipped')) + of(id, changed(ucp, 'return')));
        expect(of(id, happened(ucp, 'delivered'))).toBeLessThanOrEqual(
          of(id, happened(ucp, 'shipped')),
        );
        expect(fulfilled).toBeGreaterThanOrEqual(0);
        expect(total).toBeGreaterThanOrEqual(fulfilled);
        const left = fulfilled === total ? 'fulfilled' : fulfilled > 0 ? 'partial' : 'processing';
        expect(status).toBe(total === 0 ? 'removed' : left);
      }
    });
  });

  test('gives back what the order says that it refunded', () => {
    holds((ucp, order) => {
      const refunds = ucp.adjustments.filter(({ type }) => type === 'refund');
      const done = refunds.filter(({ status }) => status === 'completed');
      expect(sum(done.flatMap(({ totals = [] }) => totals.map(({ amount }) => amount)))).toBe(
        0 - order.refundedCents,
      );
      const open = refunds.filter(({ status }) => status === 'pending');
      expect(open).toHaveLength(order.refunds.filter(({ state }) => state === 'requested').length);
    });
  });

  test('names each line, event and adjustment once, and refers to lines only', () => {
    holds((ucp) => {
      const ids = [ucp.line_items, ucp.fulfillment.events, ucp.adjustments].map((list) =>
        list.map(({ id }) => id),
      );
      for (const own of ids) expect(new Set(own).size).toBe(own.length);
      const lines = new Set(ids[0]);
      const named = [...changed(ucp), ...happened(ucp, 'shipped'), ...happened(ucp, 'delivered')];
      for (const { id, quantity } of named) {
        expect(lines).toContain(id);
        expect(quantity).not.toBe(0);
      }
    });
  });

  test('tells its logs in the order of time', () => {
    holds((ucp) => {
      for (const log of [ucp.fulfillment.events, ucp.adjustments]) {
        const times = log.map(({ occurred_at: at }) => at);
        expect(times).toEqual(times.toSorted());
      }
    });
  });

  test('has personal data only if it was given, and sends there what is left', () => {
    fc.assert(
      fc.property(anyOrder, (order) => {
        const without = toUcpOrder(order, { permalinkUrl });
        expect('expectations' in without.fulfillment).toBe(false);
        const ucp = toUcpOrder(order, { permalinkUrl, shippingAddress, contact });
        const { expectations = [], ...log } = ucp.fulfillment;
        expect({ ...ucp, fulfillment: log }).toEqual(without);
        const left = ucp.line_items
          .filter(({ quantity }) => quantity.total > 0)
          .map(({ id, quantity }) => ({ id, quantity: quantity.total }));
        expect(expectations).toEqual(
          left.length === 0
            ? []
            : [
                {
                  id: 'shipping',
                  line_items: left,
                  method_type: 'shipping',
                  destination: {
                    street_address: '1 Sample Street',
                    extended_address: 'Back house',
                    address_locality: 'Berlin',
                    address_region: 'BE',
                    address_country: 'DE',
                    postal_code: '10115',
                    phone_number: '+49 30 1234567',
                  },
                },
              ],
        );
      }),
    );
  });
});

describe('the random orders of these tests', () => {
  test('show everything that UCP can show', () => {
    const seen = new Set<string>();
    for (const order of fc.sample(anyOrder, { numRuns: 2000, seed: 1 })) {
      const ucp = toUcpOrder(order, { permalinkUrl });
      for (const { status } of ucp.line_items) seen.add(status);
      for (const { type } of [...ucp.fulfillment.events, ...ucp.totals]) seen.add(type);
      for (const { type, status } of ucp.adjustments) seen.add(`${type} ${status}`);
    }
    const all =
      'processing, partial, fulfilled, removed, shipped, delivered, ' +
      'subtotal, discount, fulfillment, tax, total, refund pending, refund completed, ' +
      'refund failed, return completed, cancellation completed';
    expect([...seen].toSorted()).toEqual(all.split(', ').toSorted());
  });
});
