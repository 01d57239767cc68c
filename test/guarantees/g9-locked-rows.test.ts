import { Client } from 'pg';
import { describe, expect, test } from 'vitest';
import { problemOf } from '#test/support/api-shapes.ts';
import { createTestDatabase } from '#test/support/database.ts';
import { skipReason } from '#test/support/infra.ts';
import { placeBody } from '#test/support/order-api.ts';
import { startService } from '#test/support/service.ts';
import { verifyDatabase } from '#test/support/verify-database.ts';

const ORDERS = 130; // more than both slots hold

describe.skipIf(skipReason('postgres'))('rows that somebody else keeps locked', () => {
  test('hold up the commands that need them, and no other for long', async () => {
    await using database = await createTestDatabase();
    await using service = await startService({ databaseUrl: database.url });
    const { api } = service;
    const orders = await Promise.all(Array.from({ length: ORDERS }, () => api.placeOrder()));

    const somebody = new Client({ connectionString: database.url });
    await somebody.connect();
    await somebody.query('begin; select from streams for update');
    const locked = orders.map(({ orderId }) => api.send('cancel', orderId, { reason: 'r' }));
    const others = Array.from({ length: 5 }, () => api.place(placeBody));
    // All of them are answered while the lock is held: a hang would end in the client's time limit.
    for (const { status } of await Promise.all(others)) expect([201, 503]).toContain(status);
    for (const answer of await Promise.all(locked)) {
      expect(problemOf(answer)).toMatchObject({ status: 503 });
    }
    expect((await api.place(placeBody)).status).toBe(201);
    await somebody.query('rollback');
    await somebody.end();

    expect((await api.send('cancel', orders[0]!.orderId, { reason: 'r' })).status).toBe(200);
    expect(await verifyDatabase(database.url, { relay: 'off' })).toEqual([]);
  });
});
