import type { Pool } from 'pg';

/** For how long the oldest transaction of the database has been open; 0 where none is. */
export async function oldestTransactionAgeSeconds(pool: Pool): Promise<number> {
  const { rows } = await pool.query<{ age: number }>(
    'select oldest_transaction_age_seconds() as age',
  );
  return rows[0]?.age ?? 0;
}
