import { Client } from 'pg';
import type { Pool } from 'pg';
import { describe, expect, test } from 'vitest';
import { createOutboxFloor } from '#src/outbox/outbox-monitor.ts';
import type { OutboxFloor } from '#src/outbox/outbox-monitor.ts';
import { createTestDatabase } from '#test/support/database.ts';
import { startFaultyPostgres } from '#test/support/faulty-servers.ts';
import type { TestDatabase } from '#test/support/database.ts';
import { skipReason } from '#test/support/infra.ts';
import { eventually } from '#test/support/poll.ts';
import { createRandom } from '#test/support/random.ts';
import { eventsOf, insertEvents, servicePool } from './outbox-fixture.ts';

async function openClient(db: TestDatabase) {
  const client = new Client({ connectionString: db.url });
  await client.connect();
  return client;
}

const insert = (db: Parameters<typeof insertEvents>[0], rows: number) =>
  insertEvents(db, 'any', eventsOf(['key'], rows));

const risesTo = (floor: OutboxFloor, id: number) =>
  eventually(async () => {
    await floor.advance();
    return floor.lowestId() === id;
  });

/** Every first place with every second place after it. */
const placesOfTwo = (count: number) =>
  Array.from(
    { length: count ** 2 },
    (_, at) => [Math.floor(at / count), at % count] as const,
  ).filter(([first, second]) => first < second);

async function lastId(db: TestDatabase): Promise<number> {
  const [row] = await db.query<{ id: number }>('select last_value as id from outbox_events_id_seq');
  return row?.id ?? 0;
}

/** The pool, with a callback after each query. Queries are counted from 0. */
function afterEachQuery(pool: Pool, happen: (place: number) => Promise<void>): Pool {
  let place = 0;
  return new Proxy(pool, {
    get: (target, name) =>
      name === 'query'
        ? async (sql: string, values?: unknown[]) => {
            const result = await target.query(sql, values);
            await happen(place);
            place += 1;
            return result;
          }
        : Reflect.get(target, name),
  });
}

describe.skipIf(skipReason('postgres'))('the lowest id of the outbox', () => {
  test('rises to the lowest remaining row once the rows below are gone', async () => {
    await using db = await createTestDatabase();
    await using service = servicePool(db.url);
    const floor = createOutboxFloor(service.pool);
    await insert(db, 10);
    await db.query('delete from outbox_events where id <= 7');
    await expect(risesTo(floor, 8)).resolves.toBe(true);
    await db.query('delete from outbox_events');
    await expect(risesTo(floor, 10)).resolves.toBe(true);
  });

  test('never passes an id that an open transaction has drawn', async () => {
    await using db = await createTestDatabase();
    await using service = servicePool(db.url);
    const floor = createOutboxFloor(service.pool);
    const late = await openClient(db);
    await late.query('begin');
    await insert(late, 1);
    await insert(db, 5);
    await db.query('delete from outbox_events');
    for (let look = 0; look < 5; look += 1) await floor.advance();
    expect(floor.lowestId()).toBeLessThanOrEqual(1);
    await late.query('commit');
    await late.end();
    for (let look = 0; look < 5; look += 1) await floor.advance();
    expect(floor.lowestId()).toBe(1); // the late row is there
    await db.query('delete from outbox_events');
    await expect(risesTo(floor, 6)).resolves.toBe(true);
  });

  test('is not held back by a long read, which cannot insert', async () => {
    await using db = await createTestDatabase();
    await using service = servicePool(db.url);
    const floor = createOutboxFloor(service.pool);
    const reader = await openClient(db);
    await reader.query('begin isolation level repeatable read');
    await reader.query('select count(*) from outbox_events');
    await insert(db, 10);
    await db.query('delete from outbox_events');
    await expect(risesTo(floor, 10)).resolves.toBe(true);
    await reader.query('rollback');
    await reader.end();
  });

  test('is not held back by a long transaction that writes to other tables', async () => {
    await using db = await createTestDatabase();
    await using service = servicePool(db.url);
    const floor = createOutboxFloor(service.pool);
    const other = await openClient(db);
    await other.query('begin');
    await other.query('create table elsewhere as select * from outbox_events');
    await insert(db, 10);
    await db.query('delete from outbox_events');
    await expect(risesTo(floor, 10)).resolves.toBe(true);
    await other.query('rollback');
    await other.end();
  });

  test('waits for a prepared transaction, which has no name', async () => {
    await using db = await createTestDatabase();
    await using service = servicePool(db.url);
    const floor = createOutboxFloor(service.pool);
    const late = await openClient(db);
    await late.query('begin');
    await insert(late, 1);
    await insert(db, 5);
    await db.query('delete from outbox_events');
    await floor.advance();
    await late.query("prepare transaction 'late'");
    for (let look = 0; look < 5; look += 1) await floor.advance();
    expect(floor.lowestId()).toBeLessThanOrEqual(1);
    await late.query("commit prepared 'late'");
    await late.end();
    await expect(risesTo(floor, 1)).resolves.toBe(true); // the late row is there
  });

  test('is right when a transaction begins and commits between any of its statements', async () => {
    await using db = await createTestDatabase();
    await using service = servicePool(db.url);
    const late = await openClient(db);
    for (const [begin, commit] of placesOfTwo(9)) {
      let lateId = 0;
      const floor = createOutboxFloor(
        afterEachQuery(service.pool, async (place) => {
          if (place === begin) {
            await late.query('begin');
            await insert(late, 1);
            lateId = await lastId(db);
            await insert(db, 2);
            await db.query('delete from outbox_events');
          }
          if (place === commit) await late.query('commit');
        }),
      );
      for (let look = 0; look < 6; look += 1) await floor.advance();
      const place = { begin, commit };
      expect({ ...place, lowestId: floor.lowestId() }).toEqual({ ...place, lowestId: lateId });
      await db.query('delete from outbox_events');
    }
    await late.end();
  });

  test('is lowered when the sequence went back, wherever the rows are', async () => {
    await using db = await createTestDatabase();
    await using service = servicePool(db.url);
    const floor = createOutboxFloor(service.pool);
    await db.query(`select setval('outbox_events_id_seq', 1000000, false)`);
    await insert(db, 10);
    await db.query('delete from outbox_events');
    await expect(risesTo(floor, 1_000_009)).resolves.toBe(true);
    await expect(floor.check()).resolves.toBe(false);
    for (const id of [999_999, 400_000, 1]) {
      await db.query(`select setval('outbox_events_id_seq', $1, false)`, [id]);
      await insert(db, 1);
      await expect(floor.check()).resolves.toBe(true);
      expect(floor.lowestId()).toBe(id);
    }
    await expect(floor.check()).resolves.toBe(false);
    await db.query('delete from outbox_events');
    await insert(db, 10);
    await db.query('delete from outbox_events where id < 5');
    await expect(risesTo(floor, 5)).resolves.toBe(true);
  });

  test('is lowered after a crash that lost drawn ids', async () => {
    await using postgres = await startFaultyPostgres();
    await using service = servicePool(postgres.url);
    const floor = createOutboxFloor(service.pool);
    await postgres.query(`alter system set wal_writer_delay = '10s'`); // what was drawn is not on disk
    await postgres.query('select pg_reload_conf()');
    const late = new Client({ connectionString: postgres.url });
    late.on('error', () => {}); // the crash ends it
    await late.connect();
    await late.query('begin');
    await insert(late, 500);
    await floor.advance();
    await postgres.kill();
    await postgres.start();
    // The connections of the pool are broken at first. Then no writer of the mark is left.
    await eventually(() => floor.advance().then(() => floor.lowestId() >= 500));
    await insert(postgres, 3);
    const [lowest] = await postgres.query<{ id: number }>(
      'select min(id) as id from outbox_events',
    );
    expect(lowest?.id).toBeLessThan(500);
    await floor.check();
    expect(floor.lowestId()).toBe(lowest?.id);
    await floor.advance();
    await floor.advance();
    expect(floor.lowestId()).toBe(lowest?.id);
  });

  test('is right in a race of many writers and deletes', async () => {
    await using db = await createTestDatabase();
    await using service = servicePool(db.url);
    const floor = createOutboxFloor(service.pool);
    const writers = await Promise.all(Array.from({ length: 6 }, () => openClient(db)));
    const random = createRandom();
    let done = 0;
    const writing = writers.map(async (writer) => {
      for (let round = 0; round < 40; round += 1) {
        await writer.query('begin');
        await insert(writer, 1 + random.below(4));
        await writer.query('select pg_sleep($1)', [random.below(10) / 1_000]);
        await writer.query(random.below(5) === 0 ? 'rollback' : 'commit');
      }
      done += 1;
      await writer.end();
    });
    let seen = 0;
    let below = 0;
    while (done < writers.length) {
      await floor.advance();
      const lowestId = floor.lowestId();
      const rows = await db.query<{ id: number }>('delete from outbox_events returning id');
      seen += rows.length;
      below += rows.filter(({ id }) => id < lowestId).length;
    }
    await Promise.all(writing);
    expect(seen).toBeGreaterThan(0);
    expect(below).toBe(0);
  });
});
