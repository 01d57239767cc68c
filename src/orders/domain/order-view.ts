import { z } from 'zod';

const id = z.string().meta({ format: 'uuid', examples: ['01999e5c-7c1f-7d3a-9f52-3b6f0c9d2a11'] });
const instant = z.string().meta({ format: 'date-time', examples: ['2026-01-31T12:00:00.000Z'] });
const cents = z.int().min(0).max(Number.MAX_SAFE_INTEGER);
const pieces = z.int().min(0);
const lineQuantity = z.object({ lineId: z.string(), quantity: z.int().min(1) });

const line = z.object({
  lineId: z.string().describe('Names the line in ship and return.'),
  sku: z.string(),
  name: z.string().optional(),
  quantity: z.int().min(1),
  priceCents: cents,
  shippedQuantity: pieces,
  returnedQuantity: pieces,
});

const payment = z.object({
  paymentId: z.string(),
  amountCents: cents,
  source: z
    .enum(['reported', 'fulfilment'])
    .describe('Who captured it: somebody who reported it, or the automatic fulfilment.'),
  capturedAt: instant,
});

const refund = z.object({
  refundId: z.string(),
  amountCents: cents,
  paymentId: z.string(),
  state: z
    .enum(['requested', 'refunded', 'failed'])
    .describe('requested: the provider has not confirmed it yet. failed: the provider refused it.'),
  reason: z.string().optional(),
  returnId: z.string().optional(),
  sagaId: id.optional().describe('The saga that asks the provider.'),
  requestedAt: instant.optional(),
  refundedAt: instant.optional(),
  failedAt: instant.optional(),
  failure: z.string().optional().describe('Why the provider refused it.'),
});

const parcel = z.object({
  trackingNumber: z.string(),
  carrier: z.string(),
  items: z.array(lineQuantity),
  shippedAt: instant,
  deliveredAt: instant.optional(),
});

const itemReturn = z.object({
  returnId: z.string(),
  items: z.array(lineQuantity),
  reason: z.string(),
  restock: z.boolean().describe('Whether the items were put back into the stock.'),
  returnedAt: instant,
});

/**
 * An order as callers see it: the body of every response that shows one. Fields that are not set are absent.
 * Times are ISO 8601 in UTC, amounts in the minor unit of the currency.
 */
export const orderView = z.object({
  orderId: id,
  customerId: z.string(),
  externalReference: z.string().optional().describe('What the caller calls the order.'),
  status: z.enum(['pending', 'paid', 'shipped', 'cancelled']),
  paymentStatus: z.enum(['unpaid', 'paid', 'partially_refunded', 'refunded']),
  shipmentStatus: z.enum(['unshipped', 'partially_shipped', 'shipped', 'delivered', 'returned']),
  currency: z.string(),
  items: z.array(line),
  itemCount: z.int().min(1).describe('Number of entries in items.'),
  shippingCents: cents,
  taxCents: cents,
  discountCents: cents,
  totalCents: cents.describe('Items plus shipping and tax, minus the discount.'),
  metadata: z.record(z.string(), z.string()).optional(),
  version: z.int().min(1).describe('Number of the last event of the order.'),
  placedAt: instant,
  paidAt: instant.optional().describe('When the payments covered the total.'),
  paymentId: z.string().optional().describe('The payment that covered the total.'),
  shippedAt: instant.optional().describe('When the last parcel left.'),
  trackingNumber: z.string().optional().describe('Of the last parcel.'),
  carrier: z.string().optional().describe('Of the last parcel.'),
  cancelledAt: instant.optional(),
  reason: z.string().optional().describe('Why the order was cancelled.'),
  refundAmountCents: cents.optional().describe('Captured before the order was cancelled.'),
  capturedCents: cents.describe('All payments together.'),
  refundedCents: cents.describe('All refunds together.'),
  owedCents: cents.describe('What must still be paid back to the customer.'),
  payments: z.array(payment),
  refunds: z.array(refund),
  parcels: z.array(parcel),
  returns: z.array(itemReturn),
  fulfilment: z
    .enum(['running', 'compensating', 'completed', 'compensated', 'stuck'])
    .optional()
    .describe('State of the automatic fulfilment. Absent if the order is fulfilled by hand.'),
  cancellationRequestedAt: instant.optional(),
  personalDataErasedAt: instant.optional(),
});
