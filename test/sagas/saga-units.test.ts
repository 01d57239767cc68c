import type { SagaWorkRow } from '#src/event-store/event-store.ts';
import { Pool } from 'pg';
import { v7 as uuidv7 } from 'uuid';
import { describe, expect, test } from 'vitest';
import {
  SagaDefinitionMissing,
  createClaimSagas,
  giveBack,
  requireDefinitions,
} from '#src/sagas/saga-store.ts';
import { createTestDatabase } from '#test/support/database.ts';
import { skipReason } from '#test/support/infra.ts';
import { append, begin, createStore, moved, reserve, unit } from '#test/support/unit-store.ts';

describe.skipIf(skipReason('postgres'))('a unit that reserves stock', () => {
  test('reserves everything, and adds up a sku that is named twice', async () => {
    await using store = await createStore();
    await store.stock('a', 7);
    await store.stock('b', 1);
    const id = uuidv7();
    const reservations = [reserve('a', 3, id), reserve('b', 1, id), reserve('a', 4, id)];
    expect(await store.write([unit({ reservations })])).toEqual(['ok']);
    expect(await store.levels()).toEqual({ a: [7, 7], b: [1, 1] });
    const held = await store.query('select sku, quantity from reservations order by sku');
    expect(held).toEqual([
      { sku: 'a', quantity: 7 },
      { sku: 'b', quantity: 1 },
    ]);
  });

  test('reserves nothing if one sku is short, with the verdict short', async () => {
    await using store = await createStore();
    await store.stock('a', 7);
    const stream = uuidv7();
    const reservations = [reserve('a', 4), reserve('a', 4)];
    expect(await store.write([unit({ reservations }, [append(stream)])])).toEqual(['short']);
    expect(await store.write([unit({ reservations: [reserve('none', 1)] })])).toEqual(['short']);
    expect(await store.levels()).toEqual({ a: [7, 0] });
    expect(await store.query('select from events')).toEqual([]);
    expect(await store.query('select from streams')).toEqual([]);
  });

  test('is judged after the units before it in its batch', async () => {
    await using store = await createStore();
    await store.stock('a', 5);
    const units = [3, 3, 2, 1].map((quantity) => unit({ reservations: [reserve('a', quantity)] }));
    expect(await store.write(units)).toEqual(['ok', 'short', 'ok', 'short']);
    expect(await store.levels()).toEqual({ a: [5, 5] });
  });

  test('reserves nothing if its stream has moved on, and leaves the stock to the others', async () => {
    await using store = await createStore();
    await store.stock('a', 5);
    const lost = unit({ reservations: [reserve('a', 5)] }, [append(uuidv7(), 3)]);
    const other = unit({ reservations: [reserve('a', 5)] });
    expect(await store.write([lost, other])).toEqual(['conflict', 'ok']);
    expect(await store.levels()).toEqual({ a: [5, 5] });
  });

  test('is ended once: by a release, which returns the stock, or a consumption, which removes it', async () => {
    await using store = await createStore();
    await store.stock('a', 9);
    const [released, consumed] = [uuidv7(), uuidv7()];
    await store.write([
      unit({ reservations: [reserve('a', 2, released)] }),
      unit({ reservations: [reserve('a', 3, consumed)] }),
    ]);
    const end = (op: 'release' | 'consume', id: string) =>
      unit({ reservations: [{ op, reservation_id: id }] });
    await store.write([end('release', released), end('consume', consumed)]);
    expect(await store.levels()).toEqual({ a: [6, 0] });
    await store.write([end('release', released), end('consume', consumed)]);
    await store.write([end('consume', released), end('release', consumed)]);
    expect(await store.levels()).toEqual({ a: [6, 0] });
    expect(await store.query('select from reservations')).toEqual([]);
  });

  test('never oversells and never deadlocks, however many reserve at once', async () => {
    await using store = await createStore();
    const skus = ['a', 'b', 'c', 'd', 'e'];
    for (const sku of skus) await store.stock(sku, 100);
    const taken = new Map<string, number>();
    const pick = () => skus[Math.floor(Math.random() * skus.length)]!;
    const held: string[] = [];

    const race = async () => {
      for (let batch = 0; batch < 60; batch += 1) {
        const reserving = Array.from({ length: 4 }, () => {
          const id = uuidv7();
          const lines = [pick(), pick(), pick()].map((sku) => reserve(sku, 1, id));
          return { id, unit: unit({ reservations: lines }) };
        });
        const ending = held.splice(0, 2).map((id) => {
          const op = Math.random() < 0.5 ? ('release' as const) : ('consume' as const);
          return unit({ reservations: [{ op, reservation_id: id }] });
        });
        const units = [...ending, ...reserving.map(({ unit }) => unit)];
        const verdicts = await store.write(units);
        reserving.forEach(({ id }, index) => {
          const verdict = verdicts[ending.length + index]!;
          taken.set(verdict, (taken.get(verdict) ?? 0) + 1);
          if (verdict === 'ok') held.push(id);
        });
      }
    };
    await Promise.all([race(), race(), race()]);

    expect([...taken.keys()].toSorted()).toEqual(['ok', 'short']);
    const wrong = await store.query(
      `select s.sku from stock s left join reservations r using (sku)
       group by s.sku having s.reserved <> coalesce(sum(r.quantity), 0) or s.reserved > s.on_hand`,
    );
    expect(wrong).toEqual([]);
  });
});

describe.skipIf(skipReason('postgres'))('a unit that advances a saga', () => {
  test('is fenced once another process has claimed the saga, and writes nothing', async () => {
    await using store = await createStore();
    const sagaId = uuidv7();
    await store.write([unit({ sagas: [begin(sagaId)] }, [append(sagaId)])]);
    await store.query('update saga_work set epoch = 2');
    const stale = unit({ sagas: [moved(sagaId, 1)] }, [append(sagaId, 1)]);
    const current = unit({ sagas: [moved(sagaId, 2)] }, [append(sagaId, 1)]);
    expect(await store.write([stale])).toEqual(['fenced']);
    expect(await store.query('select from events')).toHaveLength(1);
    expect(await store.write([current])).toEqual(['ok']);
    expect(await store.query('select step, attempt from saga_work')).toEqual([
      { step: 'capture', attempt: 1 },
    ]);
  });

  test('is fenced if there is no such saga', async () => {
    await using store = await createStore();
    const sagaId = uuidv7();
    const lost = unit({ sagas: [moved(sagaId, 1)] }, [append(sagaId)]);
    expect(await store.write([lost])).toEqual(['fenced']);
  });

  test('reserves nothing if it is fenced', async () => {
    await using store = await createStore();
    await store.stock('a', 1);
    const fenced = unit({ sagas: [moved(uuidv7(), 1)], reservations: [reserve('a', 1)] });
    const other = unit({ reservations: [reserve('a', 1)] });
    expect(await store.write([fenced, other])).toEqual(['fenced', 'ok']);
    expect(await store.levels()).toEqual({ a: [1, 1] });
  });

  test('checks the version of a stream that it appends nothing to', async () => {
    await using store = await createStore();
    const [sagaId, orderId] = [uuidv7(), uuidv7()];
    await store.write([unit({}, [append(orderId)])]);
    const at = (expectedVersion: number) => ({
      streamId: orderId,
      category: 'order',
      expectedVersion,
      events: [],
    });
    expect(await store.write([unit({}, [append(sagaId), at(2)])])).toEqual(['conflict']);
    expect(await store.write([unit({}, [append(sagaId), at(1)])])).toEqual(['ok']);
    const [row] = await store.query('select version from streams where stream_id = $1', [orderId]);
    expect(row).toEqual({ version: 1 });
  });

  test('makes the live saga of an order due if it wakes it, and leaves an ended one alone', async () => {
    await using store = await createStore();
    const [live, ended] = [uuidv7(), uuidv7()];
    const [liveSubject, endedSubject] = [uuidv7(), uuidv7()];
    const rows = [begin(live, liveSubject), begin(ended, endedSubject)];
    await store.write(rows.map((row) => unit({ sagas: [row] })));
    await store.query(
      `update saga_work set due_at = clock_timestamp() + interval '1 hour' where saga_id = $1`,
      [live],
    );
    await store.query(
      `update saga_work set state = 'completed', due_at = null where saga_id = $1`,
      [ended],
    );
    const wake = (subject: string): SagaWorkRow => ({ op: 'wake', subject_id: subject });
    await store.write([
      unit({ sagas: [wake(liveSubject)] }),
      unit({ sagas: [wake(endedSubject)] }),
    ]);
    const due = await store.query(
      'select saga_id from saga_work where due_at <= clock_timestamp()',
    );
    expect(due).toEqual([{ saga_id: live }]);
  });
});

describe.skipIf(skipReason('postgres'))('claiming sagas', () => {
  const claimant = {
    owner: uuidv7(),
    leaseMs: 60_000,
    definitions: [{ name: 'fulfilment', version: 1 }],
  };
  const claimSagas = ({ pool }: { pool: Pool }, limit: number) =>
    createClaimSagas(pool, claimant)(limit);

  test('gives each saga to one claimant only, however many claim at once', async () => {
    await using store = await createStore();
    const ids = Array.from({ length: 300 }, () => uuidv7());
    await store.write(ids.map((id) => unit({ sagas: [begin(id)] })));
    const claims = await Promise.all(Array.from({ length: 12 }, () => claimSagas(store, 40)));
    const claimed = claims.flat().map(({ sagaId }) => sagaId);
    expect(new Set(claimed).size).toBe(claimed.length);
    while ((await claimSagas(store, 40)).length > 0);
    const left = await store.query('select from saga_work where owner is null');
    expect(left).toEqual([]);
  });

  test('leaves a leased saga alone, even if it is due, until the lease has ended', async () => {
    await using store = await createStore();
    const sagaId = uuidv7();
    await store.write([unit({ sagas: [begin(sagaId)] })]);
    await store.query(`update saga_work set lease_until = clock_timestamp() + interval '1 hour'`);
    expect(await claimSagas(store, 10)).toEqual([]);
    await store.query(`update saga_work set lease_until = clock_timestamp()`);
    expect(await claimSagas(store, 10)).toMatchObject([{ sagaId, epoch: 2 }]);
    expect(await claimSagas(store, 10)).toEqual([]);
  });

  test('leaves a saga without a known definition alone, and refuses to start beside it', async () => {
    await using store = await createStore();
    await store.write([unit({ sagas: [begin(uuidv7())] })]);
    await store.query('update saga_work set definition_version = 2');
    expect(await claimSagas(store, 10)).toEqual([]);
    const refusal = requireDefinitions(store.pool, claimant.definitions);
    await expect(refusal).rejects.toThrow(SagaDefinitionMissing);
    await expect(refusal).rejects.toThrow('fulfilment version 2');
    await store.query(`update saga_work set state = 'stuck', due_at = null`);
    await expect(requireDefinitions(store.pool, claimant.definitions)).rejects.toThrow('version 2');
    await store.query(`update saga_work set state = 'completed', due_at = null`);
    await requireDefinitions(store.pool, claimant.definitions);
  });

  test('fences the previous owner, also after it gave the saga back', async () => {
    await using store = await createStore();
    const sagaId = uuidv7();
    await store.write([unit({ sagas: [begin(sagaId)] })]);
    await giveBack(store.pool, { sagaId, epoch: 1 }, { dueInMs: 0, failed: true });
    await giveBack(store.pool, { sagaId, epoch: 1 }, { dueInMs: 0, failed: true });
    const [claim] = await claimSagas(store, 10);
    expect(claim).toMatchObject({ epoch: 3, failures: 1 });
  });
});

describe.skipIf(skipReason('postgres'))('the role of the service', () => {
  test.each([
    ['delete from saga_work'],
    ['delete from stock'],
    ['update reservations set quantity = 1'],
  ])('may not: %s', async (statement) => {
    await using database = await createTestDatabase();
    const pool = new Pool({ connectionString: database.url, options: '-c role=orders_app' });
    await expect(pool.query(statement)).rejects.toThrow('permission denied');
    await pool.end();
  });
});
