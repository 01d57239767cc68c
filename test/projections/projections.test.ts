import { Client } from 'pg';
import { v7 as uuidv7 } from 'uuid';
import { describe, expect, test } from 'vitest';
import { createDatabase } from '#src/database/database.ts';
import { createGroupCommit } from '#src/event-store/group-commit.ts';
import { createPostgresUnitStore } from '#src/event-store/postgres-store.ts';
import { createOrderCommandHandler } from '#src/orders/handle-order-command.ts';
import type { OrderCommand } from '#src/orders/domain/order-commands.ts';
import { ordersSummaryProjection } from '#src/orders/order-stream.ts';
import { runProjectionCommand } from '#src/projections/projection-commands.ts';
import { COMMIT_LIMITS } from '#test/support/commit-limits.ts';
import { createTestDatabase } from '#test/support/database.ts';
import type { TestDatabase } from '#test/support/database.ts';
import { skipReason } from '#test/support/infra.ts';
import * as a from '#test/support/orders.ts';
import { eventually } from '#test/support/poll.ts';

const metadata = { correlationId: 'test', actor: 'test' };

function connect(database: TestDatabase, now = () => new Date()) {
  const connected = createDatabase(database.url, { writersMax: 2, poolMax: 4 }, () => {});
  const commit = createGroupCommit(createPostgresUnitStore(connected.writer), COMMIT_LIMITS, {
    committed: () => {},
    failed: () => {},
  });
  const handle = createOrderCommandHandler({
    isOwner: async () => true,
    orderOfReference: async () => undefined,
    commit,
    now,
    topic: 'orders',
    outboxIsFull: () => false,
    startOrWakeSaga: () => ({ appends: [], sagas: [] }),
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

/** Locks all streams and their rows, as commands on them do, until `release` commits. */
async function holdStreams(database: TestDatabase) {
  const client = new Client({ connectionString: database.url });
  await client.connect();
  await client.query('begin');
  await client.query('select from streams for update');
  await client.query('select from orders_summary for update');
  return {
    query: (sql: string, params?: unknown[]) => client.query(sql, params),
    release: () => client.query('commit'),
    [Symbol.asyncDispose]: () => client.end(),
  };
}

/** How many sessions wait for a lock. */
async function waiting(database: TestDatabase): Promise<number> {
  const [row] = await database.query<{ sessions: number }>(
    `select count(*) as sessions from pg_stat_activity
     where datname = current_database() and wait_event_type = 'Lock'`,
  );
  return row!.sessions;
}

describe.skipIf(skipReason('postgres'))('the read model of orders', () => {
  test('equals the fold of the streams, whatever happened to the orders', async () => {
    await using database = await createTestDatabase();
    await using service = connect(database);
    await Promise.all(lives.map((life) => service.run(...life)));
    expect(await command(service, 'verify')).toEqual({
      code: 0,
      text: 'orders_summary: 5 checked, 0 differ from their events',
    });
  });

  test('is correct if a newer release has added a column, and a rebuild leaves that column alone', async () => {
    await using database = await createTestDatabase();
    await using service = connect(database);
    await Promise.all(lives.map((life) => service.run(...life)));
    await database.query(
      'alter table orders_summary add column note text, add column rank integer',
    );
    await database.query(`update orders_summary set note = 'kept', rank = 1`);
    const right = {
      code: 0,
      text: 'orders_summary: 5 checked, 0 differ from their events',
    };
    expect(await command(service, 'verify')).toEqual(right);
    expect(await command(service, 'rebuild')).toMatchObject({ code: 0 });
    expect(await command(service, 'verify')).toEqual(right);
    expect(await database.query('select distinct note, rank from orders_summary')).toEqual([
      { note: 'kept', rank: 1 },
    ]);
    await database.query(`update orders_summary set tracking_number = 'T-0'`);
    expect(await command(service, 'verify')).toMatchObject({
      text: expect.stringContaining('5 checked, 5 differ'),
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
      text: expect.stringContaining('5 checked, 1 differ from their events'),
    });
  });

  test('is corrected by a rebuild after any damage to its rows', async () => {
    await using database = await createTestDatabase();
    await using service = connect(database);
    await Promise.all(lives.map((life) => service.run(...life)));
    await database.query(`update orders_summary set status = 'pending', version = 1`);
    await database.query(`delete from orders_summary where captured_cents > 0`);
    expect(await command(service, 'rebuild')).toMatchObject({ code: 0 });
    expect(await command(service, 'verify')).toMatchObject({ code: 0 });
  });

  test('has every instant to the millisecond after a rebuild', async () => {
    await using database = await createTestDatabase();
    for (const instant of ['.000', '.100', '.120', '.123', '.023', '.003']) {
      await using service = connect(database, () => new Date(`2026-11-25T20:06:26${instant}Z`));
      await service.run(a.place, a.pay, a.ship);
    }
    await using service = connect(database);
    const rows = () => database.query('select * from orders_summary order by order_id');
    const before = await rows();
    await database.query('delete from orders_summary');
    expect(await command(service, 'rebuild')).toMatchObject({
      text: 'orders_summary: 6 checked, 6 written',
    });
    expect(await rows()).toEqual(before);
  });

  test('is neither locked nor written by a rebuild where it is correct', async () => {
    await using database = await createTestDatabase();
    await using service = connect(database);
    await Promise.all(lives.map((life) => service.run(...life)));
    const places = () =>
      database.query('select order_id, ctid, xmin from orders_summary order by 1');
    const before = await places();
    await using holder = await holdStreams(database);
    expect(await command(service, 'rebuild')).toEqual({
      code: 0,
      text: 'orders_summary: 5 checked, 0 written',
    });
    await holder.release();
    expect(await places()).toEqual(before);
  });

  test('is correct if a command changes an order after a rebuild has read it and before it writes', async () => {
    await using database = await createTestDatabase();
    await using service = connect(database);
    const changed = await service.run(a.place);
    const same = await service.run(a.place, a.pay);
    await database.query(`update orders_summary set currency = 'XXX'`);
    await using holder = await holdStreams(database);
    const rebuilt = command(service, 'rebuild');
    await eventually(async () => (await waiting(database)) > 0);
    // As a release that does not know the column of the damage: it leaves that as it is.
    await holder.query(
      `insert into events (stream_id, version, type, schema_version, data, metadata, recorded_at)
       values ($1, 2, 'PaymentCaptured', 1, $2, $3, now())`,
      [changed, a.paid.data, metadata],
    );
    await holder.query('update streams set version = 2 where stream_id = $1', [changed]);
    await holder.query(
      `update orders_summary set status = 'paid', version = 2, captured_cents = $2
       where order_id = $1`,
      [changed, a.totalCents],
    );
    await holder.release();
    expect(await rebuilt).toMatchObject({ text: 'orders_summary: 2 checked, 2 written' });
    expect(await command(service, 'verify')).toMatchObject({ code: 0 });
    expect(
      await database.query(
        'select version, currency from orders_summary where order_id = any($1)',
        [[changed, same]],
      ),
    ).toEqual([
      { version: 2, currency: 'EUR' },
      { version: 2, currency: 'EUR' },
    ]);
  });

  test('is not written by a rebuild if a command has corrected the row meanwhile', async () => {
    await using database = await createTestDatabase();
    await using service = connect(database);
    const orderId = await service.run(a.place);
    await database.query(`update orders_summary set status = 'shipped'`);
    await using holder = await holdStreams(database);
    const rebuilt = command(service, 'rebuild');
    await eventually(async () => (await waiting(database)) > 0);
    await holder.query(
      `insert into events (stream_id, version, type, schema_version, data, metadata, recorded_at)
       values ($1, 2, 'OrderCancelled', 1, $2, $3, '2026-11-25T20:06:26.12Z')`,
      [orderId, a.cancelled(0).data, metadata],
    );
    await holder.query('update streams set version = 2');
    await holder.query(
      `update orders_summary set status = 'cancelled', version = 2,
       cancelled_at = '2026-11-25T20:06:26.12Z'`,
    );
    await holder.release();
    expect(await rebuilt).toMatchObject({ text: 'orders_summary: 1 checked, 0 written' });
    expect(await database.query('select status from orders_summary')).toEqual([
      { status: 'cancelled' },
    ]);
    expect(await command(service, 'verify')).toMatchObject({ code: 0 });
  });

  test('is rebuilt while orders are placed and change, and no reader misses a row', async () => {
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
      await database.query('update orders_summary set item_count = 0');
      expect(await command(service, 'rebuild')).toMatchObject({ code: 0 });
    }
    rebuilding.abort();
    await writers;
    expect(await readers).toBeGreaterThanOrEqual(1200);
    expect(await command(service, 'verify')).toMatchObject({ code: 0 });
  });

  test('has commands that print their usage', async () => {
    await using database = await createTestDatabase();
    await using service = connect(database);
    expect(await command(service, 'refresh')).toMatchObject({
      code: 2,
      text: expect.stringContaining('usage: npm run projections -- verify | rebuild'),
    });
  });
});
