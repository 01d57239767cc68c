import { v7 as uuidv7 } from 'uuid';
import { describe, expect, test } from 'vitest';
import { createDatabase } from '#src/database/database.ts';
import { createGroupCommit } from '#src/event-store/group-commit.ts';
import { createPostgresUnitStore } from '#src/event-store/postgres-unit-store.ts';
import { createOrderCommandHandler } from '#src/orders/handle-order-command.ts';
import type { OrderCommand } from '#src/orders/domain/order-commands.ts';
import { writeUnits } from '#src/orders/order-units.ts';
import { ordersSummaryProjection } from '#src/orders/orders-summary.ts';
import { runProjectionCommand } from '#src/projections/projection-commands.ts';
import { rebuildProjection } from '#src/projections/rebuild-projection.ts';
import { createTestDatabase } from '#test/support/database.ts';
import type { TestDatabase } from '#test/support/database.ts';
import { skipReason } from '#test/support/infra.ts';
import * as a from '#test/support/orders.ts';

const metadata = { correlationId: 'test', actor: 'test' };

function connect(database: TestDatabase) {
  const connected = createDatabase(database.url, { writersMax: 2, poolMax: 4 }, () => {});
  const commit = createGroupCommit(
    createPostgresUnitStore(connected.writer, writeUnits),
    {
      batchMax: 64,
      slots: 2,
      queueMax: 2000,
      streamMax: 2000,
      reservedMax: 100,
      waitMaxMs: 60_000,
      oneByOneMsMax: 2_000,
      lockedMsMax: 1_000,
    },
    { committed: () => {}, failed: () => {} },
  );
  const handle = createOrderCommandHandler({
    commit,
    now: () => new Date(),
    topic: 'orders',
    outboxIsFull: () => false,
    followUp: () => ({ appends: [], sagas: [] }),
  });
  const run = async (...commands: readonly OrderCommand[]) => {
    const orderId = uuidv7();
    for (const command of commands) {
      const named = command.type === 'PlaceOrder' ? { ...command, orderId } : command;
      await handle({ orderId, command: named, metadata });
    }
    return orderId;
  };
  return { pool: connected.pool, run, [Symbol.asyncDispose]: connected.close };
}

const lives: OrderCommand[][] = [
  [a.place],
  [a.place, a.pay],
  [a.place, a.pay, a.ship],
  [a.place, a.cancel],
  [a.place, a.pay, a.cancel, a.refund],
];

async function command(service: ReturnType<typeof connect>, name: string) {
  const lines: string[] = [];
  const code = await runProjectionCommand([name], service.pool, ordersSummaryProjection, (line) => {
    lines.push(line);
  });
  return { code, text: lines.join('\n') };
}

describe.skipIf(skipReason('postgres'))('the read model of orders', () => {
  test('is what the streams say, whatever happened to the orders', async () => {
    await using database = await createTestDatabase();
    await using service = connect(database);
    await Promise.all(lives.map((life) => service.run(...life)));
    expect(await command(service, 'verify')).toEqual({
      code: 0,
      text: 'orders_summary: 5 checked, 0 not as their streams say',
    });
  });

  test('is right although a newer release has added a column, which a rebuild leaves alone', async () => {
    await using database = await createTestDatabase();
    await using service = connect(database);
    await Promise.all(lives.map((life) => service.run(...life)));
    await database.query(
      'alter table orders_summary add column note text, add column rank integer',
    );
    await database.query(`update orders_summary set note = 'kept', rank = 1`);
    const right = {
      code: 0,
      text: 'orders_summary: 5 checked, 0 not as their streams say',
    };
    expect(await command(service, 'verify')).toEqual(right);
    expect(await command(service, 'rebuild')).toMatchObject({ code: 0 });
    expect(await command(service, 'verify')).toEqual(right);
    expect(await database.query('select distinct note, rank from orders_summary')).toEqual([
      { note: 'kept', rank: 1 },
    ]);
    await database.query(`update orders_summary set tracking_number = 'T-0'`);
    expect(await command(service, 'verify')).toMatchObject({
      text: expect.stringContaining('5 checked, 5 not'),
    });
  });

  test.each<[string, string]>([
    ['a wrong status', `update orders_summary set status = 'shipped' where status = 'pending'`],
    ['a wrong amount', `update orders_summary set captured_cents = 1 where status = 'paid'`],
    ['a missing row', `delete from orders_summary where status = 'shipped'`],
    [
      'a row without a stream',
      `insert into orders_summary select (jsonb_populate_record(o, '{"order_id":
       "01999e5c-7c1f-7d3a-9f52-3b6f0c9d2a11"}')).* from orders_summary o where status = 'paid'`,
    ],
  ])('is found to have %s', async (_, damage) => {
    await using database = await createTestDatabase();
    await using service = connect(database);
    await Promise.all(lives.map((life) => service.run(...life)));
    await database.query(damage);
    expect(await command(service, 'verify')).toMatchObject({
      code: 1,
      text: expect.stringContaining('5 checked, 1 not as their streams say'),
    });
  });

  test('is made again from any damage to its rows', async () => {
    await using database = await createTestDatabase();
    await using service = connect(database);
    await Promise.all(lives.map((life) => service.run(...life)));
    await database.query(`update orders_summary set status = 'pending', version = 1`);
    await database.query(`delete from orders_summary where captured_cents > 0`);
    expect(await command(service, 'rebuild')).toMatchObject({ code: 0 });
    expect(await command(service, 'verify')).toMatchObject({ code: 0 });
  });

  test('is rebuilt while orders come and change, and no reader misses a row', async () => {
    await using database = await createTestDatabase();
    await using service = connect(database);
    await Promise.all(Array.from({ length: 1200 }, () => service.run(a.place)));
    const rebuilding = new AbortController();
    const readers = (async () => {
      let fewest = Infinity;
      while (!rebuilding.signal.aborted) {
        const [row] = await database.query<{ rows: number }>(
          'select count(*) as rows from orders_summary',
        );
        fewest = Math.min(fewest, row!.rows);
      }
      return fewest;
    })();
    const writers = Promise.all(
      Array.from({ length: 8 }, async () => {
        while (!rebuilding.signal.aborted) await service.run(a.place, a.pay, a.ship);
      }),
    );
    for (let round = 0; round < 3; round += 1) {
      await rebuildProjection(service.pool, ordersSummaryProjection, () => {});
    }
    rebuilding.abort();
    await writers;
    expect(await readers).toBeGreaterThanOrEqual(1200);
    expect(await command(service, 'verify')).toMatchObject({ code: 0 });
  });

  test('has commands that say how they are used', async () => {
    await using database = await createTestDatabase();
    await using service = connect(database);
    expect(await command(service, 'refresh')).toMatchObject({
      code: 2,
      text: expect.stringContaining('usage: npm run projections -- verify | rebuild'),
    });
  });
});
