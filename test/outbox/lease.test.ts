import type { Pool } from 'pg';
import { describe, expect, test } from 'vitest';
import { createLease } from '#src/outbox/lease.ts';
import type { LeaseOptions } from '#src/outbox/lease.ts';
import { createTestDatabase } from '#test/support/database.ts';
import { skipReason } from '#test/support/infra.ts';
import { eventually } from '#test/support/poll.ts';
import { quiet, servicePool } from './outbox-fixture.ts';

/** Longer than any test takes. */
const LONG_MS = 600_000;

function testLease(options: Pick<LeaseOptions, 'pool'> & Partial<LeaseOptions>) {
  const changes: boolean[] = [];
  const lease = createLease({
    name: 'work',
    ttlMs: LONG_MS,
    pollMs: 20,
    log: quiet,
    onChange: (isHeld) => changes.push(isHeld),
    ...options,
  });
  return { ...lease, changes };
}

/** A pool by which the first statement of its kind is carried out, but the response is lost. */
function withoutFirstResponseTo(kind: string, pool: Pool): Pool {
  let isLost = false;
  return new Proxy(pool, {
    get: (target, name) =>
      name === 'query'
        ? async (sql: string, values?: unknown[]) => {
            const response = await target.query(sql, values);
            if (isLost || !sql.trimStart().startsWith(kind)) return response;
            isLost = true;
            throw new Error('connection lost');
          }
        : Reflect.get(target, name),
  });
}

describe.skipIf(skipReason('postgres'))('a lease', () => {
  test('is held by one at a time, and handed over at once by a stop', async () => {
    await using db = await createTestDatabase();
    await using service = servicePool(db.url);
    const leases = [1, 2, 3].map(() => testLease(service));
    const holders = () => leases.filter((lease) => lease.current() !== undefined);
    for (const lease of leases) lease.start();
    await eventually(() => holders().length > 0);
    const [first, ...others] = holders();
    expect(others).toEqual([]);
    expect(first?.current()?.epoch).toBe(1);
    await first?.stop();
    expect(first?.current()).toBeUndefined();
    expect(first?.changes).toEqual([true, false]);
    await eventually(() => holders().length > 0);
    const [second, ...rest] = holders();
    expect(rest).toEqual([]);
    expect(second?.current()?.epoch).toBe(2);
    await Promise.all(leases.map((lease) => lease.stop()));
  });

  test('is one of many, told apart by name', async () => {
    await using db = await createTestDatabase();
    await using service = servicePool(db.url);
    const leases = ['a', 'b'].map((name) => testLease({ ...service, name }));
    for (const lease of leases) lease.start();
    const areBothHeld = () => leases.every((lease) => lease.current()?.epoch === 1);
    await expect(eventually(areBothHeld)).resolves.toBe(true);
    await Promise.all(leases.map((lease) => lease.stop()));
  });

  test('goes to another with a new epoch when its holder does not renew it', async () => {
    await using db = await createTestDatabase();
    await using service = servicePool(db.url);
    await db.query(`insert into leases values ('work', gen_random_uuid(), 7, clock_timestamp())`);
    const lease = testLease(service);
    lease.start();
    await expect(eventually(() => lease.current()?.epoch === 8)).resolves.toBe(true);
    await lease.stop();
  });

  test('is taken again, with a new epoch, by a process that did not get the response', async () => {
    await using db = await createTestDatabase();
    await using service = servicePool(db.url);
    const lease = testLease({ pool: withoutFirstResponseTo('insert', service.pool) });
    lease.start();
    await expect(eventually(() => lease.current()?.epoch === 2)).resolves.toBe(true);
    await lease.stop();
  });

  test('is lost at once when another has it', async () => {
    await using db = await createTestDatabase();
    await using service = servicePool(db.url);
    const lease = testLease(service);
    lease.start();
    await eventually(() => lease.current() !== undefined);
    await db.query(`update leases set owner = gen_random_uuid(), epoch = epoch + 1`);
    await eventually(() => lease.current() === undefined);
    expect(lease.changes).toEqual([true, false]);
    await lease.stop();
    const [row] = await db.query<{ alive: boolean }>(
      'select expires_at > clock_timestamp() as alive from leases',
    );
    expect(row?.alive).toBe(true); // the stop did not release the lease of another process
  });

  test('ends for its holder before it ends for the others, however late the response was', async () => {
    await using db = await createTestDatabase();
    await using service = servicePool(db.url);
    const slow = new Proxy(service.pool, {
      get: (target, name) =>
        name === 'query'
          ? async (sql: string, values?: unknown[]) => {
              const response = await target.query(sql, values);
              await target.query('select pg_sleep(1)'); // the response is slow
              return response;
            }
          : Reflect.get(target, name),
    });
    const lease = testLease({ pool: slow, pollMs: LONG_MS }); // no renewal meanwhile
    lease.start();
    await eventually(() => lease.current() !== undefined);
    const [row] = await db.query<{ ms: number }>(
      `select extract(epoch from expires_at - clock_timestamp())::float8 * 1000 as ms from leases`,
    );
    expect(lease.current()?.remainingMs).toBeLessThanOrEqual(row?.ms ?? 0);
    await lease.stop();
  });

  test('ends by itself on the monotonic clock when it cannot be renewed', async () => {
    await using db = await createTestDatabase();
    await using service = servicePool(db.url);
    const lease = testLease({ ...service, ttlMs: 3_000 });
    lease.start();
    await eventually(() => lease.current() !== undefined);
    await db.query('alter table leases rename to leases_away');
    await eventually(() => lease.current() === undefined);
    // The row expires a little later. Until then, a renewal would go on with the same epoch.
    await db.query(`select pg_sleep_until(expires_at) from leases_away`);
    await db.query('alter table leases_away rename to leases');
    await expect(eventually(() => lease.current() !== undefined)).resolves.toBe(true);
    expect(lease.changes).toEqual([true, false, true]);
    expect(lease.current()?.epoch).toBe(2);
    await lease.stop();
  });
});
