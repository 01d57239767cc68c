import type { LineQuantity, OrderEvent, OrderEventData, OrderItem } from './order-events.ts';
import { isOver } from './order.ts';
import type { Order } from './order.ts';

type Placed = OrderEventData<'OrderPlaced'>;

/** What callers can ask of an order. */
export type OrderCommand =
  /** The rules number the lines and sum the total. `sagaId` starts its fulfilment at once, under this id. */
  | Readonly<
      { type: 'PlaceOrder'; items: readonly Omit<OrderItem, 'lineId'>[]; sagaId?: string } & Omit<
        Placed,
        'items' | 'totalCents'
      >
    >
  | Readonly<{ type: 'PayOrder'; paymentId: string; amountCents: number }>
  /** Without `items`, everything that is left. */
  | Readonly<
      {
        type: 'ShipOrder';
        items?: readonly LineQuantity[] | undefined;
      } & OrderEventData<'OrderShipped'>
    >
  | Readonly<{ type: 'DeliverParcel'; trackingNumber: string }>
  | Readonly<{ type: 'ReturnItems' } & OrderEventData<'ItemsReturned'>>
  | Readonly<{ type: 'CancelOrder'; reason: string }>
  /**
   * Without a `paymentId` the rules choose the payment that is refunded. `recordOnly`: the refund has already
   * been made. `sagaId` is for the saga that asks the provider, if it must be asked.
   */
  | Readonly<{
      type: 'RefundOrder';
      refundId: string;
      amountCents: number;
      paymentId?: string | undefined;
      reason?: string | undefined;
      returnId?: string | undefined;
      recordOnly?: boolean | undefined;
      sagaId: string;
    }>
  | Readonly<{ type: 'FulfilOrder'; sagaId: string }>
  /** The address itself is stored apart from the events. */
  | Readonly<{ type: 'ChangeShippingAddress' }>
  | Readonly<{ type: 'ErasePersonalData' }>;

/** What the sagas of an order report. What has happened outside of the service is recorded in every state. */
export type FulfilmentCommand =
  | Readonly<{ type: 'RecordPayment' } & OrderEventData<'PaymentCaptured'>>
  /** `capturedPaymentId`: the payment that the saga captured. */
  | Readonly<{ type: 'RequestShipment'; capturedPaymentId?: string }>
  | Readonly<{
      type: 'RecordShipment';
      parcels: readonly Readonly<
        { items?: readonly LineQuantity[] | undefined } & OrderEventData<'OrderShipped'>
      >[];
    }>
  | Readonly<{ type: 'RecordRefund'; refundId: string; amountCents: number; paymentId: string }>
  | Readonly<{ type: 'FailRefund' } & OrderEventData<'RefundFailed'>>
  | Readonly<{ type: 'FinishCancellation'; reason: string }>;

export type Command = OrderCommand | FulfilmentCommand;
export type ChangingCommand = Exclude<Command, { type: 'PlaceOrder' }>;
export type CommandOf<Type> = Extract<Command, { type: Type }>;

/** Why a command is refused. The HTTP status of each code is in `order-problems.ts`. */
export type RejectionCode =
  | 'order_not_found'
  | 'order_already_placed'
  | 'order_already_paid'
  | 'order_not_paid'
  | 'order_already_shipped'
  | 'order_partly_shipped'
  | 'order_cancelled'
  | 'total_too_large'
  | 'discount_exceeds_total'
  | 'reference_taken'
  | 'payment_amount_mismatch'
  | 'payment_id_taken'
  | 'too_many_payments'
  | 'refund_exceeds_captured'
  | 'refund_id_taken'
  | 'too_many_refunds'
  | 'line_not_found'
  | 'shipment_exceeds_ordered'
  | 'tracking_number_taken'
  | 'too_many_parcels'
  | 'parcel_not_found'
  | 'return_exceeds_shipped'
  | 'return_id_taken'
  | 'return_not_found'
  | 'too_many_returns'
  | 'fulfilment_running'
  | 'shipping_address_missing'
  | 'payment_method_missing'
  | 'personal_data_erased'
  | 'cancellation_requested'
  | 'shipment_requested'
  /** The version of the order is not the one in If-Match. */
  | 'version_mismatch'
  /** The command lost too many races. */
  | 'version_conflict';

/** What the caller is told beside the code: what is left, or which order is meant. */
export type RefusalDetails = Readonly<
  Partial<{
    refundableCents: number;
    lines: readonly Readonly<{ lineId: string; left: number }>[];
    /** The order that has the reference already. */
    orderId: string;
  }>
>;

export type Refusal = Readonly<{ code: RejectionCode; details?: RefusalDetails }>;

export function refuse(code: RejectionCode, details: RefusalDetails): Refusal {
  return { code, details };
}

/** What the rules say of one type of command. */
export type Rule<Command> = {
  /** Last part of the route, for commands of callers. */
  route?: string;
  /** Whether the command is listed among those that are allowed now. */
  isAllowed?: (order: Order) => boolean;
  isDuplicate(order: Order, command: Command): boolean;
  /** The events that the command causes, or why it is refused. */
  decide(order: Order, command: Command): OrderEvent[] | RejectionCode | Refusal;
};

export type RulesOf<Types extends ChangingCommand['type']> = Readonly<{
  [Type in Types]: Rule<CommandOf<Type>>;
}>;

export function isByHand(order: Order): boolean {
  return order.fulfilment === undefined;
}

export function isRunByASaga(order: Order): boolean {
  return !isByHand(order) && !isOver(order);
}
