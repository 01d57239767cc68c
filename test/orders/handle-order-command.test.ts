import { v7 as uuidv7 } from 'uuid';
import { describe, expect, test } from 'vitest';
import { createDatabase } from '#src/database/database.ts';
import type { UnitStore } from '#src/event-store/event-store.ts';
import { createGroupCommit } from '#src/event-store/group-commit.ts';
import { createPostgresUnitStore } from '#src/event-store/postgres-store.ts';
import type { OrderCommand } from '#src/orders/domain/order-commands.ts';
import { createOrderCommandHandler } from '#src/orders/handle-order-command.ts';
import { COMMIT_LIMITS } from '#test/support/commit-limits.ts';
import { createTestDatabase } from '#test/support/database.ts';
import { skipReason } from '#test/support/infra.ts';
import * as a from '#test/support/orders.ts';

function handlerOn(store: UnitStore) {
  const handle = createOrderCommandHandler({
    isOwner: async () => true,
    orderOfReference: async () => undefined,
    commit: createGroupCommit(store, COMMIT_LIMITS, { committed: () => {}, failed: () => {} }),
    now: () => new Date(),
    topic: 'orders',
    outboxIsFull: () => false,
    startOrWakeSaga: () => ({ appends: [], sagas: [] }),
  });
  return (orderId: string, command: OrderCommand, customerId?: string) =>
    handle({
      orderId,
      command: command.type === 'PlaceOrder' ? { ...command, orderId } : command,
      metadata: { correlationId: 'test', actor: 'test' },
      customerId,
    });
}

describe.skipIf(skipReason('postgres'))('a command that lost every race', () => {
  test('is told the present state of the order, not the state in which it lost', async () => {
    await using database = await createTestDatabase();
    const connected = createDatabase(database.url, { writersMax: 4, poolMax: 2 }, () => {});
    const store = createPostgresUnitStore(connected.writer);
    const rival = handlerOn(store);
    const orderId = uuidv7();
    for (const command of [a.place, a.pay, a.cancel]) await rival(orderId, command);
    let races = 0;
    const loser = handlerOn({
      ...store,
      write: async (units) => {
        races += 1;
        await rival(orderId, {
          type: 'RefundOrder',
          refundId: `r${races}`,
          amountCents: 1,
          sagaId: 'refund-1',
        });
        return store.write(units);
      },
    });
    const lost = loser(orderId, {
      type: 'RefundOrder',
      refundId: 'mine',
      amountCents: 1,
      sagaId: 'refund-1',
    });
    await expect(lost).rejects.toMatchObject({ code: 'version_conflict' });
    expect(races).toBe(5);
    await expect(lost).rejects.toMatchObject({
      current: { status: 'cancelled', version: 8, allowed: ['refund'] },
    });
    await connected.close();
  });
});

describe.skipIf(skipReason('postgres'))('a command of a customer', () => {
  test('is decided on its own orders only, even if it was told that the order is its own', async () => {
    await using database = await createTestDatabase();
    const connected = createDatabase(database.url, { writersMax: 4, poolMax: 2 }, () => {});
    const send = handlerOn(createPostgresUnitStore(connected.writer));
    const orderId = uuidv7();
    await send(orderId, a.place);
    await expect(send(orderId, a.cancel, 'somebody else')).rejects.toMatchObject({
      code: 'order_not_found',
      current: undefined,
    });
    const { status } = await send(orderId, a.cancel, 'c-1');
    expect(status).toBe(200);
    await connected.close();
  });
});
