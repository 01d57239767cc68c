import { v7 as uuidv7 } from 'uuid';
import { describe, expect, test } from 'vitest';
import type { OrderCommand } from '#src/orders/domain/order-commands.ts';
import { skipReason } from '#test/support/infra.ts';
import { eventually } from '#test/support/poll.ts';
import { createSagaWorld } from '#test/support/saga/world.ts';
import type { SagaWorld } from '#test/support/saga/world.ts';
import { createService, ledgerOf, resting } from './fulfilment-service.ts';
import type { Service } from './fulfilment-service.ts';

const refund = (
  refundId: string,
  amountCents: number,
  more: Readonly<{ recordOnly?: true; paymentId?: string }> = {},
): OrderCommand => ({ type: 'RefundOrder', refundId, amountCents, sagaId: uuidv7(), ...more });

/** An order of 2500 that the saga has captured and shipped. */
async function shippedOrder(service: Service) {
  await service.setOnHand('book', 100);
  const orderId = await service.place();
  expect(await resting(service, orderId)).toBe('completed');
  return orderId;
}

/** Waits until no refund of the order is under way; its refunds, by id: state and amount. */
const refundsOf = (service: Service, orderId: string) =>
  eventually(async () => {
    const { refunds } = await service.order(orderId);
    if (refunds.some(({ state }) => state === 'requested')) return false;
    return Object.fromEntries(
      refunds.map(({ refundId, state, amountCents }) => [refundId, `${state} ${amountCents}`]),
    );
  });

async function started(world: SagaWorld, changes?: Parameters<typeof createService>[1]) {
  const service = createService(world, changes);
  await service.start();
  return service;
}

describe.skipIf(skipReason('postgres'))('a refund of what a fulfilment captured', () => {
  test('is asked of the provider once the order has shipped, and recorded once it is made', async () => {
    await using world = await createSagaWorld();
    await using service = await started(world);
    const orderId = await shippedOrder(service);
    const response = await service.handle(orderId, refund('ref-1', 1000));
    expect(response.status).toBe(202);
    expect(await refundsOf(service, orderId)).toEqual({ 'ref-1': 'refunded 1000' });
    expect(await ledgerOf(world, orderId)).toMatchObject({
      capturedCents: 2500,
      refundedCents: 1000,
    });
    expect(await service.order(orderId)).toMatchObject({
      status: 'shipped',
      refundedCents: 1000,
      owedCents: 0,
      allowanceCents: 1000,
    });
  });

  test('fails if the provider refuses it, and the amount can be refunded again', async () => {
    await using world = await createSagaWorld();
    await using service = await started(world);
    const orderId = await shippedOrder(service);
    await world.simulator.addFault({ operation: 'refund', orderId, fault: 'refuse', times: 1 });
    await service.handle(orderId, refund('ref-1', 2500));
    expect(await refundsOf(service, orderId)).toEqual({ 'ref-1': 'failed 2500' });
    await service.handle(orderId, refund('ref-2', 2500));
    expect(await refundsOf(service, orderId)).toEqual({
      'ref-1': 'failed 2500',
      'ref-2': 'refunded 2500',
    });
    expect((await ledgerOf(world, orderId)).refundedCents).toBe(2500);
  });

  test('cannot exceed what was captured, however many are asked for at once', async () => {
    await using world = await createSagaWorld();
    await using service = await started(world);
    const orderId = await shippedOrder(service);
    const asked = Array.from({ length: 12 }, (_, index) =>
      service.handle(orderId, refund(`ref-${index}`, 600)).then(
        ({ status }) => status,
        ({ code }: { code: string }) => code,
      ),
    );
    const responses = Map.groupBy(await Promise.all(asked), (response) => response);
    expect(responses.get(202)).toHaveLength(4);
    expect(responses.get(202)!.length + responses.get('refund_exceeds_captured')!.length).toBe(12);
    await refundsOf(service, orderId);
    expect(await ledgerOf(world, orderId)).toMatchObject({ refundedCents: 2400 });
    expect(await service.order(orderId)).toMatchObject({ refundedCents: 2400 });
  });

  test('goes on while the order is returned, delivered, erased and refunded elsewhere', async () => {
    await using world = await createSagaWorld();
    await using service = await started(world);
    const orderId = await shippedOrder(service);
    const { trackingNumber } = await service.order(orderId);
    await world.simulator.addFault({
      operation: 'refund',
      orderId,
      fault: 'reset_after',
      times: 2,
    });
    await Promise.all([
      service.handle(orderId, refund('ref-1', 1000)),
      service.handle(orderId, refund('ref-2', 700)),
      service.handle(orderId, { type: 'DeliverParcel', trackingNumber: trackingNumber! }),
      service.handle(orderId, {
        type: 'ReturnItems',
        returnId: 'ret-1',
        items: [{ lineId: '1', quantity: 1 }],
        reason: 'too small',
        restock: true,
      }),
      service.handle(orderId, refund('ref-3', 500, { recordOnly: true })),
      service.handle(orderId, { type: 'ErasePersonalData' }),
    ]);
    expect(await refundsOf(service, orderId)).toEqual({
      'ref-1': 'refunded 1000',
      'ref-2': 'refunded 700',
      'ref-3': 'refunded 500',
    });
    expect((await ledgerOf(world, orderId)).refundedCents).toBe(1700);
    expect(await service.order(orderId)).toMatchObject({ refundedCents: 2200 });
  });

  test('is not started without providers; one that was made elsewhere is recorded', async () => {
    await using world = await createSagaWorld();
    await using service = await started(world);
    const orderId = await shippedOrder(service);
    await using without = createService(world, { providers: undefined });
    await expect(without.handle(orderId, refund('ref-1', 1000))).rejects.toMatchObject({
      code: 'fulfilment_off',
    });
    await without.handle(orderId, refund('ref-1', 1000, { recordOnly: true }));
    expect(await refundsOf(service, orderId)).toEqual({ 'ref-1': 'refunded 1000' });
    expect((await ledgerOf(world, orderId)).refundedCents).toBe(0);
  });
});

describe.skipIf(skipReason('postgres'))('the personal data of an order', () => {
  test('is read for the calls, and is in no event of the saga', async () => {
    await using world = await createSagaWorld();
    await using service = await started(world);
    const orderId = await shippedOrder(service);
    const stored = await world.database.query('select data from events');
    expect(JSON.stringify(stored)).not.toContain('Sample Street');
    expect(JSON.stringify(stored)).not.toContain('pm_card_ok');
    expect(await service.sagaEvents(orderId)).toContain('StepDone ship');
  });

  test('that cannot be read is no attempt, and the call is made once it can', async () => {
    await using world = await createSagaWorld();
    let failures = 3;
    await using real = createService(world);
    await using service = await started(world, {
      readPersonalData: async (orderId) => {
        failures -= 1;
        if (failures >= 0) throw Object.assign(new Error('gone'), { code: 'ECONNREFUSED' });
        return real.readPersonalData(orderId);
      },
    });
    const orderId = await shippedOrder(service);
    const { actions } = await service.saga(orderId);
    expect([actions['capture']?.attempts, actions['ship']?.attempts]).toEqual([1, 1]);
    expect(failures).toBeLessThan(0);
  });

  test('that is not there any more stops the saga before the call, for an operator', async () => {
    await using world = await createSagaWorld();
    await using service = await started(world, { readPersonalData: async () => ({}) });
    await service.setOnHand('book', 100);
    const orderId = await service.place();
    await eventually(async () => {
      const [row] = await world.database.query<{ state: string; reason: string }>(
        'select state, reason from saga_work',
      );
      return row?.state === 'stuck' && row.reason.includes('PersonalDataMissing');
    });
    expect(await ledgerOf(world, orderId)).toMatchObject({ captures: 0, parcels: 0 });
  });
});
