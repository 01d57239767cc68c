/** One line of an order. A sku may stand in several lines. */
export type OrderItem = Readonly<{ sku: string; quantity: number; priceCents: number }>;

/**
 * What has happened to an order. Stored for ever: a field may be added, never renamed or given
 * another meaning. Money is in the minor unit of the order's currency.
 */
export type OrderEvent =
  | Readonly<{
      type: 'OrderPlaced';
      data: Readonly<{
        orderId: string;
        customerId: string;
        currency: string;
        items: readonly OrderItem[];
        totalCents: number;
      }>;
    }>
  /** Money was taken, whatever the order was by then. What exceeds what it may keep is owed back. */
  | Readonly<{
      type: 'PaymentCaptured';
      data: Readonly<{ amountCents: number; paymentId: string }>;
    }>
  | Readonly<{ type: 'OrderShipped'; data: Readonly<{ trackingNumber: string; carrier: string }> }>
  /**
   * `refundAmountCents` is all that was captured so far. What is still owed is that less what was given
   * back, and what is captured later.
   */
  | Readonly<{
      type: 'OrderCancelled';
      data: Readonly<{ reason: string; refundAmountCents: number }>;
    }>
  /** What was given back. */
  | Readonly<{
      type: 'PaymentRefunded';
      data: Readonly<{ refundId: string; amountCents: number; paymentId: string }>;
    }>
  /** From here on the saga pays and ships, and nobody does so by hand. */
  | Readonly<{ type: 'FulfilmentStarted'; data: Readonly<{ sagaId: string }> }>
  /** The saga undoes what it did; `OrderCancelled` follows when it has. */
  | Readonly<{ type: 'CancellationRequested'; data: Readonly<{ reason: string }> }>
  /** The saga is about to call the carrier: from here on the order cannot be cancelled. */
  | Readonly<{ type: 'ShipmentRequested'; data: Readonly<Record<string, never>> }>;

export type OrderEventType = OrderEvent['type'];
