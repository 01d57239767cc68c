import { Pool } from 'pg';
import { describe, expect, test } from 'vitest';
import { createDatabaseClock } from '#src/database/clock.ts';
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
