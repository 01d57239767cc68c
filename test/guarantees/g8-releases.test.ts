import { describe, expect, test } from 'vitest';
import { createTestDatabase } from '#test/support/database.ts';
import { skipReason } from '#test/support/infra.ts';
import { eventually } from '#test/support/poll.ts';
import { makeRelease } from '#test/support/release.ts';
import { createSagaApi } from '#test/support/saga/api.ts';
import { createSagaWorld } from '#test/support/saga/world.ts';
import { startService } from '#test/support/service.ts';
import type { ServiceOptions } from '#test/support/service.ts';

const EVENTS = 'src/orders/domain/order-events.ts';
const PLACED = "  OrderPlaced: event('OrderPlaced', {";
/** Knows one event more, and writes none. */
const readsNewEvent = {
  edits: {
    [EVENTS]: [
      [
        PLACED,
        `OrderHeld: event('OrderHeld', {
           messageType: 'order.held.v1',
           title: 'Order held',
           summary: 'The order is on hold.',
           data: z.object({}),
           example: { version: 2, data: {} },
         }),
         ${PLACED}`,
      ],
    ],
  },
} as const;
/** The two steps of a deployment that changes the data of an event. */
const readsNextVersion = {
  edits: { [EVENTS]: [[PLACED, `${PLACED} downcasts: [(data) => data],`]] },
} as const;
const writesNextVersion = {
  edits: { [EVENTS]: [[PLACED, `${PLACED} upcasts: [(data) => data],`]] },
} as const;
const nextDefinition = {
  edits: { 'src/fulfilment/fulfilment-definition.ts': [['version: 2,', 'version: 3,']] },
} as const;

/*
 * G8: history is read by all who may have to read it, and a release can be gone back from until then.
 */
describe.skipIf(skipReason('postgres'))('a release', () => {
  test('that reads a new event and never wrote one does not stop the release before', async () => {
    await using database = await createTestDatabase();
    await using next = await makeRelease(readsNewEvent);
    {
      await using service = await startService({ databaseUrl: database.url, main: next.main });
      await service.api.pay(await service.api.placeOrder());
    }
    await using before = await startService({ databaseUrl: database.url });
    await before.api.placeOrder();
    expect(await announced(database)).toEqual(['OrderPlaced 1', 'PaymentCaptured 1']);
  });

  test('can write a new version beside one that reads it, and then alone', async () => {
    await using database = await createTestDatabase();
    await using reading = await makeRelease(readsNextVersion);
    await using writing = await makeRelease(writesNextVersion);
    await using first = await startService({ databaseUrl: database.url, main: reading.main });
    await using second = await startService({ databaseUrl: database.url, main: writing.main });
    const older = await first.api.placeOrder();
    expect(await announced(database)).toEqual(['OrderPlaced 1']);
    await expectToStart({ databaseUrl: database.url });

    const newer = await second.api.placeOrder();
    await first.api.pay(newer);
    await second.api.pay(older);
    expect(await announced(database)).toEqual([
      'OrderPlaced 1',
      'OrderPlaced 2',
      'PaymentCaptured 1',
    ]);
    expect(await first.api.listAll()).toHaveLength(3);
    await first.kill();
    await first.restart();
    expect((await first.api.get(newer.orderId)).status).toBe('paid');
    const start = startService({ databaseUrl: database.url });
    await expect(start).rejects.toThrow('OrderPlaced of schema version 2 may be in the log');
  });

  test('announces again what a database that went back in time has lost', async () => {
    await using database = await createTestDatabase();
    await using service = await startService({ databaseUrl: database.url });
    await service.api.placeOrder();
    await database.query('delete from event_schemas');
    await database.query(
      `select pg_terminate_backend(pid) from pg_stat_activity
       where datname = current_database() and application_name = 'order-service'`,
    );
    await eventually(async () => {
      await service.api.placeOrder();
      return true;
    });
    expect(await announced(database)).toEqual(['OrderPlaced 1']);
  });

  test('that knows a new definition of a saga can be gone back from until it started one', async () => {
    await using world = await createSagaWorld();
    await using next = await makeRelease(nextDefinition);
    const options = { databaseUrl: world.database.url, env: world.env };
    await using service = await startService({ ...options, main: next.main });
    await expectToStart(options);

    await world.setStock('book', 10);
    await world.simulator.addFault({ operation: 'capture', fault: 'hold' });
    const api = createSagaApi(service.url);
    const orderId = await api.placed(undefined, 'automatic');
    await world.simulator.nextCall({ orderId, operation: 'capture' });
    await expect(startService(options)).rejects.toThrow('fulfilment version 3');

    await world.simulator.clearFaults();
    await world.simulator.release();
    await eventually(async () => (await api.fulfilment(orderId)).state === 'completed');
    await expectToStart(options);
    api.close();
  });
});

type Queried = Readonly<{
  query(sql: string): Promise<ReadonlyArray<Record<string, unknown>>>;
}>;

async function announced(database: Queried): Promise<unknown[]> {
  const rows = await database.query(
    `select type || ' ' || schema_version as name from event_schemas order by 1`,
  );
  return rows.map(({ name }) => name);
}

async function expectToStart(options: ServiceOptions): Promise<void> {
  await using service = await startService(options);
  await service.api.placeOrder();
}
