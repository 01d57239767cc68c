import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { globSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { z } from 'zod';
import { orderEvents } from '#src/orders/domain/order-events.ts';
import { makeFixture } from '#test/fixtures/histories.ts';
import {
  json,
  loadFixture,
  migrationHashes,
  parseFixture,
  readFixture,
} from '#test/fixtures/rows.ts';
import type { Fixture, Json } from '#test/fixtures/rows.ts';
import type { TestDatabase } from '#test/support/database.ts';
import type { HttpResponse } from '#test/support/http-client.ts';
import { skipReason } from '#test/support/infra.ts';
import { faultsOf, isComplete } from '#test/outbox/delivery.ts';
import { createTestTopic, readTopic } from '#test/support/kafka.ts';
import { foldOrder } from '#test/support/order-fold.ts';
import { eventually } from '#test/support/poll.ts';
import { createSagaWorld } from '#test/support/saga/world.ts';
import type { SagaWorld } from '#test/support/saga/world.ts';
import { startService } from '#test/support/service.ts';
import type { TestService } from '#test/support/service.ts';
import { aboutSummaries, historiesOf, readStored } from '#test/support/verify-database.ts';

const FIXTURES = new URL('../fixtures/', import.meta.url);
const MAIN = fileURLToPath(new URL('../../src/main.ts', import.meta.url));

const fixtures = globSync('release-*.jsonl', { cwd: FIXTURES }).toSorted();

/*
 * G8: whatever an earlier release stored is read, shown and continued by this one, for ever.
 */
describe.skipIf(skipReason('postgres')).each(fixtures)('what is in %s', (file) => {
  let fixture: Fixture;
  let database: TestDatabase;
  let world: SagaWorld;
  let service: TestService;

  beforeAll(async () => {
    fixture = await readFixture(new URL(file, FIXTURES));
    database = await loadFixture(fixture);
    world = await createSagaWorld();
    service = await startService({ databaseUrl: database.url, env: world.env });
  });
  afterAll(async () => {
    await service[Symbol.asyncDispose]();
    await world[Symbol.asyncDispose]();
    await database[Symbol.asyncDispose]();
  });

  const orderNamed = (name: string) => {
    const order = fixture.orders.find(({ order }) => order === name);
    if (!order) throw new Error(`the fixture has no order that ${name}`);
    return order;
  };
  const command = async (orderId: string, name: string, body?: unknown) => {
    const path = `/v1/orders/${orderId}/${name}`;
    return bodyOf(await service.api.request('POST', path, { ...(body !== undefined && { body }) }));
  };
  const inParcels = async (orderId: string) => {
    const parcel = { trackingNumber: 'P-1', carrier: 'post' };
    const items = [{ lineId: '1', quantity: 1 }];
    expect(await command(orderId, 'ship', { ...parcel, items })).toMatchObject({
      status: 'paid',
      shipmentStatus: 'partially_shipped',
    });
    const rest = { trackingNumber: 'P-2', carrier: 'post' };
    expect(await command(orderId, 'ship', rest)).toMatchObject({
      status: 'shipped',
      items: [{ shippedQuantity: 2 }, { shippedQuantity: 5 }],
    });
    await command(orderId, 'deliver', { trackingNumber: 'P-1' });
    const delivered = await command(orderId, 'deliver', { trackingNumber: 'P-2' });
    expect(delivered).toMatchObject({ shipmentStatus: 'delivered' });
  };
  /** Who captured the payment was not recorded: a refund is recorded, as the release did it. */
  const comesBack = async (orderId: string) => {
    const items = [{ lineId: '2', quantity: 2 }];
    const body = { returnId: 'ret-1', items, reason: 'too many', restock: true };
    expect(await command(orderId, 'return', body)).toMatchObject({
      items: [{ returnedQuantity: 0 }, { shippedQuantity: 5, returnedQuantity: 2 }],
    });
    const refund = { refundId: 'late-1', amountCents: 200, returnId: 'ret-1' };
    expect(await command(orderId, 'refund', refund)).toMatchObject({
      paymentStatus: 'partially_refunded',
      owedCents: 0,
      refunds: [{ refundId: 'late-1', state: 'refunded' }],
    });
  };
  const read = async (path: string) => bodyOf(await service.api.request('GET', path));
  const fulfilment = (orderId: string) => read(`/v1/orders/${orderId}/fulfilment`);

  test('was made by migrations that nobody has changed since', async () => {
    expect(Object.fromEntries(await migrationHashes())).toMatchObject(fixture.migrations);
  });

  test('agrees with the summaries, before any of them is written again', async () => {
    const { code, output } = await operate(['projections', 'verify'], database.url);
    expect(output).toContain(`${fixture.orders.length} checked, 0 differ`);
    expect(code).toBe(0);
  });

  test('is shown as the release showed it, at each version of each order', async () => {
    for (const { order, versions } of fixture.orders) {
      for (const [index, shown] of versions.entries()) {
        const path = `/v1/orders/${idOf(shown)}?version=${index + 1}`;
        const now = await read(path);
        expect(now, `the order that ${order}`).toMatchObject(shown);
        expect(now, `the order that ${order}`).toMatchObject(addedTo(shown));
      }
      const first = versions[0]!;
      const at = `/v1/orders/${idOf(first)}?at=${String(first['placedAt'])}`;
      expect((await read(at))['version']).toBeGreaterThan(0);
    }
  });

  test('is listed with what is new', async () => {
    const { data } = listShape.parse(await read('/v1/orders?limit=100'));
    expect(data).toHaveLength(fixture.orders.length);
    for (const { versions } of fixture.orders) {
      const last = versions.at(-1)!;
      const { paymentStatus, shipmentStatus } = addedTo(last);
      const row = data.find(({ orderId }) => orderId === last['orderId']);
      // A saga that was interrupted may have gone on.
      if (row?.['version'] !== last['version']) continue;
      expect(row).toMatchObject({ paymentStatus, shipmentStatus });
    }
  });

  test('is replayed byte for byte to callers who retry', async () => {
    const rows = new Map(fixture.rows.get('idempotency_keys')!.map((row) => [row['key'], row]));
    expect(fixture.commands.length).toBeGreaterThan(10);
    for (const { key, method, path, body } of fixture.commands) {
      const row = rows.get(key)!;
      const { status, headers, text } = await service.api.request(method, path, {
        ...(body !== undefined && { body }),
        headers: { 'idempotency-key': key },
      });
      expect(headers['idempotency-replayed'], `${key}: ${text}`).toBe('true');
      // A command without effect is stored as the version that it found.
      if (row['status'] === 0) {
        expect({ status, etag: headers.etag }).toEqual({
          status: 200,
          etag: `"v${String(row['body'])}"`,
        });
        continue;
      }
      const { location = null, etag } = headers;
      expect({ status, etag, location, body: text }).toEqual({
        status: row['status'],
        etag: row['etag'],
        location: row['location'] ?? null,
        body: row['body'],
      });
    }
  });

  test('is continued: sagas end, an operator repairs, orders take their next commands', async () => {
    const ends = {
      'waits for the bank': 'completed',
      'waits for the carrier': 'completed',
      'waits for the bank while it is cancelled': 'compensated',
    };
    for (const [name, end] of Object.entries(ends)) {
      const orderId = idOf(orderNamed(name).versions[0]!);
      await eventually(async () => (await fulfilment(orderId))['state'] === end);
      expect(await fulfilment(orderId)).toMatchObject({ definitionVersion: 1 });
      const ended = { fulfilment: end, status: end === 'completed' ? 'shipped' : 'cancelled' };
      expect(await read(`/v1/orders/${orderId}`)).toMatchObject(ended);
    }
    const stuck = idOf(orderNamed('is stuck with its refund').versions[0]!);
    await service.api.request('POST', `/v1/orders/${stuck}/fulfilment/resolve`, {
      body: { step: 'refund', outcome: 'done', reference: 'found', reason: 'seen at the bank' },
      headers: { 'if-match': '*' },
    });
    await eventually(async () => (await fulfilment(stuck))['state'] === 'compensated');
    expect(await read(`/v1/orders/${stuck}`)).toMatchObject({ status: 'cancelled', owedCents: 0 });

    const rest = idOf(orderNamed('was paid in part').versions[0]!);
    const paid = await command(rest, 'pay', { paymentId: 'pay-2', amountCents: 1500 });
    expect(paid).toMatchObject({ status: 'paid', paymentId: 'pay-2', version: 3 });
    const owing = idOf(orderNamed('was cancelled and paid late').versions[0]!);
    const refund = { refundId: 'ref-3', amountCents: 2000 };
    expect(await command(owing, 'refund', refund)).toMatchObject({ owedCents: 0 });
    await inParcels(idOf(orderNamed('was paid in two parts').versions[0]!));
    for (const name of ['was shipped', 'was fulfilled at once']) {
      await comesBack(idOf(orderNamed(name).versions[0]!));
    }
    const begun = idOf(orderNamed('was placed').versions[0]!);
    expect(await command(begun, 'cancel', { reason: 'late' })).toMatchObject({ version: 2 });
  });

  test('agrees with the events again after all that, also after a rebuild', async () => {
    for (const [name, found] of [
      ['verify', '0 differ'],
      ['rebuild', ''],
      ['verify', '0 differ'],
      ['rebuild', '0 written'],
    ] as const) {
      const { code, output } = await operate(['projections', name], database.url);
      expect(output).toContain(`${fixture.orders.length} checked, ${found}`);
      expect(code).toBe(0);
    }
    const { events, summaries } = await readStored(database.url);
    const orders = [...historiesOf(events)].filter(([, [first]]) => first?.type === 'OrderPlaced');
    const folded = new Map(orders.map(([orderId, own]) => [orderId, foldOrder(own)]));
    expect(folded.size).toBe(fixture.orders.length);
    expect(aboutSummaries(summaries, folded)).toEqual([]);
    expect(await database.query('select sku, on_hand, reserved from stock order by sku')).toEqual([
      { sku: 'book', on_hand: 992, reserved: 0 },
      { sku: 'pen', on_hand: 989, reserved: 0 },
    ]);
  });
});

describe.skipIf(skipReason('postgres') ?? skipReason('kafka')).each(fixtures)(
  'the messages in %s',
  (file) => {
    test('reach Kafka as they are stored, each key in order, with what comes after', async () => {
      await using topic = await createTestTopic(3);
      const fixture = await readFixture(new URL(file, FIXTURES));
      const stored = fixture.rows.get('outbox_events')!;
      const rows = new Map(fixture.rows);
      rows.set(
        'outbox_events',
        stored.map((row) => ({ ...row, topic: topic.name })),
      );
      await using database = await loadFixture({ ...fixture, rows });
      await using world = await createSagaWorld();
      await using service = await startService({
        databaseUrl: database.url,
        brokers: topic.brokers,
        env: { ...world.env, KAFKA_TOPIC: topic.name },
      });
      const order = fixture.orders.find(({ order }) => order === 'was placed')!.versions[0]!;
      const body = { paymentId: 'pay-1', amountCents: order['totalCents'] };
      await service.api.request('POST', `/v1/orders/${idOf(order)}/pay`, { body });
      const lengths = () =>
        database.query<{ id: string; length: number }>(
          `select stream_id as id, version as length from streams where category = 'order'`,
        );
      await eventually(
        async () => (await database.query('select from outbox_events')).length === 0,
      );
      const expected = new Map((await lengths()).map(({ id, length }) => [id, length]));
      expect(expected.get(idOf(order))).toBe(2);
      const messages = await readTopic(topic.name, {
        brokers: topic.brokers,
        until: (read) => isComplete(read, expected),
      });
      expect(faultsOf(messages, expected)).toEqual([]);
      for (const row of stored) {
        const sent = messages.filter(({ headers }) => headers['ce_id'] === row['ce_id']);
        expect(sent.length).toBeGreaterThan(0);
        for (const { key, value, headers } of sent) {
          expect({ key, value }).toEqual({ key: row['message_key'], value: row['payload'] });
          for (const name of ['specversion', 'type', 'source', 'time', 'subject', 'sequence'])
            expect(headers[`ce_${name}`]).toBe(row[`ce_${name}`]);
        }
      }
    });
  },
);

describe.skipIf(skipReason('postgres'))('the histories of the fixtures', () => {
  test('write every event that this release knows', async () => {
    const text = await makeFixture(process.env['FIXTURE'] ?? 'this');
    if (process.env['FIXTURE'] !== undefined) {
      await writeFile(new URL(`release-${process.env['FIXTURE']}.jsonl`, FIXTURES), text);
    }
    const { rows } = parseFixture(text);
    const types = new Set(rows.get('events')!.map(({ type }) => type));
    expect(Object.keys(orderEvents).filter((type) => !types.has(type))).toEqual([]);
    const states = rows.get('saga_work')!.map(({ state }) => state);
    expect(new Set(states)).toEqual(new Set(['running', 'compensating', 'stuck']));
  });
});

const listShape = z.looseObject({ data: z.array(json) });
const shownShape = z.looseObject({
  status: z.string(),
  items: z.array(z.looseObject({ quantity: z.int() })),
  capturedCents: z.int(),
  refundedCents: z.int(),
  paidAt: z.string().optional(),
  shippedAt: z.string().optional(),
  trackingNumber: z.string().optional(),
  carrier: z.string().optional(),
});

/** The members that later releases show of an order that an earlier one stored and showed. */
function addedTo(shown: Json) {
  const { items, capturedCents, refundedCents, ...order } = shownShape.parse(shown);
  const isShipped = order.status === 'shipped';
  const { trackingNumber, carrier, shippedAt } = order;
  const lineOf = (index: number) => String(index + 1);
  const refunded = refundedCents >= capturedCents ? 'refunded' : 'partially_refunded';
  const paid = order.paidAt === undefined ? 'unpaid' : 'paid';
  const parcel = {
    trackingNumber,
    carrier,
    shippedAt,
    items: items.map(({ quantity }, index) => ({ lineId: lineOf(index), quantity })),
  };
  return {
    paymentStatus: refundedCents > 0 ? refunded : paid,
    shipmentStatus: isShipped ? 'shipped' : 'unshipped',
    items: items.map(({ quantity }, index) => ({
      lineId: lineOf(index),
      shippedQuantity: isShipped ? quantity : 0,
      returnedQuantity: 0,
    })),
    shippingCents: 0,
    taxCents: 0,
    discountCents: 0,
    parcels: isShipped ? [parcel] : [],
    returns: [],
  };
}

function idOf(order: Json): string {
  return String(order['orderId']);
}

function bodyOf({ status, text }: HttpResponse): Json {
  if (status < 200 || status > 299) throw new Error(`got ${status}: ${text}`);
  return json.parse(JSON.parse(text));
}

/** Runs a command of operators. */
async function operate(args: readonly string[], databaseUrl: string) {
  const env = { PATH: process.env['PATH'], DATABASE_URL: databaseUrl };
  const child = spawn(process.execPath, [MAIN, ...args], { env });
  let output = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (data: Buffer) => (output += data.toString()));
  }
  const [code] = await once(child, 'close');
  return { code, output };
}
