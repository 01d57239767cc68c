import { describe, expect, test } from 'vitest';
import { z } from 'zod';
import { buildAsyncApi } from '#src/http/asyncapi.ts';
import type { OrderEvent } from '#src/orders/domain/order-events.ts';
import { orderEventCodec } from '#src/orders/order-stream.ts';
import { orderMessageChannel, toMessageRow } from '#src/orders/order-messages.ts';
import { messageFrom } from '#src/outbox/outbox.ts';
import { asyncApi, validatorOf } from '#test/support/asyncapi.ts';
import * as a from '#test/support/orders.ts';

const document = asyncApi.parse(
  JSON.parse(
    JSON.stringify(
      buildAsyncApi(orderMessageChannel('order.events', { partitions: 6, replication: 3 })),
    ),
  ),
);
const validate = validatorOf(document);

const events: readonly OrderEvent[] = [
  a.placed,
  a.paid,
  a.shipped,
  a.cancelled(0),
  a.cancelled(a.totalCents),
  a.refunded,
  a.fulfilmentStarted,
  a.cancellationRequested,
  a.shipmentRequested,
  a.parcelShipped,
  a.parcelDelivered,
  a.itemsReturned,
  a.refundRequested,
  a.refundFailed,
  a.shippingAddressChanged,
  a.personalDataErased,
];
const traceparent = '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01';

/** The Kafka message of an event. */
function sent(event: OrderEvent, version: number, trace?: string) {
  const row = toMessageRow(
    a.orderId,
    { ...event, version, recordedAt: '2026-01-31T12:00:00.123Z' },
    { correlationId: 'c', actor: 'a', ...(trace !== undefined && { traceparent: trace }) },
    'order.events',
  );
  return messageFrom({ ...row, ce_specversion: '1.0', content_type: 'application/json' });
}

describe('the AsyncAPI document', () => {
  test('has one channel with its topic, its partitions and its promises', () => {
    const { channels, operations } = document;
    expect(channels['order.events']).toMatchObject({
      address: 'order.events',
      bindings: { kafka: { topic: 'order.events', partitions: 6, replicas: 3 } },
    });
    expect(channels['order.events']!.description).toMatch(
      /at least once.*key.*order id.*order of their versions/,
    );
    expect(operations['publish']!.messages.map(({ $ref }) => $ref)).toStrictEqual(
      Object.keys(document.components.messages).map(
        (name) => `#/channels/order.events/messages/${name}`,
      ),
    );
  });

  test('explains every field of every payload', () => {
    for (const { name, payload } of Object.values(document.components.messages)) {
      for (const [field, schema] of Object.entries(payload.properties)) {
        expect(schema, `${name} ${field}`).toMatchObject({ description: expect.any(String) });
      }
    }
  });

  test('has a message for each event that can be stored, and this test covers all of them', () => {
    const stored = [...new Set(orderEventCodec.readable.map(({ type }) => type))].toSorted();
    expect([...new Set(events.map(({ type }) => type))].toSorted()).toStrictEqual(stored);
    const told = new Set(events.map((event) => sent(event, 1).headers['ce_type']));
    expect(new Set(Object.keys(document.components.messages))).toStrictEqual(told);
    const { messages } = document.channels['order.events']!;
    expect(new Set(Object.keys(messages))).toStrictEqual(told);
  });

  test.each(events.map((event) => [event.type, event] as const))(
    'describes the message of %s completely',
    (_, event) => {
      for (const version of [1, 2, 2_147_483_647]) {
        expect(validate(sent(event, version))).toStrictEqual([]);
        expect(validate(sent(event, version, traceparent))).toStrictEqual([]);
      }
    },
  );

  test('has a valid example of each message', () => {
    for (const { name, examples } of Object.values(document.components.messages)) {
      const { headers, payload } = examples[0]!;
      expect(headers['ce_type']).toBe(name);
      const key = headers['ce_subject']!;
      expect(validate({ key, headers, value: JSON.stringify(payload) })).toStrictEqual([]);
    }
  });
});

describe('this guard', () => {
  const { key, headers, value } = sent(a.paid, 2);
  const payload = z.record(z.string(), z.unknown()).parse(JSON.parse(value));
  const { paymentId: _, ...withoutPayment } = payload;
  const { ce_sequence: __, ...withoutSequence } = headers;

  test.each<[string, Parameters<typeof validate>[0]]>([
    ['a key that is not an order id', { key: 'x', headers, value }],
    ['a missing member', { key, headers, value: JSON.stringify(withoutPayment) }],
    ['an unknown member', { key, headers, value: JSON.stringify({ ...payload, more: 1 }) }],
    ['a wrong type', { key, headers, value: JSON.stringify({ ...payload, amountCents: '1' }) }],
    ['a missing header', { key, headers: withoutSequence, value }],
    ['an unknown header', { key, headers: { ...headers, more: '1' }, value }],
    ['a wrong header', { key, headers: { ...headers, ce_id: 'x' }, value }],
    ['an unknown type', { key, headers: { ...headers, ce_type: 'order.lost.v1' }, value }],
  ])('rejects %s', (_, message) => {
    expect(validate(message)).not.toStrictEqual([]);
  });
});
