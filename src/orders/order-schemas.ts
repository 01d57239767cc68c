import { z } from 'zod';
import { currencyCode, pathText, safeText, skuText, uuid } from '#src/http/fields.ts';
import { orderView } from './domain/order-view.ts';
import {
  contact,
  paymentMethod,
  shippingAddress,
  storedAddress,
  storedContact,
} from './personal-data.ts';
import { toUcpOrder, ucpOrder } from './ucp-order.ts';

const ITEMS_MAX = 200;
const QUANTITY_MAX = 100_000;
const PRICE_CENTS_MAX = 1_000_000_000_000;
const METADATA_MAX = 20;

export const orderParams = z.strictObject({ orderId: uuid });

/** An id that a caller gives to a payment, a parcel, a return or a refund. */
const reference = safeText(1, 100);
const lineId = safeText(1, 64);
const reason = safeText(1, 500).describe('Published with the event, so not for personal data.');
const cents = (min: number) => z.int().min(min).max(Number.MAX_SAFE_INTEGER);
const price = z.int().min(0).max(PRICE_CENTS_MAX);

const orderItem = z.strictObject({
  sku: skuText,
  name: safeText(1, 200).optional().describe('What the article is called.'),
  quantity: z.int().min(1).max(QUANTITY_MAX),
  priceCents: price.describe('Price of one.'),
});

const metadata = z
  .record(safeText(1, 40), safeText(0, 500))
  .refine((pairs) => Object.keys(pairs).length <= METADATA_MAX, {
    error: `must have at most ${METADATA_MAX} members`,
  })
  .meta({
    maxProperties: METADATA_MAX,
    description:
      'Notes of the caller, shown with the order and published with OrderPlaced. Not for personal data.',
  });

export const placeOrderBody = z
  .strictObject({
    customerId: safeText(1, 64),
    currency: currencyCode,
    items: z.array(orderItem).min(1).max(ITEMS_MAX),
    shippingCents: price.default(0).describe('Price of the shipping.'),
    taxCents: price.default(0).describe('Tax on top of the prices.'),
    discountCents: price.default(0).describe('Taken off the sum of all others.'),
    payment: z
      .strictObject({
        method: paymentMethod.describe(
          'Opaque token of the payment provider, which the automatic fulfilment captures with. Never shown.',
        ),
      })
      .optional(),
    shippingAddress: shippingAddress.optional(),
    contact: contact.optional(),
    externalReference: safeText(1, 100)
      .optional()
      .describe('What you call the order. A second order of yours with it is refused.'),
    metadata: metadata.optional(),
    fulfilment: z
      .enum(['manual', 'automatic'])
      .default('manual')
      .describe(
        'automatic: the service reserves the stock, captures the payment and ships by itself. It needs ' +
          'shippingAddress, and payment if the total is above 0.',
      ),
  })
  .meta({
    examples: [
      {
        customerId: 'c-1',
        currency: 'EUR',
        items: [{ sku: 'book', name: 'A book', quantity: 2, priceCents: 1000 }],
        shippingCents: 500,
        payment: { method: 'pm_card_ok' },
        shippingAddress: {
          name: 'Ada Example',
          line1: '1 Sample Street',
          postalCode: '10115',
          city: 'Berlin',
          country: 'DE',
        },
        contact: { email: 'ada@example.com' },
        externalReference: 'shop-1001',
      },
    ],
  });

/** Parts of lines. Each line occurs once. */
const lineQuantities = z
  .array(z.strictObject({ lineId, quantity: z.int().min(1).max(QUANTITY_MAX) }))
  .min(1)
  .max(ITEMS_MAX)
  .refine((items) => new Set(items.map((item) => item.lineId)).size === items.length, {
    error: 'must name each line once',
  });

/** The bodies of the commands on an order, by the last part of their path. */
export const commandBodies = {
  pay: z.strictObject({ paymentId: reference, amountCents: cents(0) }),
  ship: z.strictObject({
    trackingNumber: reference,
    carrier: reference,
    items: lineQuantities
      .optional()
      .describe('What the parcel holds. By default all that is left.'),
  }),
  deliver: z.strictObject({ trackingNumber: reference }),
  return: z.strictObject({
    returnId: reference,
    items: lineQuantities,
    reason,
    restock: z.boolean().default(false).describe('Whether the items go back into the stock.'),
  }),
  cancel: z.strictObject({ reason }),
  refund: z.strictObject({
    refundId: pathText(1, 100),
    amountCents: cents(1),
    paymentId: reference
      .optional()
      .describe('The payment that is refunded. By default the newest one with enough left.'),
    reason: reason.optional(),
    returnId: reference.optional().describe('The return that it is refunded for.'),
    recordOnly: z
      .boolean()
      .default(false)
      .describe('The refund has been made elsewhere: record it, and do not ask the provider.'),
  }),
};

const shown = {
  orderId: '01999e5c-7c1f-7d3a-9f52-3b6f0c9d2a11',
  customerId: 'c-1',
  externalReference: 'shop-1001',
  status: 'paid',
  paymentStatus: 'paid',
  shipmentStatus: 'unshipped',
  currency: 'EUR',
  itemCount: 1,
  totalCents: 2500,
  version: 2,
  placedAt: '2026-01-31T12:00:00.000Z',
  paidAt: '2026-01-31T12:00:05.000Z',
  capturedCents: 2500,
  refundedCents: 0,
  owedCents: 0,
};

/** An order in a list. */
export const orderSummaryExample = shown;

export const orderExample = {
  ...shown,
  items: [
    {
      lineId: '1',
      sku: 'book',
      name: 'A book',
      quantity: 2,
      priceCents: 1000,
      shippedQuantity: 0,
      returnedQuantity: 0,
    },
  ],
  shippingCents: 500,
  taxCents: 0,
  discountCents: 0,
  paymentId: 'pay-1',
  payments: [
    {
      paymentId: 'pay-1',
      amountCents: 2500,
      source: 'reported',
      capturedAt: '2026-01-31T12:00:05.000Z',
    },
  ],
  refunds: [],
  parcels: [],
  returns: [],
};

/** An order in a response. */
export const orderResponse = orderView.meta({ id: 'Order', examples: [orderExample] });

/** The same order as UCP's order object. */
export const ucpOrderResponse = ucpOrder.meta({
  id: 'UcpOrder',
  examples: [
    toUcpOrder(orderView.parse(orderExample), {
      permalinkUrl: `https://shop.example/orders/${orderExample.orderId}`,
    }),
  ],
});

/** An order as it is read now, with its personal data for those who may read it. */
export const readOrderResponse = orderView
  .extend({
    shippingAddress: storedAddress.optional(),
    contact: storedContact.optional(),
  })
  .meta({
    id: 'OrderWithPersonalData',
    examples: [
      {
        ...orderExample,
        shippingAddress: {
          name: 'Ada Example',
          line1: '1 Sample Street',
          postalCode: '10115',
          city: 'Berlin',
          country: 'DE',
        },
        contact: { email: 'ada@example.com' },
      },
    ],
  });
