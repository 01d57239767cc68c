import { Client } from 'pg';
import { v7 as uuidv7 } from 'uuid';
import { describe, expect, test } from 'vitest';
import type { OrdersSummaryRow, Unit } from '#src/event-store/event-store.ts';
import { appendToOrder } from '#src/orders/order-stream.ts';
import { skipReason } from '#test/support/infra.ts';
import { placed, shipped } from '#test/support/orders.ts';
import { eventually } from '#test/support/poll.ts';
import { append, begin, createStore, moved, reserve, unit } from '#test/support/unit-store.ts';

const context = {
  recordedAt: '2026-01-01T00:00:00.000Z',
  metadata: { correlationId: 'test', actor: 'test' },
  topic: 'orders',
};

function withResponse(key: string): Unit {
  const stored = { requestHash: Buffer.of(1), status: 200, etag: null, location: null, body: '' };
  const response = { ref: { principal: 'p', key }, commandId: uuidv7(), stored };
  return { ...unit({}), response };
}

describe.skipIf(skipReason('postgres'))(
  'a unit that needs a row that another transaction has locked',
  () => {
    const [stream, order, sagaId, subjectId] = [uuidv7(), uuidv7(), uuidv7(), uuidv7()];
    const newOrder = appendToOrder(order, null, [placed], context);
    const shipping = appendToOrder(order, newOrder.order, [shipped], context);
    const customer = { customer_id: 'c-1', shipping_address: { city: 'Berlin' } };
    const secrets = { contact: null, payment_method: 'tok_1' };
    test.each<[string, string, Unit]>([
      [
        'stream',
        `update streams set version = 2 where stream_id = '${stream}'`,
        unit({}, [append(stream, 1)]),
      ],
      ['row of the read model', 'select from orders_summary for update', shipping.unit],
      ['saga', 'select from saga_work for update', unit({ sagas: [moved(sagaId, 1)] })],
      [
        'saga, which it wakes',
        'select from saga_work for update',
        unit({ sagas: [{ op: 'wake', subject_id: subjectId }] }),
      ],
      [
        'goods',
        `select from stock where sku = 'a' for update`,
        unit({ reservations: [reserve('a', 1)] }),
      ],
      [
        'goods, which it gives back',
        `select from stock where sku = 'a' for update`,
        unit({ reservations: [{ op: 'release', reservation_id: sagaId }] }),
      ],
      [
        'goods, which it brings back',
        `select from stock where sku = 'a' for update`,
        unit({ reservations: [{ op: 'restock', sku: 'a', quantity: 1 }] }),
      ],
      [
        'personal data, which it changes',
        'select from order_personal_data for update',
        unit({ personalData: [{ op: 'address', order_id: stream, ...customer }] }, [
          append(stream, 1),
        ]),
      ],
      [
        'personal data, which it erases',
        'select from order_personal_data for update',
        unit({ personalData: [{ op: 'erase', order_id: stream }] }, [append(stream, 1)]),
      ],
      [
        'reference',
        `insert into external_references values ('p', 'r', gen_random_uuid())`,
        unit({ reference: { principal: 'p', reference: 'r', order_id: uuidv7() } }),
      ],
      [
        'key',
        `insert into idempotency_keys (principal, key, command_id, request_hash, status, body)
       values ('p', 'k', gen_random_uuid(), '', 200, '')`,
        withResponse('k'),
      ],
    ])('is locked at once, and the others of its batch are written: %s', async (_, lock, held) => {
      await using store = await createStore();
      await store.stock('a', 5);
      await store.stock('b', 5);
      await store.write([
        unit({ personalData: [{ op: 'put', order_id: stream, ...customer, ...secrets }] }, [
          append(stream),
        ]),
        { ...newOrder.unit, sagas: [begin(sagaId, subjectId)] },
        unit({ reservations: [reserve('a', 1, sagaId)] }),
      ]);
      const others = () => [
        unit({ reservations: [reserve('b', 1)], sagas: [begin(uuidv7())] }),
        withResponse(uuidv7()),
      ];
      const somebody = new Client({ connectionString: store.url });
      await somebody.connect();
      await somebody.query('begin');
      await somebody.query(lock);
      const [before] = others();
      const [, after] = others();
      expect(await store.write([before!, held, after!])).toEqual(['ok', 'locked', 'ok']);
      await somebody.query('rollback');
      expect(await store.write([held])).toEqual(['ok']);
      const wrongVersions = await store.query(
        `select stream_id, s.version, count(e) from streams s full join events e using (stream_id)
         group by stream_id, s.version having s.version is distinct from count(e)`,
      );
      expect(wrongVersions).toEqual([]);
      await somebody.end();
    });
  },
);

/*
 * Two batches name the same things in opposite orders. Each also needs one thing that the test holds until both
 * batches have come as far as they can. Without an order of locks, each would then hold what the other needs.
 */
describe.skipIf(skipReason('postgres'))('two batches that need the same rows', () => {
  const ids = Array.from({ length: 4 }, () => uuidv7()).toSorted();
  test.each<[string, (name: number) => Unit, (name: number) => [string, unknown[]]]>([
    [
      'new streams',
      (name) => unit({}, [append(ids[name]!)]),
      (name) => [
        `insert into streams (stream_id, category, version) values ($1, 'test', 0)`,
        [ids[name]],
      ],
    ],
    [
      'goods',
      (name) => unit({ reservations: [reserve(`sku-${name}`, 1)] }),
      (name) => ['select pg_advisory_xact_lock(5, hashtext($1))', [`sku-${name}`]],
    ],
    [
      'goods that come back',
      (name) => unit({ reservations: [{ op: 'restock', sku: `new-${name}`, quantity: 1 }] }),
      (name) => ['select pg_advisory_xact_lock(5, hashtext($1))', [`new-${name}`]],
    ],
  ])('do not deadlock: %s', async (_, unitOf, gate) => {
    await using store = await createStore();
    for (const name of [0, 1, 2, 3]) await store.stock(`sku-${name}`, 10);
    const gates = await Promise.all(
      [1, 2].map(async (name) => {
        const client = new Client({ connectionString: store.url });
        await client.connect();
        await client.query('begin');
        await client.query(...gate(name));
        return client;
      }),
    );
    const there = store.write([0, 1, 3].map(unitOf));
    await eventually(async () => (await waiting(store)) === 1, { everyMs: 5 });
    const back = store.write([3, 2, 0].map(unitOf));
    await eventually(async () => (await waiting(store)) === 2, { everyMs: 5 });
    for (const client of gates) {
      await client.query('rollback');
      await client.end();
    }
    const verdicts = [await there, await back].flat();
    expect(verdicts.filter((verdict) => verdict !== 'ok' && verdict !== 'conflict')).toEqual([]);
  });
});

async function waiting({ query }: Awaited<ReturnType<typeof createStore>>): Promise<number> {
  const [row] = await query<{ count: number }>(
    `select count(*) from pg_stat_activity
     where datname = current_database() and wait_event_type = 'Lock'`,
  );
  return row!.count;
}

describe.skipIf(skipReason('postgres'))(
  'a column that the next release adds to the read model',
  () => {
    type NextRow = OrdersSummaryRow & Readonly<{ gift: string }>;

    test('is written by that release only, and this one keeps its value', async () => {
      await using store = await createStore();
      await store.query(`alter table orders_summary add column gift text not null default 'none'`);
      await store.query('select make_write_summaries()');
      const { order, unit: placing } = appendToOrder(uuidv7(), null, [placed], context);
      const { unit: shipping } = appendToOrder(order.orderId, order, [shipped], context);
      const [before, after] = [placing, shipping].map(({ summaries }) => summaries![0]!);
      const next: NextRow = { ...before!, gift: 'wrapped' };
      const of = (summary: OrdersSummaryRow) => [unit({ summaries: [summary] })];

      expect(await store.write(of(next))).toEqual(['ok']);
      expect(await store.write(of(after!))).toEqual(['ok']);
      expect(await store.query('select status, gift from orders_summary')).toEqual([
        { status: 'shipped', gift: 'wrapped' },
      ]);
      expect(await store.write(of({ ...after!, order_id: uuidv7() }))).toEqual(['ok']);
      expect(await store.query('select gift from orders_summary order by gift')).toEqual([
        { gift: 'none' },
        { gift: 'wrapped' },
      ]);
    });
  },
);
