import { z } from 'zod';
import { uuid } from '#src/http/fields.ts';
import { orderView } from './domain/order.ts';

export const orderParams = z.strictObject({ orderId: uuid });

export const orderExample = {
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
  items: [{ sku: 'book', quantity: 2, priceCents: 1250 }],
  paymentId: 'pay-1',
};

/** An order in a response. */
export const orderResponse = orderView.meta({ id: 'Order', examples: [orderExample] });
