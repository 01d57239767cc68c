import { z } from 'zod';
import { unshipped } from './domain/order.ts';
import type { orderView } from './domain/order-view.ts';
import type { Contact, ShippingAddress } from './personal-data.ts';

/** The media type of the order object of the Universal Commerce Protocol (ucp.dev). */
export const UCP_MEDIA_TYPE = 'application/ucp+json';
/** The release of the protocol whose order object this is. */
const UCP_VERSION = '2026-04-08';
const UCP_CAPABILITY = 'dev.ucp.shopping.order';

const instant = z.string().meta({ format: 'date-time' });
const count = z.int().min(0).max(Number.MAX_SAFE_INTEGER);
const total = z.object({
  type: z.enum(['subtotal', 'discount', 'fulfillment', 'tax', 'total']),
  amount: z
    .int()
    .min(-Number.MAX_SAFE_INTEGER)
    .max(Number.MAX_SAFE_INTEGER)
    .describe('Negative if it lowers the total, or is money given back.'),
});
const lineQuantities = z.array(z.object({ id: z.string(), quantity: z.int() }));

/** What `toUcpOrder` makes, for the OpenAPI document. docs/ucp.md explains each member. */
export const ucpOrder = z.object({
  ucp: z.object({
    version: z.string(),
    status: z.literal('success'),
    capabilities: z.record(z.string(), z.array(z.object({ version: z.string() }))),
  }),
  id: z.string(),
  checkout_id: z.string(),
  permalink_url: z.string().meta({ format: 'uri' }),
  currency: z.string(),
  line_items: z.array(
    z.object({
      id: z.string(),
      item: z.object({ id: z.string(), title: z.string(), price: count }),
      quantity: z.object({ original: count, total: count, fulfilled: count }),
      totals: z.array(total),
      status: z.enum(['processing', 'partial', 'fulfilled', 'removed']),
    }),
  ),
  fulfillment: z.object({
    expectations: z
      .array(
        z.object({
          id: z.string(),
          line_items: lineQuantities,
          method_type: z.literal('shipping'),
          destination: z.record(z.string(), z.string()),
        }),
      )
      .optional()
      .describe('Only for a caller that may read personal data.'),
    events: z.array(
      z.object({
        id: z.string(),
        type: z.enum(['shipped', 'delivered']),
        occurred_at: instant,
        line_items: lineQuantities,
        tracking_number: z.string(),
        carrier: z.string(),
      }),
    ),
  }),
  adjustments: z.array(
    z.object({
      id: z.string(),
      type: z.enum(['refund', 'return', 'cancellation']),
      occurred_at: instant,
      status: z.enum(['pending', 'completed', 'failed']),
      line_items: lineQuantities.optional(),
      totals: z.array(total).optional(),
      description: z.string().optional(),
    }),
  ),
  totals: z.array(total),
});

type OrderView = Readonly<z.infer<typeof orderView>>;
type UcpOrder = z.infer<typeof ucpOrder>;
type UcpLine = UcpOrder['line_items'][number];
type UcpEvent = UcpOrder['fulfillment']['events'][number];
type UcpAdjustment = UcpOrder['adjustments'][number];

/** What is not in the order itself. */
export type UcpContext = Readonly<{
  /** Where the customer sees the order. */
  permalinkUrl: string;
  /** Only for a caller that may read them. */
  shippingAddress?: ShippingAddress | undefined;
  contact?: Contact | undefined;
}>;

/** The order as the order object of the Universal Commerce Protocol. */
export function toUcpOrder(order: OrderView, context: UcpContext): UcpOrder {
  const lines = order.items.map((item) => toLine(item, order.status === 'cancelled'));
  const expectations = toExpectations(lines, context);
  return {
    ucp: {
      version: UCP_VERSION,
      status: 'success',
      capabilities: { [UCP_CAPABILITY]: [{ version: UCP_VERSION }] },
    },
    id: order.orderId,
    checkout_id: order.externalReference ?? order.orderId,
    permalink_url: context.permalinkUrl,
    currency: order.currency,
    line_items: lines,
    fulfillment: { ...(expectations && { expectations }), events: toEvents(order) },
    adjustments: toAdjustments(order),
    totals: toTotals(order),
  };
}

/** What came back is no longer fulfilled. Of a cancelled order only what has shipped is left. */
function toLine(item: OrderView['items'][number], isCancelled: boolean): UcpLine {
  const { lineId, sku, name, quantity, priceCents, shippedQuantity, returnedQuantity } = item;
  const fulfilled = shippedQuantity - returnedQuantity;
  const left = isCancelled ? fulfilled : quantity - returnedQuantity;
  const amount = quantity * priceCents;
  return {
    id: lineId,
    item: { id: sku, title: name ?? sku, price: priceCents },
    quantity: { original: quantity, total: left, fulfilled },
    totals: [
      { type: 'subtotal', amount },
      { type: 'total', amount },
    ],
    status: lineStatus(left, fulfilled),
  };
}

function lineStatus(left: number, fulfilled: number): UcpLine['status'] {
  if (left === 0) return 'removed';
  if (fulfilled === left) return 'fulfilled';
  return fulfilled > 0 ? 'partial' : 'processing';
}

/** One promise: everything that is left goes to the one address. */
function toExpectations(
  lines: readonly UcpLine[],
  { shippingAddress, contact }: UcpContext,
): UcpOrder['fulfillment']['expectations'] {
  const left = lines.filter(({ quantity }) => quantity.total > 0);
  if (shippingAddress === undefined || left.length === 0) return undefined;
  const { line1, line2, city, region, country, postalCode } = shippingAddress;
  const destination = {
    street_address: line1,
    ...(line2 !== undefined && { extended_address: line2 }),
    address_locality: city,
    ...(region !== undefined && { address_region: region }),
    address_country: country,
    postal_code: postalCode,
    ...(contact?.phone !== undefined && { phone_number: contact.phone }),
  };
  const items = left.map(({ id, quantity }) => ({ id, quantity: quantity.total }));
  return [{ id: 'shipping', line_items: items, method_type: 'shipping', destination }];
}

function toEvents({ parcels }: OrderView): UcpEvent[] {
  return parcels
    .flatMap(({ trackingNumber, carrier, items, shippedAt, deliveredAt }) => {
      const event = (type: UcpEvent['type'], at: string): UcpEvent => ({
        id: `${type}-${trackingNumber}`,
        type,
        occurred_at: at,
        line_items: items.map(({ lineId, quantity }) => ({ id: lineId, quantity })),
        tracking_number: trackingNumber,
        carrier,
      });
      const shipped = event('shipped', shippedAt);
      return deliveredAt === undefined ? [shipped] : [shipped, event('delivered', deliveredAt)];
    })
    .toSorted(byTime);
}

function toAdjustments(order: OrderView): UcpAdjustment[] {
  const { refunds, returns, placedAt, cancelledAt, reason } = order;
  const adjustments: UcpAdjustment[] = [];
  for (const refund of refunds) {
    adjustments.push({
      id: `refund-${refund.refundId}`,
      type: 'refund',
      // A refund has at least one of these times.
      occurred_at: refund.refundedAt ?? refund.failedAt ?? refund.requestedAt ?? placedAt,
      status: refundStatus[refund.state],
      totals: [{ type: 'total', amount: -refund.amountCents }],
      ...(refund.reason !== undefined && { description: refund.reason }),
    });
  }
  for (const each of returns) {
    adjustments.push({
      id: `return-${each.returnId}`,
      type: 'return',
      occurred_at: each.returnedAt,
      status: 'completed',
      line_items: each.items.map(({ lineId, quantity }) => ({ id: lineId, quantity: -quantity })),
      description: each.reason,
    });
  }
  if (cancelledAt !== undefined) {
    adjustments.push({
      id: 'cancellation',
      type: 'cancellation',
      occurred_at: cancelledAt,
      status: 'completed',
      line_items: unshipped(order).map(({ lineId, quantity }) => ({
        id: lineId,
        quantity: -quantity,
      })),
      ...(reason !== undefined && { description: reason }),
    });
  }
  return adjustments.toSorted(byTime);
}

const refundStatus = { requested: 'pending', refunded: 'completed', failed: 'failed' } as const;

/** All but the last add up to it. */
function toTotals({ items, shippingCents, taxCents, discountCents, totalCents }: OrderView) {
  const itemsCents = items.reduce((sum, item) => sum + item.quantity * item.priceCents, 0);
  const totals: UcpOrder['totals'] = [{ type: 'subtotal', amount: itemsCents }];
  if (discountCents > 0) totals.push({ type: 'discount', amount: -discountCents });
  if (shippingCents > 0) totals.push({ type: 'fulfillment', amount: shippingCents });
  if (taxCents > 0) totals.push({ type: 'tax', amount: taxCents });
  totals.push({ type: 'total', amount: totalCents });
  return totals;
}

/** Times are ISO 8601 in UTC with milliseconds, so they sort as text. */
function byTime(one: Readonly<{ occurred_at: string }>, other: typeof one): number {
  if (one.occurred_at === other.occurred_at) return 0;
  return one.occurred_at < other.occurred_at ? -1 : 1;
}
