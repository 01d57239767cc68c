import type { Pool } from 'pg';
import { describe, expect, test } from 'vitest';
import { createDatabase, createOperatorPool } from '#src/database/database.ts';
import { createTestDatabase } from '#test/support/database.ts';
import { skipReason } from '#test/support/infra.ts';

/*
 * Who is gone without a word, host and all, or frozen in mid-transaction, must not keep its locks for as
 * long as the system thinks fit (2 h until the first probe).
 */
const GONE = { tcp_keepalives_idle: 5, tcp_keepalives_interval: 2, tcp_keepalives_count: 3 };

describe.skipIf(skipReason('postgres'))('a session', () => {
  test('of the service ends soon where nobody is there any more', async () => {
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

  test('of an operator too, although a command may take as long as it needs', async () => {
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

async function settingsOf(pool: Pool): Promise<Record<string, number>> {
  const { rows } = await pool.query<{ name: string; setting: string }>(
    `select name, setting from pg_settings where name like 'tcp_%' or name like '%_timeout'`,
  );
  return Object.fromEntries(rows.map(({ name, setting }) => [name, Number(setting)]));
}
