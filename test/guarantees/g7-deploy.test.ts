import { randomUUID } from 'node:crypto';
import { describe, expect, test } from 'vitest';
import { skipReason } from '#test/support/infra.ts';
import { eventually } from '#test/support/poll.ts';
import { createSagaApi } from '#test/support/saga/api.ts';
import { verifySagas } from '#test/support/saga/verify-sagas.ts';
import { createSagaWorld, untilAtRest } from '#test/support/saga/world.ts';
import type { SagaWorld } from '#test/support/saga/world.ts';
import { startService } from '#test/support/service.ts';

const ROUNDS = 2;

/** A saga of some definition, as another build would have left it. */
async function leaveSaga(
  { database }: SagaWorld,
  definition: string,
  version: number,
  state: string,
) {
  await database.query(
    `insert into saga_work (saga_id, subject_id, definition, definition_version, state, epoch)
     values ($1, $2, $3, $4, $5, 1)`,
    [randomUUID(), randomUUID(), definition, version, state],
  );
}

describe.skipIf(skipReason('postgres'))('G7 over a deploy', () => {
  test('what one process leaves in the middle, the next brings to its end', async () => {
    await using world = await createSagaWorld();
    const { simulator, database } = world;
    await world.setStock('book', 1000);
    const options = { databaseUrl: database.url, env: world.env };
    const stuck: string[] = [];
    {
      await using old = await startService(options);
      const api = createSagaApi(old.url);
      const begin = async (...faults: Parameters<typeof simulator.addFault>[0][]) => {
        const orderId = await api.placed(undefined, 'manual');
        for (const fault of faults) await simulator.addFault({ ...fault, orderId });
        await api.command('fulfil', orderId);
        return orderId;
      };
      const met = (orderId: string, operation: 'capture' | 'ship' | 'refund') =>
        simulator.nextCall({ orderId, operation });
      for (let round = 0; round < ROUNDS; round += 1) {
        await met(await begin({ operation: 'capture', fault: 'hold' }), 'capture');
        await met(await begin({ operation: 'capture', fault: 'unavailable' }), 'capture');
        await met(await begin({ operation: 'ship', fault: 'hold' }), 'ship');
        const unheard = await begin({
          operation: ['ship', 'look_up_shipment'],
          fault: 'timeout_after',
        });
        await met(unheard, 'ship');
        const refunded = await begin(
          { operation: 'ship', fault: 'refuse' },
          { operation: ['refund', 'look_up_refund'], fault: 'reset_before' },
        );
        await met(refunded, 'refund');
        const refused = await begin(
          { operation: 'ship', fault: 'refuse' },
          { operation: 'refund', fault: 'refuse', times: 1 },
        );
        await eventually(async () => (await api.fulfilment(refused)).state === 'stuck');
        stuck.push(refused);
      }
      api.close();
      expect(await old.terminate()).toMatchObject({ code: 0, signal: null });
    }
    const live = await database.query(
      `select from saga_work where state in ('running', 'compensating')`,
    );
    expect(live).toHaveLength(5 * ROUNDS);
    await simulator.clearFaults();

    await using next = await startService(options);
    const api = createSagaApi(next.url);
    for (const orderId of stuck) {
      expect((await api.command('fulfilment/retry', orderId)).status).toBe(202);
    }
    await untilAtRest(world, 6 * ROUNDS);
    await simulator.release();
    expect(await verifySagas(world, { stock: { book: 1000 } })).toEqual([]);
    const versions = await database.query('select distinct definition_version from saga_work');
    expect(versions).toEqual([{ definition_version: 2 }]);
    api.close();
  });

  test('a process that does not know a live saga does not start, and says which', async () => {
    await using world = await createSagaWorld();
    await leaveSaga(world, 'fulfilment', 1, 'stuck');
    await leaveSaga(world, 'fulfilment', 98, 'completed');
    await leaveSaga(world, 'fulfilment', 99, 'running');
    await leaveSaga(world, 'fulfilment', 100, 'compensating');
    await leaveSaga(world, 'fulfilment', 101, 'compensated');
    await leaveSaga(world, 'fulfilment', 102, 'stuck');
    await leaveSaga(world, 'invoicing', 1, 'running');
    const options = { databaseUrl: world.database.url, env: world.env };
    const failure = await failureOf(startService(options));
    expect(failure).toContain('exit code 1');
    expect(failure).toContain(
      'not known here: fulfilment version 99, fulfilment version 100, fulfilment version 102, ' +
        'invoicing version 1"',
    );
    await world.database.query(
      `update saga_work set state = 'completed' where definition_version > 1 or definition <> 'fulfilment'`,
    );
    await using _ = await startService(options);
  });

  test('a process without providers does not start while there is a live saga', async () => {
    await using world = await createSagaWorld();
    await leaveSaga(world, 'fulfilment', 1, 'running');
    const failure = await failureOf(startService({ databaseUrl: world.database.url }));
    expect(failure).toContain('fulfilment version 1"');
  });
});

async function failureOf(start: ReturnType<typeof startService>): Promise<string> {
  const outcome = await start.then(
    (service) => service,
    (error: unknown) => String(error),
  );
  if (typeof outcome === 'string') return outcome;
  await outcome[Symbol.asyncDispose]();
  return 'it started';
}
