import type { OrderCommand } from '#src/orders/domain/order-commands.ts';
import type { OrderEvent } from '#src/orders/domain/order-events.ts';
import { evolve, recordNext } from '#src/orders/domain/order.ts';
import type { Order } from '#src/orders/domain/order.ts';

export const orderId = '01999e5c-7c1f-7d3a-9f52-3b6f0c9d2a11';
export const totalCents = 2500;

const items = [{ sku: 'book', quantity: 2, priceCents: 1250 }];
const lines = items.map((item, index) => ({ lineId: String(index + 1), ...item }));
const given = { hasShippingAddress: true, hasPaymentMethod: true } as const;

export const place: OrderCommand = {
  type: 'PlaceOrder',
  orderId,
  customerId: 'c-1',
  currency: 'EUR',
  items,
  ...given,
};
export const pay: OrderCommand = { type: 'PayOrder', paymentId: 'pay-1', amountCents: totalCents };
export const ship: OrderCommand = { type: 'ShipOrder', trackingNumber: 'T-1', carrier: 'post' };
export const cancel: OrderCommand = { type: 'CancelOrder', reason: 'changed my mind' };
export const refund: OrderCommand = {
  type: 'RefundOrder',
  refundId: 'ref-1',
  amountCents: totalCents,
  sagaId: 'refund-1',
};
export const fulfil: OrderCommand = { type: 'FulfilOrder', sagaId: 'saga-1' };

export const placedFor = (totalCents: number): OrderEvent => ({
  type: 'OrderPlaced',
  data: { orderId, customerId: 'c-1', currency: 'EUR', items: lines, totalCents, ...given },
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
export const parcelShipped: OrderEvent = {
  type: 'ParcelShipped',
  data: { trackingNumber: 'T-0', carrier: 'post', items: [{ lineId: '1', quantity: 1 }] },
};
export const parcelDelivered: OrderEvent = {
  type: 'ParcelDelivered',
  data: { trackingNumber: 'T-1' },
};
export const itemsReturned: OrderEvent = {
  type: 'ItemsReturned',
  data: {
    returnId: 'ret-1',
    items: [{ lineId: '1', quantity: 1 }],
    reason: 'too small',
    restock: true,
  },
};
export const refundRequested: OrderEvent = {
  type: 'RefundRequested',
  data: { refundId: 'ref-1', amountCents: totalCents, paymentId: 'pay-1', sagaId: 'refund-1' },
};
export const refundFailed: OrderEvent = {
  type: 'RefundFailed',
  data: { refundId: 'ref-1', reason: 'refund_refused' },
};
export const shippingAddressChanged: OrderEvent = { type: 'ShippingAddressChanged', data: {} };
export const personalDataErased: OrderEvent = { type: 'PersonalDataErased', data: {} };

/** The order after one more event, which is recorded at a fixed time. */
export function next(order: Order | null, event: OrderEvent): Order {
  return evolve(order, recordNext(order, event, '2026-01-31T12:00:00.000Z'));
}
