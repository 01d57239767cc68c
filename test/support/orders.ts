import type { OrderCommand } from '#src/orders/domain/order-commands.ts';
import type { OrderEvent } from '#src/orders/domain/order-events.ts';
import { evolve, recordNext } from '#src/orders/domain/order.ts';
import type { Order } from '#src/orders/domain/order.ts';

export const orderId = '01999e5c-7c1f-7d3a-9f52-3b6f0c9d2a11';
export const totalCents = 2500;

const items = [{ sku: 'book', quantity: 2, priceCents: 1250 }];

export const place: OrderCommand = {
  type: 'PlaceOrder',
  orderId,
  customerId: 'c-1',
  currency: 'EUR',
  items,
};
export const pay: OrderCommand = { type: 'PayOrder', paymentId: 'pay-1', amountCents: totalCents };
export const ship: OrderCommand = { type: 'ShipOrder', trackingNumber: 'T-1', carrier: 'post' };
export const cancel: OrderCommand = { type: 'CancelOrder', reason: 'changed my mind' };
export const refund: OrderCommand = {
  type: 'RefundOrder',
  refundId: 'ref-1',
  amountCents: totalCents,
};
export const fulfil: OrderCommand = { type: 'FulfilOrder', sagaId: 'saga-1' };

export const placedFor = (totalCents: number): OrderEvent => ({
  type: 'OrderPlaced',
  data: { orderId, customerId: 'c-1', currency: 'EUR', items, totalCents },
});
export const placed = placedFor(totalCents);
export const paid: OrderEvent = {
  type: 'PaymentCaptured',
  data: { amountCents: totalCents, paymentId: 'pay-1' },
};
export const shipped: OrderEvent = {
  type: 'OrderShipped',
  data: { trackingNumber: 'T-1', carrier: 'post' },
};
export const cancelled = (refundAmountCents: number): OrderEvent => ({
  type: 'OrderCancelled',
  data: { reason: 'changed my mind', refundAmountCents },
});
export const refunded: OrderEvent = {
  type: 'PaymentRefunded',
  data: { refundId: 'ref-1', amountCents: totalCents, paymentId: 'pay-1' },
};
export const fulfilmentStarted: OrderEvent = {
  type: 'FulfilmentStarted',
  data: { sagaId: 'saga-1' },
};
export const cancellationRequested: OrderEvent = {
  type: 'CancellationRequested',
  data: { reason: 'changed my mind' },
};
export const shipmentRequested: OrderEvent = { type: 'ShipmentRequested', data: {} };

/** The order after one more event, which is recorded at a fixed time. */
export function next(order: Order | null, event: OrderEvent): Order {
  return evolve(order, recordNext(order, event, '2026-01-31T12:00:00.000Z'));
}
