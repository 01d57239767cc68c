import { describe, expect, test } from 'vitest';
import { createOutboxStore } from '#src/outbox/outbox-store.ts';
import type { Window } from '#src/outbox/outbox-store.ts';
import { murmur2, partitionFor } from '#src/outbox/outbox.ts';
import { createTestDatabase } from '#test/support/database.ts';
import type { TestDatabase } from '#test/support/database.ts';
import { skipReason } from '#test/support/infra.ts';
import { eventsOf, insertEvents, newKeys, servicePool } from './outbox-fixture.ts';

const window: Window = {
  fromId: 0,
  partitions: 6,
  excluded: [],
  rowsMax: 1_000,
  bytesMax: 1_000_000,
};
const ids = (rows: readonly { id: number }[]) => rows.map(({ id }) => id);

describe.skipIf(skipReason('postgres'))('reading the outbox', () => {
  test('returns the rows of its topic in id order, up to the limit', async () => {
    await using db = await createTestDatabase();
    await using service = servicePool(db.url);
    const store = createOutboxStore(service.pool, 'mine');
    // Fixed keys, of three lanes: a read this small takes one row of each lane.
    await insertEvents(db, 'mine', eventsOf(['a', 'b', 'c'], 2));
    await insertEvents(db, 'other', eventsOf(newKeys(1), 1));
    await insertEvents(db, 'mine', eventsOf(newKeys(2), 1));
    expect(ids(await store.waiting(window))).toEqual([1, 2, 3, 4, 5, 6, 8, 9]);
    expect(ids(await store.waiting({ ...window, rowsMax: 2 }))).toEqual([1, 2]);
    expect(ids(await store.waiting({ ...window, fromId: 8 }))).toEqual([8, 9]);
    await expect(store.hasOtherTopics()).resolves.toBe(true);
    await expect(createOutboxStore(service.pool, 'none').waiting(window)).resolves.toEqual([]);
  });

  test('orders by id, whatever the time of creation', async () => {
    await using db = await createTestDatabase();
    await using service = servicePool(db.url);
    const store = createOutboxStore(service.pool, 'mine');
    const events = [1, 2, 3].map((version) => ({
      key: 'key',
      version,
      createdAt: new Date(Date.UTC(2026, 0, 10 - version)),
    }));
    await insertEvents(db, 'mine', events);
    expect(ids(await store.waiting({ ...window, rowsMax: 2 }))).toEqual([1, 2]);
  });

  test('returns a version after all earlier ones of its key, even where ids went back', async () => {
    await using db = await createTestDatabase();
    await using service = servicePool(db.url);
    const store = createOutboxStore(service.pool, 'mine');
    const versions = async (part: Partial<Window> = {}) =>
      (await store.waiting({ ...window, ...part })).map((row) => Number(row.ce_sequence));
    const insertFrom = async (id: number, versionsOfKey: readonly number[]) => {
      await db.query(`select setval('outbox_events_id_seq', $1, false)`, [id]);
      const events = versionsOfKey.map((version) => ({ key: 'key', version }));
      await insertEvents(db, 'mine', events);
    };
    await insertFrom(900, [1, 2]);
    await insertFrom(500, [3]);
    await insertFrom(100, [4, 5]);
    await insertFrom(1_000, [6]);
    expect(await versions()).toEqual([1, 2, 3, 4, 5, 6]);
    expect(await versions({ rowsMax: 2 })).toEqual([1, 2]); // more wait than are looked at by id
    expect(await versions({ fromId: 501 })).toEqual([1, 2, 3]); // though 3 is below
    expect(await versions({ fromId: 1_000 })).toEqual([1]);
  });

  test('stops before the limit of bytes, but returns at least one row', async () => {
    await using db = await createTestDatabase();
    await using service = servicePool(db.url);
    const store = createOutboxStore(service.pool, 'mine');
    const payload = 'x'.repeat(100);
    const events = [1, 2, 3, 4].map((version) => ({ key: 'key', version, payload }));
    await insertEvents(db, 'mine', events);
    expect(ids(await store.waiting({ ...window, bytesMax: 300 }))).toEqual([1, 2, 3]);
    expect(ids(await store.waiting({ ...window, bytesMax: 301 }))).toEqual([1, 2, 3, 4]);
    expect(ids(await store.waiting({ ...window, bytesMax: 1 }))).toEqual([1]);
  });

  test('leaves out partitions, by the same calculation as the code', async () => {
    await using db = await createTestDatabase();
    await using service = servicePool(db.url);
    const store = createOutboxStore(service.pool, 'mine');
    const keys = newKeys(200);
    await insertEvents(db, 'mine', eventsOf(keys, 1));
    const excluded = [0, 2, 5];
    const rows = await store.waiting({ ...window, excluded });
    const wanted = keys.filter((key) => !excluded.includes(partitionFor(murmur2(key), 6)));
    expect(rows.map((row) => row.message_key)).toEqual(wanted);
  });

  test('leaves out parked keys of the same topic', async () => {
    await using db = await createTestDatabase();
    await using service = servicePool(db.url);
    const store = createOutboxStore(service.pool, 'mine');
    await insertEvents(db, 'mine', eventsOf(['parked', 'free'], 2));
    await db.query(`
      insert into outbox_parked (topic, message_key, outbox_id, ce_id, reason, epoch)
      values ('mine', 'parked', 1, 'id', 'too large', 1), ('other', 'free', 2, 'id', 'too large', 1)`);
    expect(ids(await store.waiting(window))).toEqual([2, 4]);
  });

  test.each([
    ['an empty table', 1, 0],
    ['a large table with one row', 10_000, 1],
  ])(
    'looks at a few rows for each that it gives, even by statistics of %s',
    async (_, before, left) => {
      await using db = await createTestDatabase();
      await insertEvents(db, 'mine', eventsOf(newKeys(before), 1));
      await db.query('delete from outbox_events where id <= $1', [before - left]);
      await db.query('vacuum analyze outbox_events');
      await insertEvents(db, 'mine', eventsOf(newKeys(10_000), 1));
      const lookedAt = await rowsLookedAt(db);
      await db.query(`select count(*) from outbox_waiting('mine', 0, 6, '{}', 1000, 1000000)`);
      const timesForEachRow = 2; // once to choose it, once to fetch it
      expect((await rowsLookedAt(db)) - lookedAt).toBeLessThanOrEqual(1_000 * timesForEachRow);
    },
  );

  test.each([
    ['a partition that is left out', '{3}'],
    ['a partition that may go too', '{}'],
  ])('returns what waits behind %s, without a scan of all those rows', async (_, excluded) => {
    await using db = await createTestDatabase();
    await insertEvents(db, 'mine', eventsOf(keysOf([3], 20_000), 1));
    const others = keysOf([0, 1, 2, 4, 5], 60);
    await insertEvents(db, 'mine', eventsOf(others, 1));
    const lookedAt = await rowsLookedAt(db);
    const rows = await db.query<{ message_key: string }>(
      `select message_key from outbox_waiting('mine', 0, 6, $1, 1000, 1000000)`,
      [excluded],
    );
    const given = new Set(rows.map((row) => row.message_key));
    expect(others.filter((key) => !given.has(key))).toEqual([]);
    expect((await rowsLookedAt(db)) - lookedAt).toBeLessThan(8_000);
  });

  test('leaves out no key, whatever the number of partitions', async () => {
    await using db = await createTestDatabase();
    await using service = servicePool(db.url);
    const store = createOutboxStore(service.pool, 'mine');
    const keys = newKeys(300);
    for (const partitions of [7, 9, 32, 960, 1_000]) {
      await db.query('truncate outbox_events restart identity');
      await insertEvents(db, 'mine', eventsOf(keys, 2));
      const part = { ...window, partitions, excluded: [0], rowsMax: 100 };
      const given: string[] = [];
      for (
        let rows = await store.waiting(part);
        rows.length > 0;
        rows = await store.waiting(part)
      ) {
        given.push(...rows.map((row) => row.ce_id));
        await store.remove(rows);
      }
      const left = keys.filter((key) => partitionFor(murmur2(key), partitions) !== 0);
      expect(given.toSorted()).toEqual(left.flatMap((key) => [`${key}:1`, `${key}:2`]).toSorted());
      const overtaken = left.filter((key) => given.indexOf(`${key}:1`) > given.indexOf(`${key}:2`));
      expect(overtaken).toEqual([]);
    }
  });
});

/** Keys of those partitions out of six. */
function keysOf(partitions: readonly number[], count: number): string[] {
  const keys: string[] = [];
  for (let number = 0; keys.length < count; number += 1) {
    const key = `key-${number}`;
    if (partitions.includes(partitionFor(murmur2(key), 6))) keys.push(key);
  }
  return keys;
}

describe.skipIf(skipReason('postgres'))('what Kafka acknowledged', () => {
  test('is deleted, and no other message that got its id meanwhile', async () => {
    await using db = await createTestDatabase();
    await using service = servicePool(db.url);
    const store = createOutboxStore(service.pool, 'mine');
    await insertEvents(db, 'mine', eventsOf(['sent', 'same'], 1));
    const sent = await store.waiting(window);
    // As after a failover that lost the last commits: id and version are used again.
    await db.query(`truncate outbox_events restart identity`);
    await insertEvents(db, 'mine', eventsOf(['other'], 1));
    await insertEvents(db, 'mine', eventsOf(['same'], 1));
    await db.query(`update outbox_events set ce_time = '2026-01-02T03:04:06.000Z' where id = 2`);
    await store.remove(sent);
    expect((await store.waiting(window)).map((row) => row.message_key)).toEqual(['other', 'same']);
    await store.remove(await store.waiting(window));
    await expect(db.query('select from outbox_events')).resolves.toEqual([]);
  });
});

async function rowsLookedAt(db: TestDatabase): Promise<number> {
  await db.query('select pg_stat_force_next_flush()');
  const [stat] = await db.query<{ rows: number }>(`
    select seq_tup_read + idx_tup_fetch as rows from pg_stat_user_tables
    where relname = 'outbox_events'`);
  return stat?.rows ?? 0;
}

/** Makes another process hold the lease. */
function hold(epoch: number, leftMs: number): string {
  return `insert into leases values
    ('relay mine', gen_random_uuid(), ${epoch}, clock_timestamp() + ${leftMs} * interval '1 ms')`;
}

describe.skipIf(skipReason('postgres'))('parking a key', () => {
  const refusal = {
    outboxId: 1,
    messageId: 'key:1',
    reason: 'MESSAGE_TOO_LARGE',
    epoch: 3,
  };

  test('writes why, under the epoch of the leader', async () => {
    await using db = await createTestDatabase();
    await using service = servicePool(db.url);
    const store = createOutboxStore(service.pool, 'mine');
    await db.query(hold(3, 60_000));
    await insertEvents(db, 'mine', eventsOf(['key'], 2));
    await expect(store.park(refusal)).resolves.toBe(true);
    const parked = await db.query(
      'select topic, message_key, outbox_id, reason, epoch from outbox_parked',
    );
    expect(parked).toEqual([
      {
        topic: 'mine',
        message_key: 'key',
        outbox_id: 1,
        reason: 'MESSAGE_TOO_LARGE',
        epoch: 3,
      },
    ]);
  });

  test.each([
    ['another leads by now', hold(4, 60_000)],
    ['the lease ran out', hold(3, -1)],
    ['there is no lease', 'select 1'],
  ])('writes nothing when %s', async (_, statement) => {
    await using db = await createTestDatabase();
    await using service = servicePool(db.url);
    const store = createOutboxStore(service.pool, 'mine');
    await db.query(statement);
    await insertEvents(db, 'mine', eventsOf(['key'], 2));
    await expect(store.park(refusal)).resolves.toBe(false);
    await expect(db.query('select from outbox_parked')).resolves.toEqual([]);
  });

  test('writes nothing when another message has its id by now', async () => {
    await using db = await createTestDatabase();
    await using service = servicePool(db.url);
    await db.query(hold(3, 60_000));
    await insertEvents(db, 'mine', eventsOf(['other'], 1));
    await expect(createOutboxStore(service.pool, 'mine').park(refusal)).resolves.toBe(false);
  });

  test('writes nothing when the message is gone', async () => {
    await using db = await createTestDatabase();
    await using service = servicePool(db.url);
    await db.query(hold(3, 60_000));
    await expect(createOutboxStore(service.pool, 'mine').park(refusal)).resolves.toBe(false);
  });

  test('stops at a thousand keys: then the topic is at fault', async () => {
    await using db = await createTestDatabase();
    await using service = servicePool(db.url);
    const store = createOutboxStore(service.pool, 'mine');
    await db.query(hold(3, 60_000));
    await db.query(`
      insert into outbox_parked (topic, message_key, outbox_id, ce_id, reason, epoch)
      select 'mine', 'key' || n, n + 100, 'id', 'too large', 1 from generate_series(1, 999) n`);
    const [first = '', second = ''] = newKeys(2);
    await insertEvents(db, 'mine', eventsOf([first, second], 1));
    const messageId = `${first}:1`;
    await expect(store.park({ ...refusal, messageId })).resolves.toBe(true);
    await expect(store.park({ ...refusal, outboxId: 2, messageId: `${second}:1` })).resolves.toBe(
      false,
    );
  });
});

describe.skipIf(skipReason('postgres'))('the partitions of a topic', () => {
  test('are stored as they were at first use', async () => {
    await using db = await createTestDatabase();
    await using service = servicePool(db.url);
    const store = createOutboxStore(service.pool, 'mine');
    await expect(store.rememberPartitions(6)).resolves.toBe(6);
    await expect(store.rememberPartitions(6)).resolves.toBe(6);
    await expect(store.rememberPartitions(12)).resolves.toBe(6);
    const stored = await db.query('select partitions, partitions_found from outbox_topics');
    expect(stored).toEqual([{ partitions: 6, partitions_found: 12 }]);
  });
});
