import { randomUUID } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import { bodyOf, createOrderClient, problemOf } from './client.ts';
import type { OrderClient } from './client.ts';

/*
 * The tour of the README with the typed client. Start the service (npm start), then: npm run tour
 * ORDERS_URL names another service, ORDERS_TOKEN a token for it.
 */

const POLL_MS = 200;
const FULFILMENT_MS_MAX = 60_000;
const BOOKS = { sku: 'book', quantity: 2, priceCents: 1250 };
const PEN = { sku: 'pen', name: 'A pen', quantity: 1, priceCents: 300 };

/** Walks through the life of a few orders. `print` gets a line for each step. */
export async function tour(client: OrderClient, print: (line: string) => void): Promise<void> {
  await payAndShip(client, print);
  await cancelAndRefund(client, print);
  await shipInParcels(client, print);
  await fulfil(client, print);
}

/** What the service needs to capture and to ship by itself. Neither is ever published. */
const DELIVERY = {
  payment: { method: 'pm_card_ok' },
  shippingAddress: {
    name: 'Ada Example',
    line1: '1 Sample Street',
    postalCode: '10115',
    city: 'Berlin',
    country: 'DE',
  },
} as const;

async function place(client: OrderClient, fulfilment: 'manual' | 'automatic' = 'manual') {
  const placed = await client.POST('/v1/orders', {
    // The same key for every retry: the order is placed once, whatever happens to a response.
    params: { header: { 'Idempotency-Key': randomUUID() } },
    body: { customerId: 'c-1', currency: 'EUR', items: [BOOKS], ...DELIVERY, fulfilment },
  });
  return { order: bodyOf(placed), etag: placed.response.headers.get('etag') ?? '' };
}

async function payAndShip(client: OrderClient, print: (line: string) => void): Promise<void> {
  const { order, etag } = await place(client);
  const path = { orderId: order.orderId };
  print(`placed   ${order.orderId}: ${order.totalCents} cents, ${order.status}`);

  const payment = { paymentId: `pay-${randomUUID()}`, amountCents: order.totalCents };
  const headers = { 'Idempotency-Key': randomUUID(), 'If-Match': etag };
  const pay = () =>
    client.POST('/v1/orders/{orderId}/pay', { params: { path, header: headers }, body: payment });
  const paid = bodyOf(await pay());
  print(`paid     ${paid.orderId}: version ${paid.version}, ${paid.status}`);
  const again = await pay();
  const wasReplayed = again.response.headers.get('idempotency-replayed');
  print(`retried  the same payment: version ${bodyOf(again).version}, replayed ${wasReplayed}`);

  const shipped = await client.POST('/v1/orders/{orderId}/ship', {
    params: { path, header: { Prefer: 'return=minimal' } },
    body: { trackingNumber: 'T-1', carrier: 'post' },
  });
  print(`shipped  with a response of ${shipped.response.status}, without a body`);

  const cancelled = await client.POST('/v1/orders/{orderId}/cancel', {
    params: { path },
    body: { reason: 'changed my mind' },
  });
  const { code, detail } = problemOf(cancelled);
  print(`refused  to cancel it: ${code}, ${detail}`);
  await readAgain(client, order.orderId, print);
}

/** An order as it is now, as it was, its history, and the list of orders. */
async function readAgain(
  client: OrderClient,
  orderId: string,
  print: (line: string) => void,
): Promise<void> {
  const path = { orderId };
  const now = await client.GET('/v1/orders/{orderId}', { params: { path } });
  const tag = now.response.headers.get('etag') ?? '';
  const unchanged = await client.GET('/v1/orders/{orderId}', {
    params: { path, header: { 'If-None-Match': tag } },
  });
  const first = bodyOf(
    await client.GET('/v1/orders/{orderId}', { params: { path, query: { version: 1 } } }),
  );
  print(
    `read     ${bodyOf(now).status}; it was ${first.status}; ${unchanged.response.status} next`,
  );
  const history = bodyOf(await client.GET('/v1/orders/{orderId}/events', { params: { path } }));
  print(`history  ${history.data.map(({ type }) => type).join(', ')}`);
  const list = bodyOf(
    await client.GET('/v1/orders', { params: { query: { customerId: 'c-1', limit: 10 } } }),
  );
  print(`listed   ${list.data.length} of the customer's orders, the newest first`);
}

async function cancelAndRefund(client: OrderClient, print: (line: string) => void): Promise<void> {
  const { order } = await place(client);
  const params = { path: { orderId: order.orderId } };
  const money = { paymentId: `pay-${randomUUID()}`, amountCents: order.totalCents };
  bodyOf(await client.POST('/v1/orders/{orderId}/pay', { params, body: money }));
  const cancelled = bodyOf(
    await client.POST('/v1/orders/{orderId}/cancel', { params, body: { reason: 'wrong size' } }),
  );
  print(`cancel   a paid order: it owes ${cancelled.owedCents} cents`);
  const refund = { refundId: `ref-${randomUUID()}`, amountCents: cancelled.owedCents };
  const refunded = bodyOf(
    await client.POST('/v1/orders/{orderId}/refund', { params, body: refund }),
  );
  print(`refunded ${refunded.refundedCents} cents: it owes ${refunded.owedCents}`);
}

/** Two parcels, one of them delivered; one book comes back, and a part of its price is refunded. */
async function shipInParcels(client: OrderClient, print: (line: string) => void): Promise<void> {
  const placed = await client.POST('/v1/orders', {
    body: {
      customerId: 'c-2',
      currency: 'EUR',
      items: [BOOKS, PEN],
      shippingCents: 490,
      contact: { email: 'ada@example.com' },
      externalReference: `shop-${randomUUID()}`,
      ...DELIVERY,
    },
  });
  const { orderId, totalCents, items } = bodyOf(placed);
  const params = { path: { orderId } };
  print(`placed   ${orderId}: ${items.length} lines, ${totalCents} cents with shipping`);
  const payment = { paymentId: `pay-${randomUUID()}`, amountCents: totalCents };
  bodyOf(await client.POST('/v1/orders/{orderId}/pay', { params, body: payment }));

  const ship = async (trackingNumber: string, parts?: { lineId: string; quantity: number }[]) =>
    bodyOf(
      await client.POST('/v1/orders/{orderId}/ship', {
        params,
        body: { trackingNumber, carrier: 'post', ...(parts && { items: parts }) },
      }),
    );
  const part = await ship('T-1', [{ lineId: '1', quantity: 1 }]);
  print(`shipped  a parcel: ${part.status}, ${part.shipmentStatus}`);
  const rest = await ship('T-2');
  print(`shipped  the rest: ${rest.status}, ${rest.shipmentStatus}`);
  await client.POST('/v1/orders/{orderId}/deliver', { params, body: { trackingNumber: 'T-1' } });

  const back = { items: [{ lineId: '1', quantity: 1 }], reason: 'damaged', restock: false };
  bodyOf(
    await client.POST('/v1/orders/{orderId}/return', {
      params,
      body: { returnId: 'ret-1', ...back },
    }),
  );
  const refund = { refundId: 'ref-1', amountCents: BOOKS.priceCents, returnId: 'ret-1' };
  const refunded = bodyOf(
    await client.POST('/v1/orders/{orderId}/refund', { params, body: refund }),
  );
  print(`returned one book, and refunded ${refunded.refundedCents}: ${refunded.paymentStatus}`);

  const before = bodyOf(await client.GET('/v1/orders/{orderId}', { params }));
  print(`address  in ${before.shippingAddress?.city ?? 'no city'}`);
  bodyOf(await client.DELETE('/v1/orders/{orderId}/personal-data', { params }));
  const after = bodyOf(await client.GET('/v1/orders/{orderId}', { params }));
  const history = bodyOf(await client.GET('/v1/orders/{orderId}/events', { params }));
  const address = after.shippingAddress ? 'still there' : 'gone';
  print(`erased   the address is ${address}, and all ${history.data.length} events are there`);
}

/** The service reserves the stock, takes the payment and ships by itself. */
async function fulfil(client: OrderClient, print: (line: string) => void): Promise<void> {
  bodyOf(
    await client.PUT('/v1/stock/{sku}', {
      params: { path: { sku: BOOKS.sku } },
      body: { onHand: 10 },
    }),
  );
  const { order } = await place(client, 'automatic');
  const params = { path: { orderId: order.orderId } };
  const endsAt = performance.now() + FULFILMENT_MS_MAX;
  while (performance.now() < endsAt) {
    const fulfilment = bodyOf(await client.GET('/v1/orders/{orderId}/fulfilment', { params }));
    if (fulfilment.state === 'completed') {
      const steps = fulfilment.steps.map(({ step, state }) => `${step} ${state}`);
      print(`fulfilled ${order.orderId}: ${steps.join(', ')}`);
      return await refundByProvider(client, order.orderId, print);
    }
    await delay(POLL_MS);
  }
  throw new Error(`the fulfilment of ${order.orderId} takes too long`);
}

/** The provider that captured the payment refunds it. The response comes before it has. */
async function refundByProvider(
  client: OrderClient,
  orderId: string,
  print: (line: string) => void,
): Promise<void> {
  const params = { path: { orderId } };
  const refund = { refundId: `ref-${randomUUID()}`, amountCents: 500, reason: 'a scratch' };
  const asked = await client.POST('/v1/orders/{orderId}/refund', { params, body: refund });
  const endsAt = performance.now() + FULFILMENT_MS_MAX;
  while (performance.now() < endsAt) {
    const { refunds } = bodyOf(await client.GET('/v1/orders/{orderId}', { params }));
    const state = refunds.at(-1)?.state;
    if (state === 'refunded') {
      return print(`refunded by the provider: ${asked.response.status} first, then ${state}`);
    }
    await delay(POLL_MS);
  }
  throw new Error(`the refund of ${orderId} takes too long`);
}

if (import.meta.main) {
  const { ORDERS_URL = 'http://127.0.0.1:3000', ORDERS_TOKEN } = process.env;
  try {
    await tour(createOrderClient(ORDERS_URL, ORDERS_TOKEN), (line) => console.log(line));
  } catch (error) {
    console.error(`The tour of ${ORDERS_URL} ended early: ${String(error)}`);
    process.exitCode = 1;
  }
}
