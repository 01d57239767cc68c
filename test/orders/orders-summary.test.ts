import { describe, expect, test } from 'vitest';
import { createDatabase } from '#src/database/database.ts';
import { listOrders } from '#src/orders/orders-summary.ts';
import type { OrderFilter } from '#src/orders/orders-summary.ts';
import { createTestDatabase } from '#test/support/database.ts';
import type { TestDatabase } from '#test/support/database.ts';
import { skipReason } from '#test/support/infra.ts';
import { eventually } from '#test/support/poll.ts';

const PAGE = 25;

describe.skipIf(skipReason('postgres'))('a page of orders', () => {
  test.each<[string, OrderFilter, number]>([
    ['all', {}, PAGE],
    ['one customer', { customerId: 'large' }, PAGE],
    ['one status', { status: 'pending' }, PAGE],
    ['a customer and a status that is rare with it', { customerId: 'large', status: 'pending' }, 1],
  ])('of %s reads little more than it shows', async (_, filter, shown) => {
    await using database = await createTestDatabase();
    await database.query(`
      insert into orders_summary
      select gen_random_uuid(), customer, status, 'EUR', 1, 1, 0, 0,
        timestamptz '2026-01-01' + g * interval '1 s', null, null, null, null, 1
      from generate_series(1, 10000) g,
        lateral (values ('large', case g when 1 then 'pending' else 'shipped' end),
          ('small-' || g, 'pending')) as o (customer, status)`);
    await database.query('analyze orders_summary');
    const before = await rowsRead(database);
    const service = createDatabase(database.url, { writersMax: 1, poolMax: 2 }, () => {});
    expect((await listOrders(service.reads, filter, { limit: PAGE })).data).toHaveLength(shown);
    await service.close();
    await eventually(async () => (await rowsRead(database)) > before); // sessions report when they end
    expect((await rowsRead(database)) - before).toBeLessThan(4 * PAGE);
  });
});

async function rowsRead(database: TestDatabase): Promise<number> {
  const [row] = await database.query<{ read: number }>(
    `select seq_tup_read + idx_tup_fetch as read from pg_stat_user_tables
     where relname = 'orders_summary'`,
  );
  return row!.read;
}
