import { z } from 'zod';
import type { EventMetadata, OutboxMessageRow } from '#src/event-store/event-store.ts';
import type { ChannelSpec, MessageSpec } from '#src/http/asyncapi.ts';
import { instant, uuid } from '#src/http/fields.ts';
import { messageFrom, murmur2 } from '#src/outbox/outbox.ts';
import { ORDER_CATEGORY, orderEvents } from './domain/order-events.ts';
import type { OrderEventType, RecordedOrderEvent } from './domain/order-events.ts';

const MESSAGE_SOURCE = '/order-service';
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
    ce_type: orderEvents[type].messageType,
    ce_source: MESSAGE_SOURCE,
    ce_time: recordedAt,
    ce_subject: orderId,
    ce_sequence: String(version).padStart(SEQUENCE_DIGITS, '0'),
    traceparent: traceparent ?? null,
    payload: JSON.stringify({ orderId, version, recordedAt, ...data }),
  };
}

const PROMISE =
  'Every event of an order is published at least once. The key of a message is the order id, so all ' +
  'messages of an order are in one partition. The first occurrences of the messages of an order come in ' +
  'the order of their versions. Messages of different orders have no order among each other.\n\n' +
  'A message can come more than once. To ignore duplicates, remember the highest version that you have ' +
  'processed for each order, and skip every message that is not above it. `ce_sequence` holds the ' +
  'version, padded with zeros so that it sorts as text.\n\n' +
  'A message that an operator skips is never published, so a consumer may see a gap in the versions. ' +
  'Payloads may gain fields in later releases. Existing fields keep their names and meanings.';

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
    messages: Object.values(orderEvents).map(({ type }) => toMessageSpec(type, topic)),
  };
}

/** The defaults of these columns of the outbox. */
const COLUMN_DEFAULTS = { ce_specversion: '1.0', content_type: 'application/json' } as const;

function toMessageSpec(type: OrderEventType, topic: string): MessageSpec {
  const { messageType, title, summary, data, schema, example } = orderEvents[type];
  const row = toMessageRow(
    '01999e5c-7c1f-7d3a-9f52-3b6f0c9d2a11',
    {
      ...schema.parse({ type, data: example.data }),
      version: example.version,
      recordedAt: '2026-01-31T12:00:00.000Z',
    },
    {
      correlationId: '',
      actor: '',
      traceparent: '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01',
    },
    topic,
  );
  const { headers, value } = messageFrom({ ...row, ...COLUMN_DEFAULTS });
  return {
    name: messageType,
    title,
    summary,
    headers: messageHeaders(messageType),
    payload: z.object({
      orderId: uuid.describe('The order.'),
      version: z.int().min(1).describe('Number of the event in the order, from 1.'),
      recordedAt: instant.describe('When the event was recorded.'),
      ...data.shape,
    }),
    example: { headers, payload: JSON.parse(value) },
  };
}

function messageHeaders(messageType: string) {
  return z.object({
    ce_specversion: z.literal(COLUMN_DEFAULTS.ce_specversion),
    ce_id: z
      .string()
      .regex(/^[0-9a-f-]{36}-[1-9]\d*$/)
      .describe('Order id and version. A duplicate has the same id.'),
    ce_type: z.literal(messageType),
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
