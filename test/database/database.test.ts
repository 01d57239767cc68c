import { Client } from 'pg';
import type { Pool } from 'pg';
import { describe, expect, test } from 'vitest';
import {
  createDatabase,
  createOperatorPool,
  oldestTransactionAgeSeconds,
} from '#src/database/database.ts';
import { createTestDatabase } from '#test/support/database.ts';
import { skipReason } from '#test/support/infra.ts';

/*
 * A client whose host disappears, or that freezes in a transaction, must not keep its locks for as long as the
 * operating system allows (2 h until the first probe).
 */
const GONE = { tcp_keepalives_idle: 5, tcp_keepalives_interval: 2, tcp_keepalives_count: 3 };

describe.skipIf(skipReason('postgres'))('a session', () => {
  test('of the service ends soon after its client has disappeared', async () => {
    await using database = await createTestDatabase();
    const service = createDatabase(database.url, { writersMax: 1, poolMax: 2 }, () => {});
    for (const pool of [service.writer, service.pool, service.reads.pool]) {
      expect(await settingsOf(pool)).toMatchObject({
        ...GONE,
        tcp_user_timeout: 10_000,
        idle_in_transaction_session_timeout: 10_000,
        statement_timeout: 5_000,
      });
    }
    await service.close();
  });

  test('of an operator does too, although a command may take as long as it needs', async () => {
    await using database = await createTestDatabase();
    const pool = createOperatorPool(database.url);
    expect(await settingsOf(pool)).toMatchObject({
      ...GONE,
      tcp_user_timeout: 10_000,
      idle_in_transaction_session_timeout: 60_000,
      statement_timeout: 0,
    });
    await pool.end();
  });
});

describe.skipIf(skipReason('postgres'))('the age of the oldest transaction', () => {
  test('includes transactions of other roles, and is 0 if there is none', async () => {
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

async function settingsOf(pool: Pool): Promise<Record<string, number>> {
  const { rows } = await pool.query<{ name: string; setting: string }>(
    `select name, setting from pg_settings where name like 'tcp_%' or name like '%_timeout'`,
  );
  return Object.fromEntries(rows.map(({ name, setting }) => [name, Number(setting)]));
}
