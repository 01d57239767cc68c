import { Pool } from 'pg';
import { describe, expect, test } from 'vitest';
import { createOutboxMonitor } from '#src/outbox/outbox-monitor.ts';
import { createTestDatabase } from '#test/support/database.ts';
import type { TestDatabase } from '#test/support/database.ts';
import { skipReason } from '#test/support/infra.ts';
import { eventually } from '#test/support/poll.ts';
import { eventsOf, insertEvents, newKeys, quiet, servicePool } from './outbox-fixture.ts';

const minutesAgo = (minutes: number) => new Date(Date.now() - minutes * 60_000);

const closing = (pool: Pool) => ({ pool, [Symbol.asyncDispose]: () => pool.end() });

describe.skipIf(skipReason('postgres'))('watching the outbox', () => {
  test('counts an empty one', async () => {
    await using db = await createTestDatabase();
    await using service = servicePool(db.url);
    const monitor = createOutboxMonitor({ ...service, rowsMax: 10, log: quiet });
    await monitor.refresh();
    expect(monitor.backlog()).toEqual({
      pendingRows: 0,
      oldestAgeSeconds: 0,
      parkedKeys: 0,
      oldestParkedAgeSeconds: 0,
    });
    expect(monitor.isFull()).toBe(false);
  });

  test('returns the age of the oldest event that is not parked, and that of parked keys separately', async () => {
    await using db = await createTestDatabase();
    await using service = servicePool(db.url);
    const monitor = createOutboxMonitor({ ...service, rowsMax: 10, log: quiet });
    await insertEvents(db, 'any', [
      { key: 'parked', version: 1, createdAt: minutesAgo(60) },
      { key: 'free', version: 1, createdAt: minutesAgo(10) },
      { key: 'free', version: 2 },
    ]);
    await db.query(`
      insert into outbox_parked (topic, message_key, outbox_id, ce_id, reason, epoch, parked_at)
      values ('any', 'parked', 1, 'id', 'too large', 1, clock_timestamp() - interval '30 min')`);
    await monitor.refresh();
    const backlog = monitor.backlog();
    expect(backlog).toMatchObject({ pendingRows: 3, parkedKeys: 1 });
    expect(Math.round(backlog.oldestAgeSeconds / 60)).toBe(10);
    expect(Math.round(backlog.oldestParkedAgeSeconds / 60)).toBe(30);
  });

  test('is full above its limit, not at it, and counts no further', async () => {
    await using db = await createTestDatabase();
    await using service = servicePool(db.url);
    const monitor = createOutboxMonitor({ ...service, rowsMax: 5, log: quiet });
    await insertEvents(db, 'any', eventsOf(newKeys(5), 1));
    await monitor.refresh();
    expect(monitor.isFull()).toBe(false);
    await insertEvents(db, 'any', eventsOf(newKeys(5), 1));
    await monitor.refresh();
    expect(monitor.isFull()).toBe(true);
    expect(monitor.backlog().pendingRows).toBe(6);
    await db.query('delete from outbox_events where id > 5');
    await monitor.refresh();
    expect(monitor.isFull()).toBe(false);
  });

  test('counts in steps, so that no statement takes longer with more rows', async () => {
    await using db = await createTestDatabase();
    await insertEvents(db, 'any', eventsOf(newKeys(100), 1));
    // Each row is slow, as on a slow disk. All of them take 2 s.
    await db.query(`
      create function slowly() returns boolean volatile language plpgsql as
        'begin perform pg_sleep(0.02); return true; end';
      alter table outbox_events enable row level security;
      create policy slowly on outbox_events using (slowly());`);
    const options = '-c role=orders_app -c statement_timeout=1s -c enable_sort=off';
    await using pool = closing(new Pool({ connectionString: db.url, options }));
    const monitor = createOutboxMonitor({ ...pool, rowsMax: 79, log: quiet, stepRows: 10 });
    await monitor.refresh();
    expect(monitor.isFull()).toBe(true);
    expect(monitor.backlog().pendingRows).toBe(80);
  });

  test('counts each topic, and all of them together', async () => {
    await using db = await createTestDatabase();
    await using service = servicePool(db.url);
    const monitor = createOutboxMonitor({ ...service, rowsMax: 10, log: quiet, stepRows: 2 });
    await insertEvents(db, 'old', [{ key: 'a', version: 1, createdAt: minutesAgo(20) }]);
    await insertEvents(db, 'new', [
      { key: 'b', version: 1, createdAt: minutesAgo(10) },
      { key: 'b', version: 2 },
    ]);
    await db.query(`
      insert into outbox_parked (topic, message_key, outbox_id, ce_id, reason, epoch, parked_at)
      values ('gone', 'c', 1, 'id', 'too large', 1, clock_timestamp() - interval '30 min')`);
    await monitor.refresh();
    const shown = [...monitor.backlogs()].map(([topic, of]) => [
      topic,
      of.pendingRows,
      Math.round(of.oldestAgeSeconds / 60),
      of.parkedKeys,
      Math.round(of.oldestParkedAgeSeconds / 60),
    ]);
    expect(shown.toSorted((a, b) => String(a).localeCompare(String(b)))).toEqual([
      ['gone', 0, 0, 1, 30],
      ['new', 2, 10, 0, 0],
      ['old', 1, 20, 0, 0],
    ]);
    const { pendingRows, oldestAgeSeconds, parkedKeys } = monitor.backlog();
    expect([pendingRows, Math.round(oldestAgeSeconds / 60), parkedKeys]).toEqual([3, 20, 1]);
  });

  test('counts repeatedly by itself, also after a failure', async () => {
    await using db = await createTestDatabase();
    await using service = servicePool(db.url);
    const monitor = createOutboxMonitor({ ...service, rowsMax: 5, log: quiet, refreshMs: 10 });
    monitor.start();
    await insertEvents(db, 'any', eventsOf(['key'], 2));
    await expect(eventually(() => monitor.backlog().pendingRows === 2)).resolves.toBe(true);
    await db.query('alter table outbox_parked rename to outbox_parked_away');
    await insertEvents(db, 'any', eventsOf(['key'], 1));
    await db.query('alter table outbox_parked_away rename to outbox_parked');
    await expect(eventually(() => monitor.backlog().pendingRows === 3)).resolves.toBe(true);
    await monitor.stop();
  });

  test('updates the lowest id while it rests after a long count', async () => {
    await using db = await createTestDatabase();
    await using service = servicePool(db.url);
    const monitor = createOutboxMonitor({ ...service, rowsMax: 10, log: quiet, refreshMs: 10 });
    const holding = db.query(
      'begin; lock outbox_parked in access exclusive mode; select pg_sleep(1); commit',
    );
    const isLocked = async () =>
      (
        await db.query(`select from pg_locks where mode = 'AccessExclusiveLock'
         and relation = 'outbox_parked'::regclass`)
      ).length > 0;
    await eventually(isLocked);
    await monitor.refresh(); // waits for the lock most of a second, so it rests for longer than this test
    await holding;
    await insertEvents(db, 'any', eventsOf(['key'], 10));
    await db.query('delete from outbox_events where id < 10');
    monitor.start();
    await expect(eventually(() => monitor.lowestId() === 10)).resolves.toBe(true);
    expect(monitor.backlog().pendingRows).toBe(0);
    await monitor.stop();
  });

  test('counts from the lowest id on, not through the deleted rows below it', async () => {
    await using db = await createTestDatabase();
    await db.query('vacuum analyze outbox_events'); // while it is empty, as it often is
    await insertEvents(db, 'any', eventsOf(newKeys(10_000), 1));
    await db.query('delete from outbox_events');
    await insertEvents(db, 'any', eventsOf(newKeys(5), 1));
    const before = await blocksLookedAt(db);
    const [counted] = await db.query('select count from outbox_count(10001, 1000)');
    expect(counted).toEqual({ count: 5 });
    expect((await blocksLookedAt(db)) - before).toBeLessThan(50);
  });
});

async function blocksLookedAt(db: TestDatabase): Promise<number> {
  await db.query('select pg_stat_force_next_flush()');
  const [stat] = await db.query<{ blocks: number }>(`
    select heap_blks_read + heap_blks_hit as blocks from pg_statio_user_tables
    where relname = 'outbox_events'`);
  return stat?.blocks ?? 0;
}
