import { Client } from 'pg';
import { describe, expect, test } from 'vitest';
import { createDatabase, oldestTransactionAgeSeconds } from '#src/database/database.ts';
import { createTestDatabase } from '#test/support/database.ts';
import { skipReason } from '#test/support/infra.ts';

describe.skipIf(skipReason('postgres'))('the age of the oldest transaction', () => {
  test("is told to the service's role, whoever opened it, and is nothing when it has ended", async () => {
    await using database = await createTestDatabase();
    const service = createDatabase(database.url, { writersMax: 1, poolMax: 2 }, () => {});
    const age = () => oldestTransactionAgeSeconds(service.pool);
    expect(await age()).toBe(0);
    const other = new Client({ connectionString: database.url });
    await other.connect();
    await other.query('begin');
    await other.query('select pg_sleep(0.2)');
    expect(await age()).toBeGreaterThanOrEqual(0.2);
    await other.query('rollback');
    expect(await age()).toBe(0);
    await other.end();
    await service.close();
  });
});
