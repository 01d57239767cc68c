import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { Pool } from 'pg';
import { v7 as uuidv7 } from 'uuid';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { z } from 'zod';
import { createPostgresUnitStore } from '#src/event-store/postgres-store.ts';
import { orderEvents } from '#src/orders/domain/order-events.ts';
import type { OrderEvent } from '#src/orders/domain/order-events.ts';
import { appendToOrder } from '#src/orders/order-stream.ts';
import { byHand } from '#test/fixtures/histories.ts';
import { json } from '#test/fixtures/rows.ts';
import type { Json } from '#test/fixtures/rows.ts';
import { skipReason } from '#test/support/infra.ts';
import { deliverable } from '#test/support/order-api.ts';
import {
  itemsReturned,
  paid,
  parcelDelivered,
  parcelShipped,
  personalDataErased,
  refundFailed,
  refundRequested,
  shipped,
  shippingAddressChanged,
} from '#test/support/orders.ts';
import { eventually } from '#test/support/poll.ts';
import { unpackRelease } from '#test/support/release.ts';
import type { Release } from '#test/support/release.ts';
import { createSagaWorld, untilAtRest } from '#test/support/saga/world.ts';
import type { SagaWorld } from '#test/support/saga/world.ts';
import { startService } from '#test/support/service.ts';
import type { TestService } from '#test/support/service.ts';

/** The last release. Its archive is in `test/fixtures`. */
const BEFORE = 'a63efb8';

const MAIN = fileURLToPath(new URL('../../src/main.ts', import.meta.url));

const BOOKS = { sku: 'book', quantity: 2, priceCents: 1000 };
const PENS = { sku: 'pen', quantity: 5, priceCents: 100 };

const PARCEL = { trackingNumber: 'T-1', carrier: 'post' };

/** The events that the release before does not know, each with those that it follows. */
const news: Readonly<Record<string, readonly OrderEvent[]>> = {
  ParcelShipped: [parcelShipped],
  ParcelDelivered: [shipped, parcelDelivered],
  ItemsReturned: [shipped, itemsReturned],
  RefundRequested: [refundRequested],
  RefundFailed: [refundRequested, refundFailed],
  ShippingAddressChanged: [shippingAddressChanged],
  PersonalDataErased: [personalDataErased],
};

/** What the release before returns for an order that it cannot read. */
const UNREADABLE = { status: 500 };

/*
 * G8 during a deployment: replicas of the release before run beside those of this one, on the database that this one
 * has migrated. The release before is the real one.
 */
describe.skipIf(skipReason('postgres'))('the release before, beside this one', () => {
  let release: Release;
  let world: SagaWorld;
  let before: TestService;
  let now: TestService;

  beforeAll(async () => {
    release = await unpackRelease(BEFORE);
    world = await createSagaWorld();
    for (const sku of ['book', 'pen']) await world.setStock(sku, 1000);
    const options = { databaseUrl: world.database.url, env: world.env };
    now = await startService(options);
    before = await startService({ ...options, main: release.main });
  });
  afterAll(async () => {
    await before[Symbol.asyncDispose]();
    await now[Symbol.asyncDispose]();
    await world[Symbol.asyncDispose]();
    await release[Symbol.asyncDispose]();
  });

  const call = async (
    { api }: TestService,
    method: 'GET' | 'POST',
    path: string,
    body?: unknown,
  ) => {
    const { status, text } = await api.request(method, path, {
      ...(body !== undefined && { body }),
    });
    return { path, status, body: json.parse(JSON.parse(text)) };
  };
  const read = async (service: TestService, path: string) => {
    const response = await call(service, 'GET', path);
    expect(response).toMatchObject({ status: 200 });
    return response.body;
  };
  const send = async (service: TestService, path: string, body?: unknown) => {
    const response = await call(service, 'POST', path, body);
    expect({ ...response, isAccepted: response.status < 300 }).toMatchObject({ isAccepted: true });
    return response.body;
  };
  const place = async (service: TestService, body: Json = {}) => {
    const order = { customerId: 'c-1', currency: 'EUR', items: [BOOKS, PENS], ...body };
    return String((await send(service, '/v1/orders', order))['orderId']);
  };
  /** Both show the order at each of its versions; what the release before shows, this one shows too. */
  const expectToAgree = async (orderId: string) => {
    const { version } = await read(before, `/v1/orders/${orderId}`);
    for (let at = 1; at <= Number(version); at += 1) {
      const path = `/v1/orders/${orderId}?version=${at}`;
      expect(await read(now, path)).toMatchObject(await read(before, path));
    }
    const events = `/v1/orders/${orderId}/events`;
    expect(await read(now, events)).toMatchObject(await read(before, events));
  };
  const expectListsToAgree = async (customerId: string, orderId: string) => {
    const path = `/v1/orders?${new URLSearchParams({ customerId }).toString()}`;
    const shown = await read(before, path);
    expect(shown).toMatchObject({ data: [{ orderId }] });
    expect(await read(now, path)).toMatchObject(shown);
  };
  const summaryOf = async (orderId: string) => {
    const [row] = await world.database.query('select * from orders_summary where order_id = $1', [
      orderId,
    ]);
    return row;
  };
  const stateOf = async (orderId: string) =>
    (await read(now, `/v1/orders/${orderId}/fulfilment`))['state'];

  test.each(Object.entries(byHand))(
    'goes on with an order of this one, and the other way round: it %s',
    async (name, steps) => {
      for (const turn of [0, 1]) {
        const services = turn === 0 ? [before, now] : [now, before];
        const customerId = `${name} ${turn}`;
        const orderId = await place(services[0]!, { customerId });
        for (const [index, [command, body]] of steps.entries()) {
          await send(services[(index + 1) % 2]!, `/v1/orders/${orderId}/${command}`, body);
        }
        await expectToAgree(orderId);
        await expectListsToAgree(customerId, orderId);
      }
    },
  );

  test('goes on with an order that gave more than it knows, and changes none of that', async () => {
    const more = {
      ...deliverable,
      items: [{ ...BOOKS, name: 'A book' }, PENS],
      shippingCents: 500,
      contact: { email: 'ada@example.com' },
      externalReference: 'shop-1001',
      metadata: { channel: 'web' },
    };
    const orderId = await place(now, { customerId: 'gave more', ...more });
    const personal = () => world.database.query('select * from order_personal_data');
    const kept = await personal();
    await send(before, `/v1/orders/${orderId}/pay`, { paymentId: 'pay-1', amountCents: 3000 });
    await send(before, `/v1/orders/${orderId}/ship`, PARCEL);
    await expectToAgree(orderId);
    await expectListsToAgree('gave more', orderId);
    expect(await summaryOf(orderId)).toMatchObject({ external_reference: 'shop-1001' });
    expect(await personal()).toEqual(kept);
  });

  /** It does not know allowances. Its own responses show too little, but it changes no row. */
  test('goes on with an order that was refunded more than it owed, and keeps what it owes', async () => {
    const orderId = await place(now);
    await send(before, `/v1/orders/${orderId}/pay`, { paymentId: 'pay-1', amountCents: 2500 });
    await send(now, `/v1/orders/${orderId}/refund`, { refundId: 'ref-1', amountCents: 300 });
    await send(before, `/v1/orders/${orderId}/ship`, PARCEL);
    const late = { paymentId: 'pay-2', amountCents: 100 };
    expect(await send(before, `/v1/orders/${orderId}/pay`, late)).toMatchObject({ owedCents: 0 });
    expect(await summaryOf(orderId)).toMatchObject({ allowance_cents: 300 });
    const owed = { refundedCents: 300, capturedCents: 2600, owedCents: 100 };
    expect(await read(now, `/v1/orders/${orderId}`)).toMatchObject(owed);
  });

  test('fulfils its own orders, and this one fulfils what it leaves in the middle', async () => {
    const automatic = { fulfilment: 'automatic' };
    const own = await place(before, automatic);
    const begun = await place(now, deliverable);
    await send(before, `/v1/orders/${begun}/fulfil`);
    await eventually(async () => {
      expect([await stateOf(own), await stateOf(begun)]).toEqual(['completed', 'completed']);
      return true;
    });
    await world.simulator.addFault({ operation: 'capture', fault: 'hold' });
    const left = await place(before, automatic);
    await world.simulator.nextCall({ orderId: left, operation: 'capture' });
    await before.kill();
    await world.simulator.clearFaults();
    await world.simulator.release();
    await eventually(async () => (await stateOf(left)) === 'completed');
    await before.restart();
    for (const orderId of [own, begun, left]) await expectToAgree(orderId);
  });

  test('leaves the fulfilments of this one to it, and may ask for their cancellation', async () => {
    await world.simulator.addFault({ operation: 'capture', fault: 'hold' });
    const orderId = await place(now, { fulfilment: 'automatic', ...deliverable });
    await world.simulator.nextCall({ orderId, operation: 'capture' });
    await now.kill();
    await world.simulator.clearFaults();
    await world.simulator.release();
    const epoch = () =>
      world.database.query('select epoch, owner from saga_work where subject_id = $1', [orderId]);
    const ofTheDead = await epoch();
    // It claims and fulfils its own meanwhile, for longer than the lease of the dead one lasts.
    await eventually(async () => {
      const own = await place(before, { fulfilment: 'automatic' });
      await eventually(async () => {
        const { body } = await call(before, 'GET', `/v1/orders/${own}/fulfilment`);
        return body['state'] === 'completed';
      });
      const [{ isOver } = { isOver: false }] = await world.database.query<{ isOver: boolean }>(
        `select lease_until < clock_timestamp() as "isOver" from saga_work where subject_id = $1`,
        [orderId],
      );
      return isOver;
    });
    expect(await epoch()).toEqual(ofTheDead);
    await send(before, `/v1/orders/${orderId}/cancel`, { reason: 'changed my mind' });
    await now.restart();
    await eventually(async () => (await stateOf(orderId)) === 'compensated');
    expect(await read(before, `/v1/orders/${orderId}`)).toMatchObject({
      status: 'cancelled',
      owedCents: 0,
    });
    await expectToAgree(orderId);
  });

  test('leaves no row wrong, as both of them see it', async () => {
    await untilAtRest(world, 1);
    for (const main of [release.main, MAIN]) {
      const { code, output } = await operate(['projections', 'verify'], world.database.url, main);
      expect(output).toContain(' 0 differ');
      expect(code).toBe(0);
    }
  });

  test.each(Object.entries(news))(
    'refuses an order with the event %s, says why in its log, and writes nothing',
    async (type, events) => {
      const orderId = await storeOrder(world, type, events);
      const shown = await read(now, `/v1/orders/${orderId}`);
      const row = await summaryOf(orderId);
      const commands: readonly (readonly [string, unknown])[] = [
        ['pay', { paymentId: 'pay-2', amountCents: 1 }],
        ['ship', { trackingNumber: 'T-9', carrier: 'post' }],
        ['refund', { refundId: 'ref-9', amountCents: 1 }],
        ['cancel', { reason: 'changed my mind' }],
        ['fulfil', undefined],
      ];
      for (const [name, body] of commands) {
        expect(await call(before, 'POST', `/v1/orders/${orderId}/${name}`, body)).toMatchObject(
          UNREADABLE,
        );
      }
      const path = `/v1/orders/${orderId}`;
      expect(await call(before, 'GET', path)).toMatchObject(UNREADABLE);
      const unread = events.find((event) => event.type in news)?.type;
      expect(before.log().join('\n')).toContain(`stored event ${unread} of schema version 1`);
      // It shows what it need not understand.
      expect(await read(before, `${path}/events`)).toEqual(await read(now, `${path}/events`));
      const list = await read(before, `/v1/orders?customerId=${type}`);
      expect(list).toMatchObject({ data: [{ orderId, status: shown['status'] }] });
      expect(await summaryOf(orderId)).toEqual(row);
      expect(await read(now, `/v1/orders/${orderId}`)).toEqual(shown);
      // Others are not held up.
      const other = await place(before);
      await send(before, `/v1/orders/${other}/pay`, { paymentId: 'pay-1', amountCents: 2500 });
    },
  );

  test('knows every event of this one that is not named here', async () => {
    const path = release.main.replace('main.ts', 'orders/domain/order-events.ts');
    const { orderEvents: known } = z
      .object({ orderEvents: z.record(z.string(), z.unknown()) })
      .parse(await import(/* @vite-ignore */ path));
    const unknown = Object.keys(orderEvents).filter((type) => !(type in known));
    expect(Object.keys(news)).toEqual(unknown);
  });

  test('writes no row anew of an order that it cannot read, and does not start again', async () => {
    const rows = () => world.database.query('select * from orders_summary order by order_id');
    const kept = await rows();
    const rebuilt = await operate(['projections', 'rebuild'], world.database.url, release.main);
    expect(rebuilt).toMatchObject({ code: 1 });
    expect(await rows()).toEqual(kept);
    await before.kill();
    await expect(before.restart()).rejects.toThrow('may be in the log');
    const { code, output } = await operate(['projections', 'verify'], world.database.url);
    expect(output).toContain(' 0 differ');
    expect(code).toBe(0);
  });
});

/** Writes an order that this release has written, with these events after its payment. */
async function storeOrder(
  { database }: SagaWorld,
  customerId: string,
  events: readonly OrderEvent[],
): Promise<string> {
  const id = uuidv7();
  const items = [{ lineId: '1', sku: 'book', quantity: 2, priceCents: 1250 }];
  const data = { orderId: id, customerId, currency: 'EUR', items, totalCents: 2500 };
  const placed: OrderEvent = { type: 'OrderPlaced', data };
  const { unit } = appendToOrder(id, null, [placed, paid, ...events], {
    recordedAt: new Date().toISOString(),
    metadata: { correlationId: 'test', actor: 'test' },
    topic: 'orders',
  });
  const pool = new Pool({ connectionString: database.url, max: 1 });
  expect(await createPostgresUnitStore(pool).write([unit])).toEqual(['ok']);
  await pool.end();
  return id;
}

/** Runs a command of operators, of this release or of another. */
async function operate(args: readonly string[], databaseUrl: string, main = MAIN) {
  const env = { PATH: process.env['PATH'], DATABASE_URL: databaseUrl };
  const child = spawn(process.execPath, [main, ...args], { env });
  let output = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (data: Buffer) => (output += data.toString()));
  }
  const [code] = await once(child, 'close');
  return { code, output };
}
