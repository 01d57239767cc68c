import type { Access, Scope } from '#src/auth/principal.ts';

/** For services only. */
export const services = (scope: Scope): Access => ({ scope, customers: false });
/** For services, and for customers on their own orders. */
export const everybody = (scope: Scope): Access => ({ scope, customers: true });

/**
 * Who may call each operation, listed once more: one that is added, or whose access changes, fails the tests until it is
 * changed here as well.
 */
export const ACCESS: Readonly<Record<string, Access>> = {
  placeOrder: everybody('orders:write'),
  payOrder: services('orders:write'),
  shipOrder: services('orders:write'),
  deliverParcel: services('orders:write'),
  returnItems: services('orders:write'),
  cancelOrder: everybody('orders:write'),
  refundOrder: services('orders:write'),
  fulfilOrder: services('orders:write'),
  changeShippingAddress: everybody('orders:write'),
  erasePersonalDataOfOrder: services('personal-data:erase'),
  erasePersonalDataOfCustomer: services('personal-data:erase'),
  getOrder: everybody('orders:read'),
  listOrders: everybody('orders:read'),
  listOrderEvents: everybody('orders:read'),
  getFulfilment: everybody('orders:read'),
  retryFulfilment: services('fulfilment:operate'),
  resolveFulfilment: services('fulfilment:operate'),
  listRefunds: everybody('orders:read'),
  getRefund: everybody('orders:read'),
  retryRefund: services('fulfilment:operate'),
  resolveRefund: services('fulfilment:operate'),
  getStock: services('stock:read'),
  listStock: services('stock:read'),
  setStock: services('stock:write'),
  adjustStock: services('stock:write'),
  livez: 'public',
  readyz: 'public',
  metrics: 'public',
  openapi: 'public',
  asyncapi: 'public',
};
