import { describe, expect, test } from 'vitest';
import { createTestDatabase } from '#test/support/database.ts';
import { skipReason } from '#test/support/infra.ts';
import type { OrderApi } from '#test/support/order-api.ts';
import { startService } from '#test/support/service.ts';
import { verifyDatabase } from '#test/support/verify-database.ts';

/*
 * A release keeps its connections, and the statements that were prepared on them, while a newer release migrates.
 */
const CHANGES = [
  ['a column of stored responses gets another type', 'idempotency_keys', 'status', 'bigint'],
  ['a column of events gets another type', 'events', 'version', 'bigint'],
] as const;

describe.skipIf(skipReason('postgres'))('statements that were prepared before a migration', () => {
  test.each(CHANGES)(
    'are prepared again without an error for callers: %s',
    async (_, table, column, type) => {
      await using database = await createTestDatabase();
      await using service = await startService({ databaseUrl: database.url });
      const { api } = service;
      await useEveryStatement(api);
      await database.query(`alter table ${table} alter column ${column} type ${type}`);
      await useEveryStatement(api);
      expect(await verifyDatabase(database.url, { relay: 'off' })).toEqual([]);
    },
  );
});

const TOGETHER = 8;

/** Both connections of the write path, and several of those for reads. */
async function useEveryStatement(api: OrderApi): Promise<void> {
  await Promise.all(
    Array.from({ length: TOGETHER }, async (_, index) => {
      const key = `key-${crypto.randomUUID()}-${index}`;
      const order = await api.placeOrder();
      const paid = await api.pay(order);
      const shipment = { trackingNumber: 'T-1', carrier: 'post' };
      const shipped = await api.send('ship', paid.orderId, shipment, { key });
      expect(shipped.status).toBe(200);
      expect((await api.send('ship', paid.orderId, shipment, { key })).text).toBe(shipped.text);
      expect((await api.get(order.orderId)).version).toBe(3);
    }),
  );
}
