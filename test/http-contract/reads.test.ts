import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { historyOf, orderOf, problemOf, rowOf } from '#test/support/api-shapes.ts';
import type { Order, OrderRow } from '#test/support/api-shapes.ts';
import { createTestDatabase } from '#test/support/database.ts';
import type { TestDatabase } from '#test/support/database.ts';
import { skipReason } from '#test/support/infra.ts';
import { placeBody } from '#test/support/order-api.ts';
import type { OrderApi } from '#test/support/order-api.ts';
import { startService } from '#test/support/service.ts';
import type { TestService } from '#test/support/service.ts';

/*
 * Reads: an order now and as it was, its history, and lists by page.
 */
const ORDERS = 120;
const CUSTOMER = 'paged';

describe.skipIf(skipReason('postgres'))('reading', () => {
  let database: TestDatabase;
  let service: TestService;
  let api: OrderApi;

  beforeAll(async () => {
    database = await createTestDatabase();
    const env = { CORS_ORIGINS: 'https://shop.example' };
    service = await startService({ databaseUrl: database.url, env });
    ({ api } = service);
  });
  afterAll(async () => {
    await service[Symbol.asyncDispose]();
    await database[Symbol.asyncDispose]();
  });

  test('again what has not changed gets 304, on every route', async () => {
    const order = await api.placeOrder();
    await api.request('PUT', '/v1/stock/book', { body: { onHand: 10 } });
    const reads = {
      '/v1/orders?customerId=c-1': () => api.pay(order),
      [`/v1/orders/${order.orderId}/events`]: () => api.ship(order),
      '/v1/stock': () => api.request('PUT', '/v1/stock/book', { body: { onHand: 11 } }),
      '/v1/stock/book': () => api.request('PUT', '/v1/stock/book', { body: { onHand: 12 } }),
    };
    for (const [path, change] of Object.entries(reads)) {
      const ask = (tag: string) => api.request('GET', path, { headers: { 'if-none-match': tag } });
      const etag = (await api.request('GET', path)).headers['etag']!;
      expect(await ask(etag), path).toMatchObject({ status: 304, text: '', headers: { etag } });
      await change();
      expect(await ask(etag), path).toMatchObject({ status: 200 });
    }
    const script = '/docs/swagger-ui-bundle.js';
    const { headers } = await api.request('GET', script);
    const again = { headers: { 'if-none-match': headers['etag']! } };
    expect(await api.request('GET', script, again)).toMatchObject({ status: 304, text: '' });
  });

  test('is allowed to pages of the configured origins', async () => {
    const allowed = async (origin: string) => {
      const { status, headers } = await api.request('GET', '/v1/orders', { headers: { origin } });
      expect(status).toBe(200);
      return headers['access-control-allow-origin'];
    };
    expect(await allowed('https://shop.example')).toBe('https://shop.example');
    expect(await allowed('https://other.example')).toBeUndefined();
  });

  test('gives a compressed order a tag that names its version in If-Match', async () => {
    const items = Array.from({ length: 40 }, (_, n) => ({ ...placeBody.items[0]!, sku: `s-${n}` }));
    const order = await api.placeOrder({ items });
    const path = `/v1/orders/${order.orderId}`;
    const headers = { 'accept-encoding': 'gzip' };
    const read = await api.request('GET', path, { headers });
    expect(read.headers).toMatchObject({ 'content-encoding': 'gzip', etag: '"v1-gzip"' });
    const reason = { reason: 'r' };
    const other = await api.send('cancel', order.orderId, reason, { ifMatch: '"v2-gzip"' });
    expect(other.status).toBe(412);
    const ifMatch = read.headers['etag']!;
    expect((await api.send('cancel', order.orderId, reason, { ifMatch })).status).toBe(200);
    const again = { headers: { ...headers, 'if-none-match': ifMatch } };
    expect((await api.request('GET', path, again)).status).toBe(200);
  });

  test('gives strong ETags only where they can be used in If-Match', async () => {
    const order = await api.placeOrder();
    const { headers } = await api.request('GET', '/v1/orders');
    const body = { reason: 'r' };
    const cancel = (ifMatch: string) => api.send('cancel', order.orderId, body, { ifMatch });
    for (const tag of [headers['etag']!, 'W/"v1"']) {
      expect(problemOf(await cancel(tag))).toMatchObject({
        status: 412,
        current: { status: 'pending', version: 1, allowed: expect.arrayContaining(['cancel']) },
      });
    }
    expect(await cancel('"v1"')).toMatchObject({ status: 200 });
  });

  describe('an order', () => {
    let versions: Order[];
    let path: string;

    beforeAll(async () => {
      const placed = await api.placeOrder();
      const paid = await api.pay(placed);
      const cancelled = await api.cancel(placed);
      const refund = { refundId: 'ref-1', amountCents: 2500 };
      const refunded = orderOf(await api.send('refund', placed.orderId, refund));
      versions = [placed, paid, cancelled, refunded];
      path = `/v1/orders/${placed.orderId}`;
    });

    test('gets the response to the last command, in either case of its id', async () => {
      const response = await api.request('GET', path);
      expect(response).toMatchObject({ status: 200, headers: { etag: '"v4"' } });
      expect(orderOf(response)).toEqual(versions[3]);
      const upper = path.replace(/[^/]+$/, (id) => id.toUpperCase());
      expect(orderOf(await api.request('GET', upper))).toEqual(versions[3]);
    });

    test.each(['"v4"', 'W/"v4"', '"v1", "v4"', '*'])(
      'is not sent again for If-None-Match %s',
      async (tag) => {
        const response = await api.request('GET', path, { headers: { 'if-none-match': tag } });
        expect(response).toMatchObject({ status: 304, text: '', headers: { etag: '"v4"' } });
      },
    );

    test.each(['"v3"', '"4"', '"v4x"'])('is sent for If-None-Match %s', async (tag) => {
      const response = await api.request('GET', path, { headers: { 'if-none-match': tag } });
      expect(orderOf(response)).toEqual(versions[3]);
    });

    test('is shown as it was at each version', async () => {
      for (const [index, order] of versions.entries()) {
        const response = await api.request('GET', `${path}?version=${index + 1}`);
        expect(orderOf(response)).toEqual(order);
        expect(response.headers['etag']).toBe(`"v${index + 1}"`);
      }
    });

    test('is shown as it was at each time', async () => {
      const { data } = historyOf(await api.request('GET', `${path}/events`));
      const times = data.map(({ recordedAt }) => Date.parse(recordedAt));
      for (const at of times.flatMap((time) => [time - 1, time, time + 1])) {
        const version = times.filter((time) => time <= at).length;
        const response = await api.request('GET', `${path}?at=${new Date(at).toISOString()}`);
        if (version === 0) expect(problemOf(response).code).toBe('order_version_not_found');
        else expect(orderOf(response)).toEqual(versions[version - 1]);
      }
      const later = await api.request('GET', `${path}?at=2999-01-01T00:00:00Z`);
      expect(orderOf(later)).toEqual(versions[3]);
    });

    test('has a history of what happened, when and by whose request', async () => {
      const response = await api.request('GET', `${path}/events`);
      const { data } = historyOf(response);
      const [placed, paid, cancelled] = versions;
      const items = placeBody.items.map((item, index) => ({ lineId: String(index + 1), ...item }));
      const common = {
        schemaVersion: 1,
        position: expect.any(Number),
        metadata: expect.objectContaining({
          correlationId: expect.any(String),
          actor: expect.any(String),
        }),
      };
      expect(data).toEqual([
        {
          version: 1,
          type: 'OrderPlaced',
          ...common,
          data: { orderId: placed!.orderId, ...placeBody, items, totalCents: 2500 },
          recordedAt: placed!.placedAt,
        },
        {
          version: 2,
          type: 'PaymentCaptured',
          ...common,
          data: { amountCents: 2500, paymentId: 'pay-1' },
          recordedAt: paid!.paidAt,
        },
        {
          version: 3,
          type: 'OrderCancelled',
          ...common,
          data: { reason: 'wrong size', refundAmountCents: 2500 },
          recordedAt: cancelled!.cancelledAt,
        },
        {
          version: 4,
          type: 'PaymentRefunded',
          ...common,
          data: { refundId: 'ref-1', amountCents: 2500, paymentId: 'pay-1' },
          recordedAt: data[3]!.recordedAt,
        },
      ]);
      const positions = data.map(({ position }) => position);
      expect(positions).toEqual([...new Set(positions)].toSorted((a, b) => a - b));
    });

    test('has times that never go back, even if clocks differ', async () => {
      const { orderId, totalCents } = await api.placeOrder();
      const ahead = new Date(Date.now() + 3_600_000).toISOString();
      await database.query(
        `alter table events disable trigger events_append_only;
         update events set recorded_at = '${ahead}' where stream_id = '${orderId}';
         alter table events enable trigger events_append_only;`,
      );
      const paid = await api.pay({ ...versions[0]!, orderId, totalCents });
      expect(paid).toMatchObject({ placedAt: ahead, paidAt: ahead });
      expect(await api.get(orderId, `?at=${ahead}`)).toEqual(paid);
    });

    test('responds to HEAD as to GET, without the body', async () => {
      const [get, head] = [await api.request('GET', path), await api.request('HEAD', path)];
      expect(head).toMatchObject({ status: 200, text: '' });
      for (const name of ['etag', 'content-type', 'content-length']) {
        expect(head.headers[name]).toBe(get.headers[name]);
      }
    });
  });

  test('the stream of something else is not an order, for reads and for commands', async () => {
    const sagaId = '01999e5c-7c1f-7d3a-9f52-3b6f0c9d2a12';
    await database.query(
      `insert into streams values ('${sagaId}', 'fulfilment', 1);
       insert into events (stream_id, version, type, schema_version, data, metadata, recorded_at)
       values ('${sagaId}', 1, 'SagaStarted', 1, '{}', '{"correlationId": "c", "actor": "a"}', now())`,
    );
    const path = `/v1/orders/${sagaId}`;
    const responses = [
      await api.request('GET', path),
      await api.request('GET', `${path}?version=1`),
      await api.request('GET', `${path}/events`),
      await api.send('pay', sagaId, { paymentId: 'pay-1', amountCents: 2500 }),
      await api.send('cancel', sagaId, { reason: 'wrong size' }, { key: 'of-a-saga' }),
    ];
    for (const response of responses) {
      expect(problemOf(response)).toMatchObject({ status: 404, code: 'order_not_found' });
    }
  });

  describe('a list', () => {
    let orders: OrderRow[];

    beforeAll(async () => {
      const all = Array.from({ length: ORDERS }, async (_, index) => {
        const order = await api.placeOrder({ customerId: CUSTOMER });
        if (index % 3 === 0) return order;
        const paid = await api.pay(order);
        return index % 3 === 1 ? paid : api.ship(paid);
      });
      orders = (await Promise.all(all)).map(rowOf).toSorted(newestFirst);
      await Promise.all(Array.from({ length: 5 }, () => api.placeOrder()));
      await tie();
    });

    /** Several orders of each instant, so that pages end between orders of one. */
    async function tie(): Promise<void> {
      await database.query(
        `update orders_summary set placed_at = date_trunc('second', placed_at)
           + (('x' || right(order_id::text, 1))::bit(4)::int % 5) * interval '10 ms'`,
      );
      const rows = await api.listAll();
      const own = new Set(orders.map(({ orderId }) => orderId));
      orders = rows.filter(({ orderId }) => own.has(orderId)).toSorted(newestFirst);
      expect(new Set(orders.map(({ placedAt }) => placedAt)).size).toBeLessThan(ORDERS / 5);
    }

    test.each([1, 7, 60, 100])(
      'is walked by pages of %i, newest first, each order once',
      async (limit) => {
        const walked: OrderRow[] = [];
        let cursor: string | null = '';
        while (cursor !== null) {
          const query = { customerId: CUSTOMER, limit: String(limit), ...(cursor && { cursor }) };
          const page = await api.list(query);
          const isLast = walked.length + page.data.length === ORDERS;
          expect(page.data).toHaveLength(isLast ? ORDERS - walked.length : limit);
          expect(page.nextCursor === null).toBe(isLast);
          walked.push(...page.data);
          cursor = page.nextCursor;
        }
        expect(walked).toEqual(orders);
      },
    );

    test('shows each order once while others are placed', async () => {
      const done = new AbortController();
      const placing = Promise.all(
        Array.from({ length: 4 }, async () => {
          while (!done.signal.aborted) await api.placeOrder({ customerId: CUSTOMER });
        }),
      );
      try {
        for (let walk = 0; walk < 3; walk += 1) {
          const rows = await api.listAll({ customerId: CUSTOMER, limit: '9' });
          const ids = rows.map((row) => row.orderId);
          expect(new Set(ids).size).toBe(ids.length);
          expect(orders.filter(({ orderId }) => !ids.includes(orderId))).toEqual([]);
        }
      } finally {
        done.abort();
        await placing;
      }
      await database.query(
        `delete from orders_summary where customer_id = $1
        and not (order_id = any($2::uuid[]))`,
        [CUSTOMER, orders.map(({ orderId }) => orderId)],
      );
    });

    test('has 25 orders by default, and may be empty', async () => {
      expect((await api.list()).data).toHaveLength(25);
      expect(await api.list({ customerId: 'nobody' })).toEqual({ data: [], nextCursor: null });
    });

    test.each(['pending', 'paid', 'shipped', 'cancelled'])(
      'of %s orders shows those',
      async (status) => {
        const query = { customerId: CUSTOMER, status, limit: '11' };
        expect(await api.listAll(query)).toEqual(orders.filter((order) => order.status === status));
      },
    );

    test('includes both ends of a range of times', async () => {
      const instants = [...new Set(orders.map(({ placedAt }) => placedAt))];
      const [placedTo, placedFrom] = [instants[1]!, instants.at(-2)!];
      const isWithin = ({ placedAt }: OrderRow) => placedAt >= placedFrom && placedAt <= placedTo;
      const own = { customerId: CUSTOMER, limit: '13' };
      expect(await api.listAll({ ...own, placedFrom, placedTo })).toEqual(orders.filter(isWithin));
      const from = orders.filter(({ placedAt }) => placedAt >= placedFrom);
      expect(await api.listAll({ ...own, placedFrom })).toEqual(from);
      const paid = orders.filter((order) => order.status === 'paid' && isWithin(order));
      expect(await api.listAll({ ...own, status: 'paid', placedFrom, placedTo })).toEqual(paid);
      const none = { ...own, placedFrom: placedTo, placedTo: placedFrom };
      expect(await api.listAll(none)).toEqual([]);
    });

    test('refuses the cursor of another list and a damaged one', async () => {
      const { nextCursor } = await api.list({ customerId: CUSTOMER, limit: '5' });
      const cursor = nextCursor!;
      for (const query of [
        { customerId: 'c-1', cursor },
        { cursor },
        { customerId: CUSTOMER, status: 'paid', cursor },
        { customerId: CUSTOMER, cursor: cursor.slice(0, -1) },
        { customerId: CUSTOMER, cursor: cursor.slice(1) },
      ]) {
        const search = new URLSearchParams(query).toString();
        const response = await api.request('GET', `/v1/orders?${search}`);
        expect(problemOf(response), search).toMatchObject({ status: 400, code: 'cursor_invalid' });
      }
    });
  });
});

function newestFirst(a: OrderRow, b: OrderRow): number {
  return `${b.placedAt} ${b.orderId}`.localeCompare(`${a.placedAt} ${a.orderId}`);
}
