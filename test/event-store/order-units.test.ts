import { Pool } from 'pg';
import { v7 as uuidv7 } from 'uuid';
import { describe, expect, test } from 'vitest';
import type {
  PersonalDataRow,
  ReservationRow,
  Unit,
  Verdict,
} from '#src/event-store/event-store.ts';
import { createPostgresUnitStore } from '#src/event-store/postgres-store.ts';
import { skipReason } from '#test/support/infra.ts';
import { append, begin, createStore, moved, reserve, unit } from '#test/support/unit-store.ts';

type Store = Awaited<ReturnType<typeof createStore>>;

const address = { name: 'Ada Example', line1: '1 Sample Street', city: 'Berlin', country: 'DE' };
const otherAddress = { name: 'Bob Example', line1: '2 Sample Street', city: 'Bern', country: 'CH' };
const contact = { email: 'ada@example.com' };

const put = (orderId: string): PersonalDataRow => ({
  op: 'put',
  order_id: orderId,
  customer_id: 'c-1',
  shipping_address: address,
  contact,
  payment_method: 'tok_1',
});
const moveTo = (orderId: string): PersonalDataRow => ({
  op: 'address',
  order_id: orderId,
  customer_id: 'c-1',
  shipping_address: otherAddress,
});
const erase = (orderId: string): PersonalDataRow => ({ op: 'erase', order_id: orderId });
const restock = (sku: string, quantity: number): ReservationRow => ({
  op: 'restock',
  sku,
  quantity,
});

/** A unit that appends to the stream of an order, and does this to its personal data. */
function personal(row: PersonalDataRow, version = 0): Unit {
  return unit({ personalData: [row] }, [append(row.order_id, version)]);
}

function referring(reference: string, rows: Omit<Unit, 'appends'> = {}, principal = 'shop'): Unit {
  const orderId = uuidv7();
  const row = { principal, reference, order_id: orderId };
  return unit({ ...rows, reference: row }, [append(orderId)]);
}

function keyed(key: string): Pick<Unit, 'response'> {
  const stored = { requestHash: Buffer.of(1), status: 201, etag: null, location: null, body: '{}' };
  return { response: { ref: { principal: 'p', key }, commandId: uuidv7(), stored } };
}

const personalData = ({ query }: Store) =>
  query(`select order_id, customer_id, shipping_address, contact, payment_method
         from order_personal_data order by order_id`);

const references = ({ query }: Store) =>
  query<{ principal: string; reference: string; order_id: string }>(
    'select principal, reference, order_id from external_references order by principal, reference',
  );

/** Everything that a unit may have written, but not the time of it. */
const everything = async ({ query }: Store) => ({
  streams: await query('select stream_id, version from streams order by 1'),
  events: await query('select stream_id, version from events order by position'),
  keys: await query('select principal, key from idempotency_keys order by 1, 2'),
  sagas: await query('select saga_id, epoch, step from saga_work order by 1'),
  stock: await query('select sku, on_hand, reserved from stock order by 1'),
  personalData: await query('select * from order_personal_data order by 1'),
  references: await query('select * from external_references order by 1, 2'),
});

/** Writes units in a transaction that stays open until the test ends it. */
async function writeOpen({ url }: Store, units: readonly Unit[]) {
  const pool = new Pool({ connectionString: url, max: 1 });
  await pool.query('begin');
  const verdicts = await createPostgresUnitStore(pool).write(units);
  return {
    verdicts,
    end: async (how: 'commit' | 'rollback') => {
      await pool.query(how);
      await pool.end();
    },
  };
}

describe.skipIf(skipReason('postgres'))('the personal data of an order', () => {
  test('is put with the order, gets another address, and is erased; its history stays', async () => {
    await using store = await createStore();
    const orderId = uuidv7();
    const row = { order_id: orderId, customer_id: 'c-1', contact, payment_method: 'tok_1' };
    expect(await store.write([personal(put(orderId))])).toEqual(['ok']);
    expect(await personalData(store)).toEqual([{ ...row, shipping_address: address }]);
    expect(await store.write([personal(moveTo(orderId), 1)])).toEqual(['ok']);
    expect(await personalData(store)).toEqual([{ ...row, shipping_address: otherAddress }]);
    const history = await store.query('select * from events order by position');
    expect(await store.write([personal(erase(orderId), 2)])).toEqual(['ok']);
    expect(await personalData(store)).toEqual([]);
    const after = await store.query('select * from events order by position');
    expect(after.slice(0, 2)).toEqual(history);
    expect(after).toHaveLength(3);
  });

  test('may consist of an address that comes later, and may be erased where there is none', async () => {
    await using store = await createStore();
    const [addressed, empty] = [uuidv7(), uuidv7()];
    await store.write([unit({}, [append(addressed)]), unit({}, [append(empty)])]);
    const units = [personal(moveTo(addressed), 1), personal(erase(empty), 1)];
    expect(await store.write(units)).toEqual(['ok', 'ok']);
    expect(await personalData(store)).toEqual([
      {
        order_id: addressed,
        customer_id: 'c-1',
        shipping_address: otherAddress,
        contact: null,
        payment_method: null,
      },
    ]);
  });

  test('is written in one batch with that of others, and not for those that are refused', async () => {
    await using store = await createStore();
    const [first, moving, erased, unmoved] = [uuidv7(), uuidv7(), uuidv7(), uuidv7()];
    const [kept, last] = [uuidv7(), uuidv7()];
    await store.write([moving, erased, unmoved, kept].map((id) => personal(put(id))));
    const verdicts = await store.write([
      personal(put(first)),
      personal(moveTo(unmoved), 2),
      personal(moveTo(moving), 1),
      personal(put(kept)),
      personal(erase(erased), 1),
      personal(erase(kept), 3),
      personal(put(last)),
    ]);
    expect(verdicts).toEqual(['ok', 'conflict', 'ok', 'conflict', 'ok', 'conflict', 'ok']);
    const stored = await personalData(store);
    expect(new Map(stored.map((row) => [row['order_id'], row['shipping_address']]))).toEqual(
      new Map([
        [first, address],
        [moving, otherAddress],
        [unmoved, address],
        [kept, address],
        [last, address],
      ]),
    );
  });
});

describe.skipIf(skipReason('postgres'))('the external reference of an order', () => {
  test('belongs to the first order of its principal, and the second writes nothing', async () => {
    await using store = await createStore();
    const first = referring('A-1');
    expect(await store.write([first])).toEqual(['ok']);
    expect(await store.write([referring('A-1', {}, 'another shop'), referring('A-2')])).toEqual([
      'ok',
      'ok',
    ]);
    const before = await everything(store);
    const personalId = uuidv7();
    const second = referring('A-1', {
      ...keyed('k'),
      personalData: [put(personalId)],
      sagas: [begin(uuidv7())],
      reservations: [restock('a', 1)],
    });
    expect(await store.write([second])).toEqual(['reference']);
    expect(await everything(store)).toEqual(before);
    expect(await references(store)).toContainEqual({
      principal: 'shop',
      reference: 'A-1',
      order_id: first.reference!.order_id,
    });
  });

  test('goes to the first of two units of one batch, and the key of the other is free again', async () => {
    await using store = await createStore();
    const [one, two] = [referring('A', keyed('k-1')), referring('A', keyed('k-2'))];
    const verdicts = await store.write([referring('B'), one, two, referring('C')]);
    expect(verdicts).toEqual(['ok', 'ok', 'reference', 'ok']);
    expect((await references(store))[0]!.order_id).toBe(one.reference!.order_id);
    expect(await store.query('select key from idempotency_keys')).toEqual([{ key: 'k-1' }]);
    expect(await store.write([unit(keyed('k-1')), unit(keyed('k-2'))])).toEqual(['key', 'ok']);
  });

  test.each<[Verdict, (sagaId: string) => Unit]>([
    ['conflict', () => ({ ...referring('A'), appends: [append(uuidv7(), 3)] })],
    ['fenced', (sagaId) => referring('A', { sagas: [moved(sagaId, 7)] })],
    ['short', () => referring('A', { reservations: [reserve('none', 1)] })],
    ['key', () => referring('A', keyed('taken'))],
  ])('is not taken by a unit whose verdict is %s', async (verdict, refused) => {
    await using store = await createStore();
    const sagaId = uuidv7();
    await store.write([unit({ ...keyed('taken'), sagas: [begin(sagaId)] })]);
    expect(await store.write([refused(sagaId), referring('A')])).toEqual([verdict, 'ok']);
    expect(await references(store)).toHaveLength(1);
  });

  test('is looked at after the key, so that a repeated request is known by its key', async () => {
    await using store = await createStore();
    const request = () => referring('A', keyed('k'));
    expect(await store.write([request()])).toEqual(['ok']);
    expect(await store.write([request()])).toEqual(['key']);
  });

  test.each([
    ['commit', 'reference'],
    ['rollback', 'ok'],
  ] as const)('is waited for hardly at all, and after its %s is %s', async (end, verdict) => {
    await using store = await createStore();
    await store.write([unit({})]); // the type of the event is announced
    const open = await writeOpen(store, [referring('A')]);
    const request = () => referring('A', keyed('k'));
    const units = [referring('B', keyed('k-b')), request(), referring('C')];
    expect(await store.write(units)).toEqual(['ok', 'locked', 'ok']);
    expect(await store.query('select key from idempotency_keys')).toEqual([{ key: 'k-b' }]);
    await open.end(end);
    expect(await store.write([request()])).toEqual([verdict]);
    expect((await references(store)).map(({ reference }) => reference)).toEqual(['A', 'B', 'C']);
  });

  test('has one owner, however many connections race for it in whatever order', async () => {
    await using store = await createStore();
    const names = ['a', 'b', 'c', 'd', 'e', 'f'];
    const rounds = 20;
    const owners = new Map<string, string>();
    const seen = new Set<Verdict>();
    const race = async () => {
      for (let round = 0; round < rounds; round += 1) {
        const shuffled = names.toSorted(() => Math.random() - 0.5);
        const units = shuffled.map((name) => referring(`${name}-${round}`, keyed(uuidv7())));
        const verdicts = await store.write(units);
        units.forEach(({ reference }, index) => {
          seen.add(verdicts[index]!);
          if (verdicts[index] !== 'ok') return;
          expect(owners.has(reference!.reference)).toBe(false);
          owners.set(reference!.reference, reference!.order_id);
        });
      }
    };
    await Promise.all([race(), race(), race()]);
    const stored = await references(store);
    expect(new Map(stored.map((row) => [row.reference, row.order_id]))).toEqual(owners);
    expect(await store.query('select from idempotency_keys')).toHaveLength(owners.size);
    expect(await store.query('select from events')).toHaveLength(owners.size);
    expect([...seen].filter((verdict) => !['ok', 'reference', 'locked'].includes(verdict))).toEqual(
      [],
    );
  });
});

describe.skipIf(skipReason('postgres'))('goods that come back', () => {
  const returning = (...rows: readonly ReservationRow[]) => unit({ reservations: rows });

  test('add up on hand, over the units of a batch, also of a sku without stock', async () => {
    await using store = await createStore();
    await store.stock('a', 5);
    const units = [
      returning(restock('a', 1), restock('new', 2), restock('a', 1)),
      returning(restock('new', 3)),
      returning(restock('a', 10)),
    ];
    expect(await store.write(units)).toEqual(['ok', 'ok', 'ok']);
    expect(await store.levels()).toEqual({ a: [17, 0], new: [5, 0] });
    expect(await store.write([returning(restock('new', 1))])).toEqual(['ok']);
    expect(await store.levels()).toEqual({ a: [17, 0], new: [6, 0] });
  });

  test('are moved in one batch with reservations, which do not count on them yet', async () => {
    await using store = await createStore();
    await store.stock('a', 5);
    const [released, consumed, kept] = [uuidv7(), uuidv7(), uuidv7()];
    await store.write([
      returning(reserve('a', 1, released)),
      returning(reserve('a', 2, consumed), restock('b', 1)),
    ]);
    const verdicts = await store.write([
      returning(restock('a', 10)),
      returning({ op: 'release', reservation_id: released }),
      returning(reserve('a', 2, kept)),
      returning({ op: 'consume', reservation_id: consumed }, restock('b', 4)),
      returning(reserve('a', 9)),
    ]);
    expect(verdicts).toEqual(['ok', 'ok', 'ok', 'ok', 'short']);
    expect(await store.levels()).toEqual({ a: [13, 2], b: [5, 0] });
    expect(await store.write([returning(reserve('a', 9))])).toEqual(['ok']);
  });

  test('leave nothing of a unit that is refused, not even an empty row', async () => {
    await using store = await createStore();
    await store.stock('a', 5);
    await store.write([unit(keyed('k'))]);
    const before = await everything(store);
    const rows = { reservations: [restock('a', 1), restock('new', 1)] };
    const lost = unit(rows, [append(uuidv7(), 3)]);
    const known = unit({ ...rows, ...keyed('k') });
    expect(await store.write([lost, known])).toEqual(['conflict', 'key']);
    expect(await everything(store)).toEqual(before);
  });

  test('are locked while somebody else inserts the row of their sku, and hold up nobody', async () => {
    await using store = await createStore();
    const somebody = new Pool({ connectionString: store.url, max: 1 });
    await somebody.query('begin');
    await somebody.query(`insert into stock (sku, on_hand) values ('new', 1), ('newer', 1)`);
    const units = () => [
      returning(restock('other', 1)),
      returning(restock('new', 1), restock('another', 1)),
      returning(restock('newer', 1)),
      unit(keyed(uuidv7())),
    ];
    expect(await store.write(units())).toEqual(['ok', 'locked', 'locked', 'ok']);
    expect(await store.levels()).toEqual({ other: [1, 0] });
    await somebody.query('commit');
    await somebody.end();
    expect(await store.write(units())).toEqual(['ok', 'ok', 'ok', 'ok']);
    const levels = { another: [1, 0], new: [2, 0], newer: [2, 0], other: [2, 0] };
    expect(await store.levels()).toEqual(levels);
  });

  test('are neither lost nor counted twice, however many move them at once', async () => {
    await using store = await createStore();
    const skus = ['a', 'b', 'c', 'd'];
    const onHand = new Map<string, number>();
    const pick = () => skus[Math.floor(Math.random() * skus.length)]!;
    const seen = new Set<Verdict>();
    const race = async () => {
      for (let batch = 0; batch < 40; batch += 1) {
        const back = Array.from({ length: 8 }, () => ({ sku: pick(), quantity: 2 }));
        const taking = [returning(reserve(pick(), 1)), returning(reserve(pick(), 1))];
        const verdicts = await store.write([
          ...back.map(({ sku, quantity }) => returning(restock(sku, quantity), restock('e', 1))),
          ...taking,
        ]);
        for (const verdict of verdicts) seen.add(verdict);
        const written = back.filter((_, index) => verdicts[index] === 'ok');
        for (const { sku, quantity } of written) {
          onHand.set(sku, (onHand.get(sku) ?? 0) + quantity);
          onHand.set('e', (onHand.get('e') ?? 0) + 1);
        }
      }
    };
    await Promise.all([race(), race(), race()]);
    const stored = await store.query<{ sku: string; on_hand: number }>('select * from stock');
    expect(new Map(stored.map((row) => [row.sku, row.on_hand]))).toEqual(onHand);
    expect([...seen].filter((verdict) => verdict !== 'ok' && verdict !== 'short')).toEqual([]);
  });
});

describe.skipIf(skipReason('postgres'))('a replica of the release before', () => {
  /** As that release calls the function: with seven arrays. */
  const CALL = 'select unit, verdict from write_units($1, $2, $3, $4, $5, $6, $7) order by unit';

  test('writes and is refused as before', async () => {
    await using store = await createStore();
    await store.write([unit(keyed('k'))]);
    const ids = Array.from({ length: 4 }, () => uuidv7());
    const streams = ids.map((id, index) => {
      const expected = index === 1 ? 5 : 0;
      return { unit: index, id, category: 'test', expected, next: expected + 1 };
    });
    const at = { version: 1, type: 'Tested', schema_version: 1, data: {}, metadata: {} };
    const events = ids.map((id, index) => ({
      ...at,
      unit: index,
      stream_id: id,
      recorded_at: '2026-01-01T00:00:00.000Z',
    }));
    const answer = { unit: 2, principal: 'p', key: 'k', command_id: uuidv7(), request_hash: '01' };
    const answers = [{ ...answer, status: 200, etag: null, location: null, body: '{}' }];
    const reservations = [
      { unit: 0, op: 'release', reservation_id: uuidv7() },
      { unit: 3, op: 'reserve', reservation_id: uuidv7(), sku: 'none', quantity: 1 },
    ];
    const given = [streams, events, answers, [], [], [], reservations];
    const { rows } = await store.pool.query(
      CALL,
      given.map((array) => JSON.stringify(array)),
    );
    expect(rows).toEqual([
      { unit: 1, verdict: 'conflict' },
      { unit: 2, verdict: 'key' },
      { unit: 3, verdict: 'short' },
    ]);
    const written = await store.query('select stream_id from events where stream_id = any($1)', [
      ids,
    ]);
    expect(written).toEqual([{ stream_id: ids[0] }]);
  });
});
