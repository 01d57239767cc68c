import { Pool } from 'pg';
import { describe, expect, test } from 'vitest';
import { createClockWatch, createDatabaseClock, steeredClock } from '#src/database/clock.ts';
import { createTestDatabase } from '#test/support/database.ts';
import { skipReason } from '#test/support/infra.ts';

describe.skipIf(skipReason('postgres'))('the clock of the database', () => {
  test('continues after it was read once', async () => {
    await using database = await createTestDatabase();
    const pool = new Pool({ connectionString: database.url, max: 1 });
    const clock = createDatabaseClock(pool);
    expect(() => clock.now()).toThrow('never read');
    await clock.ready();
    const first = clock.now();
    await clock.ready();
    expect(clock.now().getTime()).toBeGreaterThanOrEqual(first.getTime());
    const [row] = await database.query<{ at: Date }>('select clock_timestamp() as at');
    expect(Math.abs(clock.now().getTime() - row!.at.getTime())).toBeLessThan(60_000);
    await pool.end();
  });
});

describe('a process that waits for the processor between two clocks', () => {
  test.each([
    ['is not off', 0, 0],
    ['is off if it was before', 300_000, 240_000],
    ['is off if it was before, behind the database', -300_000, -240_000],
  ])('%s', async (_, aheadMs, offsetMs) => {
    let timeMs = 0;
    const minuteLater = () => (timeMs += 60_000);
    const logged: unknown[] = [];
    const log = { error: (fields: unknown) => logged.push(fields), info: () => {} };
    const clock = steeredClock(() => new Date(minuteLater()));
    const watch = createClockWatch(clock, () => new Date(minuteLater() + aheadMs), log);
    await watch.refresh();
    expect(watch.isOff()).toBe(aheadMs !== 0);
    expect(logged).toHaveLength(aheadMs === 0 ? 0 : 1);
    expect(watch.offsetMs()).toBe(offsetMs);
  });
});
