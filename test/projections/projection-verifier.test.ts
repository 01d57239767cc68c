import { v7 as uuidv7 } from 'uuid';
import { describe, expect, test } from 'vitest';
import { createDatabase } from '#src/database/database.ts';
import { createGroupCommit } from '#src/event-store/group-commit.ts';
import { createPostgresUnitStore } from '#src/event-store/postgres-store.ts';
import type { OrderCommand } from '#src/orders/domain/order-commands.ts';
import { createOrderCommandHandler } from '#src/orders/handle-order-command.ts';
import { ordersSummaryProjection } from '#src/orders/order-stream.ts';
import { compareSample } from '#src/projections/projection.ts';
import { COMMIT_LIMITS } from '#test/support/commit-limits.ts';
import { createTestDatabase } from '#test/support/database.ts';
import type { TestDatabase } from '#test/support/database.ts';
import { skipReason } from '#test/support/infra.ts';
import * as a from '#test/support/orders.ts';
import { eventually } from '#test/support/poll.ts';
import { startService } from '#test/support/service.ts';

const SAMPLE = 20;

function connect(database: TestDatabase) {
  const connected = createDatabase(database.url, { writersMax: 2, poolMax: 4 }, () => {});
  const handle = createOrderCommandHandler({
    isOwner: async () => true,
    orderOfReference: async () => undefined,
    commit: createGroupCommit(createPostgresUnitStore(connected.writer), COMMIT_LIMITS, {
      committed: () => {},
      failed: () => {},
    }),
    now: () => new Date(),
    topic: 'orders',
    outboxIsFull: () => false,
    startOrWakeSaga: () => ({ appends: [], sagas: [] }),
  });
  const run = async (orderId: string, ...commands: readonly OrderCommand[]) => {
    for (const command of commands) {
      const named = command.type === 'PlaceOrder' ? { ...command, orderId } : command;
      await handle({
        orderId,
        command: named,
        metadata: { correlationId: 'test', actor: 'test' },
      });
    }
    return orderId;
  };
  const sample = async () => {
    const { checked, mismatches } = await compareSample(
      connected.pool,
      ordersSummaryProjection,
      SAMPLE,
    );
    return { checked, keys: mismatches.map(({ key }) => key) };
  };
  return { run, sample, [Symbol.asyncDispose]: connected.close };
}

describe.skipIf(skipReason('postgres'))('a sample of the read model', () => {
  test('is empty if there are no orders', async () => {
    await using database = await createTestDatabase();
    await using service = connect(database);
    expect(await service.sample()).toEqual({ checked: 0, keys: [] });
  });

  test('finds rows that were changed or deleted by hand, whatever their age', async () => {
    await using database = await createTestDatabase();
    await using service = connect(database);
    const ids: string[] = [];
    for (let made = 0; made < 9; made += 1) ids.push(await service.run(uuidv7(), a.place, a.pay));
    const { checked, keys } = await service.sample();
    expect(checked).toBeGreaterThan(0);
    expect(checked).toBeLessThanOrEqual(SAMPLE);
    expect(keys).toEqual([]);
    const damaged = [ids[0], ids[4], ids[8]];
    await database.query(`update orders_summary set captured_cents = 1 where order_id = any($1)`, [
      damaged.slice(0, 2),
    ]);
    await database.query('delete from orders_summary where order_id = $1', [ids[8]]);
    const found = new Set<string>();
    await eventually(async () => {
      for (const key of (await service.sample()).keys) found.add(key);
      return found.size >= damaged.length;
    });
    expect(found).toEqual(new Set(damaged));
  });

  test('reports no difference while orders change', async () => {
    await using database = await createTestDatabase();
    await using service = connect(database);
    const ids = Array.from({ length: 8 }, () => uuidv7());
    await Promise.all(ids.map((id) => service.run(id, a.place, a.pay, a.cancel)));
    const sampling = new AbortController();
    const writers = ids.map(async (id) => {
      for (let refund = 0; refund < a.totalCents && !sampling.signal.aborted; refund += 1) {
        await service.run(id, {
          type: 'RefundOrder',
          refundId: `r${refund}`,
          amountCents: 1,
          sagaId: 'refund-1',
        });
      }
    });
    let checked = 0;
    for (let round = 0; round < 50; round += 1) {
      const sample = await service.sample();
      checked += sample.checked;
      expect(sample.keys).toEqual([]);
    }
    sampling.abort();
    await Promise.all(writers);
    expect(checked).toBeGreaterThan(50);
  });
});

describe.skipIf(skipReason('postgres'))('a running service', () => {
  test('logs and counts an order whose row differs from its events', async () => {
    await using database = await createTestDatabase();
    const env = { VERIFY_INTERVAL_S: '1' };
    await using service = await startService({ databaseUrl: database.url, env });
    const count = async (name: string) => {
      const { text } = await service.api.request('GET', '/metrics');
      const line = new RegExp(`^${name}\\{kind="orders_summary"\\} (\\d+)$`, 'm').exec(text);
      return Number(line?.[1]);
    };
    const { orderId } = await service.api.placeOrder();
    await eventually(async () => (await count('orders_verify_checked_total')) > 0);
    expect(await count('orders_verify_mismatch_total')).toBe(0);
    await database.query(`update orders_summary set status = 'paid', customer_id = 'secret'`);
    await eventually(async () => (await count('orders_verify_mismatch_total')) > 0);
    const told = service.log().find((line) => line.includes('differs from its events'));
    expect(JSON.parse(told ?? '{}')).toMatchObject({
      table: 'orders_summary',
      order_id: orderId,
      columns: ['customer_id', 'status'],
    });
    expect(told).not.toContain('secret');
  });

  test('compares nothing if the verifier is turned off', async () => {
    await using database = await createTestDatabase();
    const env = { VERIFY_INTERVAL_S: '0' };
    await using service = await startService({ databaseUrl: database.url, env });
    await service.api.placeOrder();
    const { text } = await service.api.request('GET', '/metrics');
    expect(text).toContain('orders_verify_checked_total');
    expect(text).not.toContain('orders_verify_checked_total{');
  });
});
