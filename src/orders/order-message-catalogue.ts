import { z } from 'zod';
import type { ChannelSpec, MessageSpec } from '#src/http/asyncapi.ts';
import { instant, uuid } from '#src/http/fields.ts';
import { messageFrom } from '#src/outbox/outbox.ts';
import type { OrderEvent, OrderEventType } from './domain/order-events.ts';
import { orderEventData } from './order-event-codec.ts';
import { MESSAGE_SOURCE, MESSAGE_TYPES, toMessageRow } from './order-messages.ts';

const ORDER_ID = '01999e5c-7c1f-7d3a-9f52-3b6f0c9d2a11';
const RECORDED_AT = '2026-01-31T12:00:00.000Z';
const TRACEPARENT = '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01';
/** The defaults of these columns of the outbox. */
const COLUMN_DEFAULTS = { ce_specversion: '1.0', content_type: 'application/json' } as const;

const PROMISE =
  'Every event of an order is published at least once. The key of a message is the order id, so all ' +
  'messages of an order are in one partition. The first occurrences of the messages of an order come in ' +
  'the order of their versions. Messages of different orders have no order among each other.\n\n' +
  'A message can come more than once. To ignore duplicates, remember the highest version that you have ' +
  'processed for each order, and skip every message that is not above it. `ce_sequence` holds the ' +
  'version, padded with zeros so that it sorts as text.\n\n' +
  'A message that an operator skips is never published, so a consumer may see a gap in the versions. ' +
  'Payloads may gain fields in later releases. Existing fields keep their names and meanings.';

/** An event as consumers see it, with an example and the version of the example. */
type Described<Event> = Readonly<{
  title: string;
  summary: string;
  version: number;
  example: Event;
}>;

const described: Readonly<{
  [Type in OrderEventType]: Described<Extract<OrderEvent, { type: Type }>>;
}> = {
  OrderPlaced: {
    title: 'Order placed',
    summary: 'An order was placed.',
    version: 1,
    example: {
      type: 'OrderPlaced',
      data: {
        orderId: ORDER_ID,
        customerId: 'c-1',
        currency: 'EUR',
        items: [{ sku: 'book', quantity: 2, priceCents: 1250 }],
        totalCents: 2500,
      },
    },
  },
  PaymentCaptured: {
    title: 'Payment captured',
    summary:
      'A payment was captured. An order can have several payments and is paid once they cover its total. ' +
      'What exceeds the total must be paid back; if the order is already cancelled, everything must. ' +
      'amountCents is 0 for an order that costs nothing.',
    version: 2,
    example: { type: 'PaymentCaptured', data: { amountCents: 2500, paymentId: 'pay-1' } },
  },
  OrderShipped: {
    title: 'Order shipped',
    summary: 'The parcel has left.',
    version: 3,
    example: { type: 'OrderShipped', data: { trackingNumber: 'T-1', carrier: 'post' } },
  },
  OrderCancelled: {
    title: 'Order cancelled',
    summary:
      'The order was cancelled. What must still be paid back is refundAmountCents, plus what is captured ' +
      'later, minus what has been refunded.',
    version: 3,
    example: {
      type: 'OrderCancelled',
      data: { reason: 'changed my mind', refundAmountCents: 2500 },
    },
  },
  PaymentRefunded: {
    title: 'Payment refunded',
    summary: 'All or part of a payment was refunded to the customer.',
    version: 4,
    example: {
      type: 'PaymentRefunded',
      data: { refundId: 'ref-1', amountCents: 2500, paymentId: 'pay-1' },
    },
  },
  FulfilmentStarted: {
    title: 'Fulfilment started',
    summary:
      'The automatic fulfilment has started: it reserves the stock, captures the payment and ships.',
    version: 2,
    example: {
      type: 'FulfilmentStarted',
      data: { sagaId: '01999e5c-7c1f-7d3a-9f52-3b6f0c9d2a12' },
    },
  },
  CancellationRequested: {
    title: 'Cancellation requested',
    summary: 'The fulfilment is being undone. The order is cancelled once that is done.',
    version: 3,
    example: { type: 'CancellationRequested', data: { reason: 'changed my mind' } },
  },
  ShipmentRequested: {
    title: 'Shipment requested',
    summary: 'The carrier is about to be asked to ship. From now on the order cannot be cancelled.',
    version: 4,
    example: { type: 'ShipmentRequested', data: {} },
  },
};

/** Everything that is published about orders, for the AsyncAPI document and /docs/events. */
export function orderMessageChannel(
  topic: string,
  newTopic: Readonly<{ partitions: number; replication: number }>,
): ChannelSpec {
  return {
    name: 'order.events',
    title: 'Order events',
    description: PROMISE,
    topic,
    newTopic,
    key: uuid.describe('The order id.'),
    messages: Object.values(described).map((one) => toMessageSpec(one, topic)),
  };
}

function toMessageSpec(
  { title, summary, version, example }: Described<OrderEvent>,
  topic: string,
): MessageSpec {
  const { type } = example;
  const recorded = { ...example, version, recordedAt: RECORDED_AT };
  const metadata = { correlationId: '', actor: '', traceparent: TRACEPARENT };
  const row = toMessageRow(ORDER_ID, recorded, metadata, topic);
  const { headers, value } = messageFrom({ ...row, ...COLUMN_DEFAULTS });
  return {
    name: MESSAGE_TYPES[type],
    title,
    summary,
    headers: headersOf(type),
    payload: z.object({
      orderId: uuid.describe('The order.'),
      version: z.int().min(1).describe('Number of the event in the order, from 1.'),
      recordedAt: instant.describe('When the event was recorded.'),
      ...orderEventData[type].shape,
    }),
    example: { headers, payload: JSON.parse(value) },
  };
}

/** CloudEvents 1.0 in binary mode. */
function headersOf(type: OrderEventType) {
  return z.object({
    ce_specversion: z.literal(COLUMN_DEFAULTS.ce_specversion),
    ce_id: z
      .string()
      .regex(/^[0-9a-f-]{36}-[1-9]\d*$/)
      .describe('Order id and version. A duplicate has the same id.'),
    ce_type: z.literal(MESSAGE_TYPES[type]),
    ce_source: z.literal(MESSAGE_SOURCE),
    ce_time: instant.describe('When the event was recorded.'),
    ce_subject: uuid.describe('The order id.'),
    ce_sequence: z
      .string()
      .regex(/^\d{10}$/)
      .describe('The version, padded with zeros.'),
    'content-type': z.literal(COLUMN_DEFAULTS.content_type),
    traceparent: z
      .string()
      .optional()
      .describe('W3C trace context of the request that caused the event, if it had one.'),
  });
}
