import { Kafka, logLevel } from 'kafkajs';
import { describe, expect, test } from 'vitest';
import { z } from 'zod';
import { consume, effectsInMemory } from '../../examples/consumer.ts';
import type { OrderEvent } from '../../examples/consumer.ts';
import { orderOf } from '#test/support/api-shapes.ts';
import { topicViolations } from '#test/support/checker.ts';
import { createTestDatabase } from '#test/support/database.ts';
import { skipReason } from '#test/support/infra.ts';
import { createTestTopic, readTopic } from '#test/support/kafka.ts';
import { deliverable } from '#test/support/order-api.ts';
import type { CommandName, OrderApi } from '#test/support/order-api.ts';
import { eventually } from '#test/support/poll.ts';
import { startService } from '#test/support/service.ts';
import { readStored } from '#test/support/verify-database.ts';

/*
 * G5 across releases: messages only gain members, and what is new comes as a message of a new type. A consumer that was
 * written for the messages of release 0.1.0 goes on reading.
 */

/** What release 0.1.0 said of its messages. A consumer reads the members that it knows. */
const known = {
  'order.placed.v1': z.object({
    customerId: z.string(),
    currency: z.string(),
    items: z.array(
      z.object({ sku: z.string(), quantity: z.int().positive(), priceCents: z.int().min(0) }),
    ),
    totalCents: z.int().min(0),
  }),
  'order.payment_captured.v1': z.object({ amountCents: z.int().min(0), paymentId: z.string() }),
  'order.shipped.v1': z.object({ trackingNumber: z.string(), carrier: z.string() }),
  'order.cancelled.v1': z.object({ reason: z.string(), refundAmountCents: z.int().min(0) }),
  'order.payment_refunded.v1': z.object({
    refundId: z.string(),
    amountCents: z.int().min(0),
    paymentId: z.string(),
  }),
  'order.fulfilment_started.v1': z.object({ sagaId: z.string() }),
  'order.cancellation_requested.v1': z.object({ reason: z.string() }),
  'order.shipment_requested.v1': z.object({}),
} as const;

/** What the old consumer keeps of an order. */
type OldOrder = { status: string; totalCents: number; paidCents: number; shipments: number };

/** The consumer of 0.1.0: it skips what it does not know, and fails on what is not as it was told. */
function oldConsumer() {
  const orders = new Map<string, OldOrder>();
  const apply = ({ type, orderId, data }: OrderEvent) => {
    const order = orders.get(orderId) ?? { status: '', totalCents: 0, paidCents: 0, shipments: 0 };
    orders.set(orderId, order);
    if (type === 'order.placed.v1') {
      order.totalCents = known[type].parse(data).totalCents;
      order.status = 'pending';
    } else if (type === 'order.payment_captured.v1') {
      order.paidCents += known[type].parse(data).amountCents;
      if (order.status === 'pending' && order.paidCents >= order.totalCents) order.status = 'paid';
    } else if (type === 'order.payment_refunded.v1') {
      order.paidCents -= known[type].parse(data).amountCents;
    } else if (type === 'order.shipped.v1') {
      known[type].parse(data);
      order.shipments += 1;
      order.status = 'shipped';
    } else if (type === 'order.cancelled.v1') {
      known[type].parse(data);
      order.status = 'cancelled';
    }
  };
  return { orders, effects: effectsInMemory(apply) };
}

/** An order with everything that an order can have had done to it by hand. */
async function liveFully(api: OrderApi): Promise<string> {
  const { orderId, items } = orderOf(
    await api.place({
      customerId: 'c-2',
      currency: 'EUR',
      items: [
        { sku: 'book', name: 'A book', quantity: 2, priceCents: 1250 },
        { sku: 'pen', quantity: 1, priceCents: 100 },
      ],
      shippingCents: 490,
      taxCents: 400,
      discountCents: 100,
      externalReference: 'shop-7',
      metadata: { channel: 'web' },
      ...deliverable,
      contact: { email: 'reader@example.org' },
    }),
  );
  const send = async (name: CommandName, body: unknown) =>
    orderOf(await api.send(name, orderId, body));
  const [books, pen] = items.map(({ lineId }) => lineId);
  await send('pay', { paymentId: 'pay-1', amountCents: 3390 });
  const body = { ...deliverable.shippingAddress, line1: '2 Sample Street' };
  const address = `/v1/orders/${orderId}/shipping-address`;
  expect((await api.request('PUT', address, { body })).status).toBe(200);
  await send('ship', {
    trackingNumber: 'T-1',
    carrier: 'post',
    items: [{ lineId: books, quantity: 1 }],
  });
  await send('ship', { trackingNumber: 'T-2', carrier: 'post' });
  await send('deliver', { trackingNumber: 'T-1' });
  await send('deliver', { trackingNumber: 'T-2' });
  await send('return', {
    returnId: 'ret-1',
    items: [{ lineId: pen, quantity: 1 }],
    reason: 'dry',
    restock: false,
  });
  await send('refund', { refundId: 'ref-1', amountCents: 100, returnId: 'ret-1' });
  const erased = await api.request('DELETE', `/v1/orders/${orderId}/personal-data`);
  expect(erased.status, erased.text).toBe(200);
  return orderId;
}

const EVENTS = [
  'OrderPlaced',
  'PaymentCaptured',
  'ShippingAddressChanged',
  'ParcelShipped',
  'OrderShipped',
  'ParcelDelivered',
  'ParcelDelivered',
  'ItemsReturned',
  'PaymentRefunded',
  'PersonalDataErased',
];

describe.skipIf(skipReason('kafka') ?? skipReason('postgres'))(
  'a consumer of release 0.1.0',
  () => {
    test('goes on reading, and sees every order ship once', async () => {
      await using database = await createTestDatabase();
      await using topic = await createTestTopic(3);
      await using service = await startService({
        databaseUrl: database.url,
        brokers: topic.brokers,
        env: { KAFKA_TOPIC: topic.name },
      });
      const { api } = service;
      const plain = await api.ship(await api.pay(await api.placeOrder()));
      const full = await liveFully(api);
      const partly = await api.pay(await api.placeOrder());
      const [line] = partly.items;
      const items = [{ lineId: line!.lineId, quantity: 1 }];
      await api.send('ship', partly.orderId, { trackingNumber: 'T-9', carrier: 'post', items });

      const { events } = await readStored(database.url);
      expect(events.filter(({ stream_id: id }) => id === full).map(({ type }) => type)).toEqual(
        EVENTS,
      );
      const count = events.length;
      const messages = await readTopic(topic.name, { until: ({ length }) => length >= count });
      expect(topicViolations(messages, events)).toEqual([]);

      const kafka = new Kafka({ brokers: topic.brokers, logLevel: logLevel.NOTHING });
      const consumer = oldConsumer();
      let handled = 0;
      const stop = await consume({
        kafka,
        topic: topic.name,
        groupId: `test-${crypto.randomUUID()}`,
        effects: consumer.effects,
        onHandled: () => {
          handled += 1;
        },
        onStopped: ({ message }) => expect.unreachable(message),
      });
      await eventually(() => handled >= count, { withinMs: 120_000 });
      await stop();
      expect(Object.fromEntries(consumer.orders)).toEqual({
        [plain.orderId]: { status: 'shipped', totalCents: 2500, paidCents: 2500, shipments: 1 },
        [full]: { status: 'shipped', totalCents: 3390, paidCents: 3290, shipments: 1 },
        [partly.orderId]: { status: 'paid', totalCents: 2500, paidCents: 2500, shipments: 0 },
      });
    });
  },
);
