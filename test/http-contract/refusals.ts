import type { HttpResponse } from '#test/support/http-client.ts';
import { deliverable } from '#test/support/order-api.ts';
import { personal } from '#test/support/personal-data.ts';
import { eventually } from '#test/support/poll.ts';
import { TWO_BOOKS, orderIn } from '#test/support/saga/api.ts';
import type { SagaApi } from '#test/support/saga/api.ts';
import type { SagaWorld } from '#test/support/saga/world.ts';
import type { commandScenarios, Ready } from './command-scenarios.ts';

/** An id that no order has. */
export const ID = '01999e5c-7c1f-7d3a-9f52-3b6f0c9d2a11';

/** What a walk through the service is made with. */
export type Walk = Readonly<{
  world: SagaWorld;
  able: SagaApi;
  /** Without providers. */
  unable: SagaApi;
  scenarios: ReturnType<typeof commandScenarios>;
}>;

/** Sends a command with these headers. */
export const send = (
  api: SagaApi,
  { method, path, body }: Ready,
  headers = {},
): Promise<HttpResponse> =>
  api.request(method, path, {
    ...(body !== undefined && { rawBody: JSON.stringify(body) }),
    headers: { ...(body !== undefined && { 'content-type': 'application/json' }), ...headers },
  });

/** Has the service refuse commands for every reason that lies in the state of an order, a refund or the stock. */
export async function provokeRefusals(walk: Walk): Promise<void> {
  await provokeRefusalsOfPlacing(walk);
  await provokeRefusalsOfGoods(walk);
  await provokeRefusalsOfOrders(walk);
  await provokeRefusalsOfPersonalData(walk);
  await provokeRefusalsOfFulfilments(walk);
  await provokeRefusalsOfRefunds(walk);
  await provokeRefusalsOfStock(walk);
}

async function provokeRefusalsOfPlacing({ able }: Walk): Promise<void> {
  const order = { customerId: 'c', currency: 'EUR', items: TWO_BOOKS };
  const { shippingAddress } = deliverable;
  const place = (change: Readonly<Record<string, unknown>>) =>
    able.request('POST', '/v1/orders', { body: { ...order, ...change } });
  await place({ discountCents: 2501 });
  await place({ fulfilment: 'automatic' });
  await place({ fulfilment: 'automatic', shippingAddress });
  for (let time = 0; time < 2; time += 1) await place({ externalReference: 'shop-1' });
  for (const change of [{}, { shippingAddress }]) {
    await able.command('fulfil', orderIn(await place(change)).orderId);
  }
}

async function provokeRefusalsOfGoods({ able }: Walk): Promise<void> {
  const orderId = await able.placed([{ sku: 'book', quantity: 200, priceCents: 1 }], 'manual');
  const items = (quantity: number, lineId = '1') => ({ items: [{ lineId, quantity }] });
  const ship = (trackingNumber: string, what: object = {}) =>
    able.command('ship', orderId, { trackingNumber, carrier: 'c', ...what });
  const returned = (returnId: string, what: object, id = orderId) =>
    able.command('return', id, { returnId, reason: 'r', ...what });
  await able.command('deliver', ID, { trackingNumber: 't' });
  await returned('r', items(1), ID);
  await able.command('pay', orderId, { paymentId: 'p', amountCents: 200 });
  await able.command('refund', orderId, { refundId: 'r', amountCents: 1, returnId: 'none' });
  await ship('t', items(1, 'none'));
  await ship('t', items(201));
  // The last of the hundred parcels must take all that is left.
  for (let parcel = 1; parcel <= 100; parcel += 1) await ship(`t-${parcel}`, items(1));
  await ship('t-1', items(2));
  await able.command('cancel', orderId, { reason: 'r' });
  await ship('rest');
  await able.command('deliver', orderId, { trackingNumber: 'none' });
  await returned('r', items(1, 'none'));
  await returned('r', items(201));
  for (let part = 1; part <= 101; part += 1) await returned(`r-${part}`, items(1));
  await returned('r-1', items(2));
}

async function provokeRefusalsOfOrders({ able, unable, scenarios, world }: Walk): Promise<void> {
  const { simulator, setStock } = world;
  const bodies = {
    pay: { paymentId: 'p', amountCents: 2500 },
    ship: { trackingNumber: 't', carrier: 'c' },
    cancel: { reason: 'r' },
    refund: { refundId: 'r', amountCents: 1 },
    fulfil: undefined,
  } as const;
  type Name = keyof typeof bodies;
  const command = (name: Name, orderId: string, change = {}) =>
    able.command(name, orderId, bodies[name] && { ...bodies[name], ...change });
  const all = async (orderId: string) => {
    for (const name of ['ship', 'refund', 'cancel', 'fulfil'] as const)
      await command(name, orderId);
  };
  const placed = () => able.placed(TWO_BOOKS, 'manual');
  await send(able, {
    ...(await scenarios['placeOrder']!()),
    body: {
      customerId: 'c',
      currency: 'EUR',
      items: [{ sku: 's', quantity: 100_000, priceCents: 1_000_000_000_000 }],
    },
  });
  await unable.place(TWO_BOOKS, { fulfilment: 'automatic' });
  await unable.request('POST', '/v1/orders', {
    body: {
      customerId: 'c',
      currency: 'EUR',
      items: TWO_BOOKS,
      ...deliverable,
      fulfilment: 'automatic',
    },
  });
  await unable.command('fulfil', await placed());
  for (const name of ['pay', 'ship', 'cancel', 'refund', 'fulfil'] as const)
    await command(name, ID);

  const shipped = await placed();
  await command('ship', shipped);
  await command('pay', shipped);
  await command('pay', shipped, { amountCents: 1 });
  await command('pay', shipped, { paymentId: 'q', amountCents: 0 });
  await command('fulfil', shipped);
  await command('refund', shipped);
  await command('ship', shipped);
  await command('ship', shipped, { trackingNumber: 'u' });
  await all(shipped);
  const cancelled = await placed();
  for (const name of ['pay', 'cancel', 'refund', 'ship', 'fulfil'] as const) {
    await command(name, cancelled);
  }
  await command('refund', cancelled, { amountCents: 9000, refundId: 'x' });
  await command('refund', cancelled, { amountCents: 2 });
  for (let part = 0; part <= 100; part += 1) {
    await command('pay', cancelled, { paymentId: `p-${part}`, amountCents: 100 });
    await command('refund', cancelled, { refundId: `r-${part}` });
  }

  await setStock('book', 1_000);
  for (const operation of ['capture', 'ship'] as const) {
    const orderId = await placed();
    await simulator.addFault({ operation, orderId, fault: 'hold', times: 1 });
    await command('fulfil', orderId);
    await simulator.nextCall({ operation, orderId });
    await all(orderId);
    await simulator.release();
  }
}

async function provokeRefusalsOfPersonalData({ able, world: { simulator } }: Walk) {
  const body = { ...personal.shippingAddress, city: 'Bonn' };
  const put = (id: string) => able.request('PUT', `/v1/orders/${id}/shipping-address`, { body });
  const erase = (id: string) => able.request('DELETE', `/v1/orders/${id}/personal-data`);
  const placed = async () => {
    const order = { customerId: 'c', currency: 'EUR', items: TWO_BOOKS, ...personal };
    return orderIn(await able.request('POST', '/v1/orders', { body: order })).orderId;
  };
  const parcel = { trackingNumber: 't', carrier: 'c' };
  for (const commands of [
    [['cancel', { reason: 'r' }]],
    [
      ['pay', { paymentId: 'p', amountCents: 2500 }],
      ['ship', { ...parcel, items: [{ lineId: '1', quantity: 1 }] }],
    ],
    [
      ['pay', { paymentId: 'p', amountCents: 2500 }],
      ['ship', parcel],
    ],
  ] as const) {
    const orderId = await placed();
    for (const [name, body] of commands) await able.command(name, orderId, body);
    await put(orderId);
  }
  await able.request('DELETE', '/v1/customers/c/personal-data', {
    headers: { prefer: 'return=minimal' },
  });
  const erased = await placed();
  for (const orderId of [ID, erased]) await erase(orderId);
  for (const orderId of [ID, erased]) await put(orderId);
  const running = await placed();
  await simulator.addFault({ operation: 'ship', orderId: running, fault: 'hold', times: 1 });
  await able.command('fulfil', running);
  await simulator.nextCall({ operation: 'ship', orderId: running });
  await put(running);
  await erase(running);
  await simulator.release();
}

async function provokeRefusalsOfFulfilments({ able, unable, scenarios }: Walk): Promise<void> {
  const word = { step: 'capture', outcome: 'notDone', reason: 'r' };
  const orderId = await able.placed();
  await eventually(async () => (await able.fulfilment(orderId)).state === 'completed');
  const { path } = await scenarios['retryFulfilment']!();
  const stuck = path.split('/')[3]!;
  await able.request('GET', `/v1/orders/${stuck}/fulfilment`);
  for (const id of [ID, orderId, stuck]) {
    await able.request('GET', `/v1/orders/${id}/fulfilment`);
    await able.command('fulfilment/resolve', id, word);
    if (id === stuck) {
      await unable.command('fulfilment/retry', id);
      await unable.command('fulfilment/resolve', id, { ...word, step: 'refund' });
    }
    await able.command('fulfilment/retry', id);
  }
}

async function provokeRefusalsOfRefunds({ able, unable, scenarios }: Walk): Promise<void> {
  const word = { step: 'capture', outcome: 'notDone', reason: 'r' };
  const { path } = await scenarios['retryRefund']!();
  const orderId = path.split('/')[3]!;
  const recorded = { refundId: 'ref-2', amountCents: 1, recordOnly: true };
  await able.command('refund', orderId, recorded);
  await unable.command('refund', orderId, { refundId: 'ref-3', amountCents: 1 });
  await unable.command('refunds/ref-1/retry', orderId);
  await unable.command('refunds/ref-1/resolve', orderId, { ...word, step: 'refund' });
  for (const refundId of ['none', 'ref-2', 'ref-1']) {
    await able.command(`refunds/${refundId}/resolve`, orderId, word);
    await able.command(`refunds/${refundId}/retry`, orderId);
  }
}

async function provokeRefusalsOfStock({
  able,
  scenarios,
  world: { database },
}: Walk): Promise<void> {
  const { path, method } = await scenarios['setStock']!();
  const adjust = (delta: number, address = path) =>
    send(able, { method: 'POST', path: `${address}/adjust`, body: { delta } });
  await send(able, { method, path: `${path}-new`, body: { onHand: 1 } });
  await adjust(1_000_000_000);
  await adjust(1, '/v1/stock/nobody');
  await database.query('update stock set reserved = on_hand where on_hand > 0');
  await adjust(-1);
  await send(able, { method, path, body: { onHand: 0 } });
  await database.query('update stock set reserved = 0');
}
