import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Operation } from '#dev/provider-simulator/contract.ts';
import { skipReason } from '#test/support/infra.ts';
import { eventually } from '#test/support/poll.ts';
import { createSagaWorld, startReplica } from '#test/support/saga/world.ts';
import type { SagaWorld } from '#test/support/saga/world.ts';

const settingsOf = (payment: 1 | 2, shipping: 1 | 2) => ({
  PAYMENT_CONTRACT: String(payment),
  SHIPPING_CONTRACT: String(shipping),
  PROVIDER_TIMEOUT_MS: '30000',
});

describe.skipIf(skipReason('postgres'))('the version of the provider contract', () => {
  let world: SagaWorld;
  beforeAll(async () => {
    world = await createSagaWorld();
    await world.setStock('book', 100);
  });
  afterAll(() => world[Symbol.asyncDispose]());

  /** Waits until the fulfilment has ended; the version of its last call of each operation. */
  const versionsOf = async (orderId: string, of: Awaited<ReturnType<typeof startReplica>>) => {
    await eventually(async () => (await of.api.fulfilment(orderId)).state === 'completed');
    const calls = await world.simulator.calls({ orderId });
    return Object.fromEntries(calls.map(({ operation, contract }) => [operation, contract]));
  };

  test.each([
    { env: {}, versions: { capture: 2, ship: 2 } },
    { env: settingsOf(1, 2), versions: { capture: 1, ship: 2 } },
    { env: settingsOf(2, 1), versions: { capture: 2, ship: 1 } },
    { env: settingsOf(1, 1), versions: { capture: 1, ship: 1 } },
  ])('is that of its setting: $versions', async ({ env, versions }) => {
    await using replica = await startReplica(world, { env });
    const orderId = await replica.api.placed();
    expect(await versionsOf(orderId, replica)).toEqual(versions);
  });

  test.each([
    { from: 1, to: 2, operation: 'capture', lookUp: 'look_up_capture' },
    { from: 2, to: 1, operation: 'capture', lookUp: 'look_up_capture' },
    { from: 1, to: 2, operation: 'ship', lookUp: 'look_up_shipment' },
    { from: 2, to: 1, operation: 'ship', lookUp: 'look_up_shipment' },
  ] as const)('can change from $from to $to in the middle of $operation', async (change) => {
    const { from, to, operation, lookUp } = change;
    const { simulator } = world;
    await using before = await startReplica(world, { env: settingsOf(from, from) });
    await simulator.addFault({ operation, fault: 'reset_after', times: 1 });
    await simulator.addFault({ operation: lookUp, fault: 'reset_before' });
    const orderId = await before.api.placed();
    await simulator.nextCall({ operation: lookUp, orderId });
    await before.stop();
    await simulator.clearFaults();

    await using after = await startReplica(world, { env: settingsOf(to, to) });
    expect(await versionsOf(orderId, after)).toMatchObject({ [operation]: from, [lookUp]: to });
    const entries = await simulator.ledger({ orderId });
    expect(entries.map(({ effect }) => effect)).toEqual(['capture', 'shipment']);
    const effect = (acted: Operation) => entries.find((entry) => entry.operation === acted);
    expect(effect(operation)?.contract).toBe(from);
    expect(await after.api.order(orderId)).toMatchObject({
      status: 'shipped',
      trackingNumber: effect('ship')?.parcels?.[0]?.trackingNumber,
    });
  });
});
