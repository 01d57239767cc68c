import type { EventMetadata, OutboxMessageRow } from '#src/event-store/event-store.ts';
import { murmur2 } from '#src/outbox/outbox.ts';
import type { OrderEventType } from './domain/order-events.ts';
import { ORDER_CATEGORY } from './order-event-codec.ts';
import type { RecordedOrderEvent } from './order-view.ts';

/** The public name of each event: what consumers see, whatever the event is called inside. */
export const MESSAGE_TYPES: Readonly<Record<OrderEventType, string>> = {
  OrderPlaced: 'order.placed.v1',
  PaymentCaptured: 'order.payment_captured.v1',
  OrderShipped: 'order.shipped.v1',
  OrderCancelled: 'order.cancelled.v1',
  PaymentRefunded: 'order.payment_refunded.v1',
  FulfilmentStarted: 'order.fulfilment_started.v1',
  CancellationRequested: 'order.cancellation_requested.v1',
  ShipmentRequested: 'order.shipment_requested.v1',
};

export const MESSAGE_SOURCE = '/order-service';
/** CloudEvents compares sequences as text, so they are padded to the digits of the largest version. */
const SEQUENCE_DIGITS = 10;

/** The message of one event: CloudEvents 1.0 in binary mode, key = order id. */
export function toMessageRow(
  orderId: string,
  { type, data, version, recordedAt }: RecordedOrderEvent,
  { traceparent }: EventMetadata,
  topic: string,
): OutboxMessageRow {
  return {
    aggregate_type: ORDER_CATEGORY,
    aggregate_id: orderId,
    event_type: type,
    stream_version: version,
    topic,
    message_key: orderId,
    key_hash: murmur2(orderId),
    ce_id: `${orderId}-${version}`,
    ce_type: MESSAGE_TYPES[type],
    ce_source: MESSAGE_SOURCE,
    ce_time: recordedAt,
    ce_subject: orderId,
    ce_sequence: String(version).padStart(SEQUENCE_DIGITS, '0'),
    traceparent: traceparent ?? null,
    payload: JSON.stringify({ orderId, version, recordedAt, ...data }),
  };
}
