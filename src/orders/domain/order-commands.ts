import type { OrderItem } from './order-events.ts';

/** What a person or a program may ask of an order. */
export type OrderCommand =
  | Readonly<{
      type: 'PlaceOrder';
      orderId: string;
      customerId: string;
      currency: string;
      items: OrderItem[];
      /** Starts its fulfilment at once, under this id. */
      sagaId?: string;
    }>
  /** Reports a payment that has happened. */
  | Readonly<{ type: 'PayOrder'; paymentId: string; amountCents: number }>
  | Readonly<{ type: 'ShipOrder'; trackingNumber: string; carrier: string }>
  | Readonly<{ type: 'CancelOrder'; reason: string }>
  /** `paymentId`: the payment that it gives back, where that is not left to the rules. */
  | Readonly<{
      type: 'RefundOrder';
      refundId: string;
      amountCents: number;
      paymentId?: string | undefined;
    }>
  | Readonly<{ type: 'FulfilOrder'; sagaId: string }>;

/** What the saga of an order reports. Facts about the outside world are taken whenever they come. */
export type FulfilmentCommand =
  | Readonly<{ type: 'RecordPayment'; paymentId: string; amountCents: number }>
  | Readonly<{ type: 'RequestShipment' }>
  | Readonly<{ type: 'RecordShipment'; trackingNumber: string; carrier: string }>
  | Readonly<{ type: 'RecordRefund'; refundId: string; amountCents: number; paymentId: string }>
  | Readonly<{ type: 'FinishCancellation'; reason: string }>;
