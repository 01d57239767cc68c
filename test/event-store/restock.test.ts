import { Client } from 'pg';
import { v7 as uuidv7 } from 'uuid';
import { describe, expect, test } from 'vitest';
import type { ReservationRow, Unit } from '#src/event-store/event-store.ts';
import { skipReason } from '#test/support/infra.ts';
import { eventually } from '#test/support/poll.ts';
import { createRandom } from '#test/support/random.ts';
import { append, begin, createStore, moved, reserve, unit } from '#test/support/unit-store.ts';

/*
 * Goods come back in the transaction that records their return: with it, or not at all.
 */
const restock = (sku: string, quantity: number): ReservationRow => ({
  op: 'restock',
  sku,
  quantity,
});

function keyed(key: string): Pick<Unit, 'response'> {
  const stored = { requestHash: Buffer.of(1), status: 200, etag: null, location: null, body: '' };
  return { response: { ref: { principal: 'p', key }, commandId: uuidv7(), stored } };
}

const referring = (reference: string): Pick<Unit, 'reference'> => ({
  reference: { principal: 'p', reference, order_id: uuidv7() },
});

describe.skipIf(skipReason('postgres'))('a unit that brings goods back', () => {
  test('adds to what is on hand and reserves nothing, and makes the row of a new sku', async () => {
    await using store = await createStore();
    await store.stock('a', 5);
    await store.write([unit({ reservations: [reserve('a', 2)] })]);
    const rows = [restock('a', 3), restock('new', 7), restock('a', 1), restock('new', 1)];
    expect(await store.write([unit({ reservations: rows })])).toEqual(['ok']);
    expect(await store.levels()).toEqual({ a: [9, 2], new: [8, 0] });
  });

  test.each<[string, string, () => Omit<Unit, 'appends'>, number?]>([
    ['whose stream went on', 'conflict', () => ({}), 0],
    ['whose stream is not that far', 'conflict', () => ({}), 9],
    ['whose key is taken', 'key', () => keyed('taken')],
    ['whose reference is taken', 'reference', () => referring('taken')],
    ['whose saga is at another epoch', 'fenced', () => ({ sagas: [moved(uuidv7(), 7)] })],
    ['that wants more than there is', 'short', () => ({ reservations: [reserve('a', 999)] })],
  ])('%s brings nothing back: %s', async (_, verdict, rows, version) => {
    await using store = await createStore();
    await store.stock('a', 5);
    const known = uuidv7();
    await store.write([
      unit({ ...keyed('taken'), ...referring('taken') }, [append(known)]),
      unit({ sagas: [begin(uuidv7())] }),
    ]);
    const other = rows();
    const refused: Unit = {
      ...other,
      appends: [version === undefined ? append(uuidv7()) : append(known, version)],
      reservations: [restock('a', 3), restock('new', 1), ...(other.reservations ?? [])],
    };
    // Before, between and after units that bring back the same goods.
    const good = () => unit({ reservations: [restock('a', 1)] });
    expect(await store.write([good(), refused, good()])).toEqual(['ok', verdict, 'ok']);
    expect(await store.levels()).toEqual({ a: [7, 0] });
    expect(await store.query('select from events where stream_id = $1', [known])).toHaveLength(1);
  });

  test('brings nothing back if Postgres loses the transaction, and all if it is sent again', async () => {
    await using store = await createStore();
    await store.stock('a', 5);
    await store.query(`
      create function lose() returns trigger language plpgsql as $$
      begin
        perform pg_terminate_backend(pg_backend_pid());
        return null;
      end $$`);
    const streamId = uuidv7();
    const returned = unit({ reservations: [restock('a', 3), restock('new', 2)] }, [
      append(streamId),
    ]);
    for (const table of ['events', 'stock', 'streams']) {
      await store.query(
        `create constraint trigger lose after insert or update on ${table}
         deferrable initially deferred for each row execute function lose()`,
      );
      await expect(store.write([returned])).rejects.toThrow('write ');
      await store.query(`drop trigger lose on ${table}`);
      expect(await store.levels()).toEqual({ a: [5, 0] });
      expect(await store.query('select from events')).toEqual([]);
      expect(await store.query('select from streams')).toEqual([]);
    }
    expect(await store.write([returned])).toEqual(['ok']);
    expect(await store.levels()).toEqual({ a: [8, 0], new: [2, 0] });
    expect(await store.write([returned])).toEqual(['conflict']);
    expect(await store.levels()).toEqual({ a: [8, 0], new: [2, 0] });
  });

  test('is locked while somebody else sets the stock of a new sku, and holds nobody up', async () => {
    await using store = await createStore();
    const somebody = new Client({ connectionString: store.url });
    await somebody.connect();
    await somebody.query('begin');
    await somebody.query(`insert into stock (sku, on_hand) values ('new', 10)`);
    const held = unit({ reservations: [restock('new', 2)] });
    const other = unit({ reservations: [restock('other', 1)] });
    expect(await store.write([held, other])).toEqual(['locked', 'ok']);
    await somebody.query('commit');
    await somebody.end();
    expect(await store.write([held])).toEqual(['ok']);
    expect(await store.levels()).toEqual({ new: [12, 0], other: [1, 0] });
  });

  test('counts exactly, however many bring back, reserve and take at once', async () => {
    await using store = await createStore();
    const random = createRandom();
    const skus = ['a', 'b', 'new-1', 'new-2', 'new-3'];
    await store.stock('a', 50);
    await store.stock('b', 50);
    const expected = new Map<string, [onHand: number, reserved: number]>();
    const count = (sku: string, onHand: number, reserved: number) => {
      const [was, kept] = expected.get(sku) ?? [0, 0];
      expected.set(sku, [was + onHand, kept + reserved]);
    };
    count('a', 50, 0);
    count('b', 50, 0);
    const write = async () => {
      const sku = skus[random.below(skus.length)]!;
      const quantity = 1 + random.below(3);
      const id = uuidv7();
      const insist = async (rows: readonly ReservationRow[]) => {
        const own = unit({ reservations: rows });
        const wants = async () => {
          const [verdict] = await store.write([own]);
          return verdict === 'locked' ? undefined : verdict;
        };
        return eventually(wants, { everyMs: 1 });
      };
      if (random.below(2) === 0) {
        expect(await insist([restock(sku, quantity), restock('a', 1)])).toBe('ok');
        count(sku, quantity, 0);
        count('a', 1, 0);
      } else if ((await insist([reserve(sku, quantity, id)])) === 'ok') {
        count(sku, 0, quantity);
        if (random.below(2) === 0) return;
        expect(await insist([{ op: 'consume', reservation_id: id }])).toBe('ok');
        count(sku, -quantity, -quantity);
      }
    };
    await Promise.all(
      Array.from({ length: 6 }, async () => {
        for (let round = 0; round < 40; round += 1) await write();
      }),
    );
    expect(await store.levels()).toEqual(Object.fromEntries(expected));
  });
});
