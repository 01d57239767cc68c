import { z } from 'zod';
import { cursorText, instant, queryInteger, safeText, uuid } from '#src/http/fields.ts';
import { orderView } from './domain/order.ts';

const PAGE_MAX = 100;
const PAGE_DEFAULT = 25;

export const orderParams = z.strictObject({ orderId: uuid });

export const getOrderQuery = z
  .strictObject({
    version: queryInteger(1, 2_147_483_647)
      .optional()
      .meta({ description: 'Read the order as it was at this version. Not together with `at`.' }),
    at: instant
      .optional()
      .meta({ description: 'Read the order as it was at this time. Not together with `version`.' }),
  })
  .refine(({ version, at }) => version === undefined || at === undefined, {
    error: 'version and at exclude each other',
    path: ['at'],
  });

export const listOrdersQuery = z.strictObject({
  customerId: safeText(1, 64).optional(),
  status: orderView.shape.status.optional(),
  placedFrom: instant.optional(),
  placedTo: instant.optional(),
  limit: queryInteger(1, PAGE_MAX).default(PAGE_DEFAULT),
  cursor: cursorText(1000).optional(),
});

/** What a list is narrowed to. Bounds on `placedAt` are inclusive. */
export type OrderFilter = Omit<z.infer<typeof listOrdersQuery>, 'limit' | 'cursor'>;

const summaryExample = {
  orderId: '01999e5c-7c1f-7d3a-9f52-3b6f0c9d2a11',
  customerId: 'c-1',
  status: 'paid',
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
const orderExample = {
  ...summaryExample,
  items: [{ sku: 'book', quantity: 2, priceCents: 1250 }],
  paymentId: 'pay-1',
};

/** An order in a response. */
export const orderResponse = orderView.meta({ id: 'Order', examples: [orderExample] });

/** An order in a list, without its items. */
export const orderSummary = orderResponse
  .pick({
    orderId: true,
    customerId: true,
    status: true,
    currency: true,
    itemCount: true,
    totalCents: true,
    capturedCents: true,
    refundedCents: true,
    owedCents: true,
    version: true,
    placedAt: true,
    paidAt: true,
    shippedAt: true,
    trackingNumber: true,
    cancelledAt: true,
    fulfilment: true,
  })
  .meta({ id: 'OrderSummary', examples: [summaryExample] });

export type OrderSummary = z.infer<typeof orderSummary>;

export const orderPage = z.object({
  data: z.array(orderSummary),
  nextCursor: z.string().nullable(),
});

export type OrderPage = z.infer<typeof orderPage>;

export const orderEvents = z.object({
  data: z.array(
    z.object({
      version: z.int().min(1),
      position: z.int(),
      type: z.string(),
      schemaVersion: z.int(),
      data: z.record(z.string(), z.unknown()),
      metadata: z.object({
        correlationId: z.string(),
        causationId: z.string().optional(),
        actor: z.string(),
        traceparent: z.string().optional(),
      }),
      recordedAt: instant,
    }),
  ),
});
