import { v7 as uuidv7 } from 'uuid';
import { describe, expect, test } from 'vitest';
import type { FaultRuleInput } from '#dev/provider-simulator/simulator-client.ts';
import { CallNotMade } from '#src/sagas/saga-call.ts';
import { actionOf } from '#src/sagas/saga.ts';
import { skipReason } from '#test/support/infra.ts';
import { eventually } from '#test/support/poll.ts';
import { createSagaWorld } from '#test/support/saga/world.ts';
import type { SagaWorld } from '#test/support/saga/world.ts';
import { createService, ledgerOf, resting, stock } from './fulfilment-service.ts';
import type { Changes } from './fulfilment-service.ts';

const MONTH_MS = 30 * 24 * 3_600_000;
const noMoney = { captures: 0, capturedCents: 0, refundedCents: 0, parcels: 0 };
const paidBack = { captures: 1, capturedCents: 2500, refundedCents: 2500, parcels: 0 };
/** More often than the runs of a saga may fail before it is set aside. */
const FAILED_RUNS = 25;
const shippedOnce = { captures: 1, capturedCents: 2500, refundedCents: 0, parcels: 1 };

/** Fulfils one order of two books out of ten, with the faults given. */
async function fulfilOne(world: SagaWorld, faults: readonly FaultRuleInput[], options = {}) {
  await using service = createService(world, options);
  await service.start();
  await service.setOnHand('book', 10);
  for (const fault of faults) await world.simulator.addFault(fault);
  const orderId = await service.place();
  const state = await resting(service, orderId);
  return {
    orderId,
    state,
    order: await service.order(orderId),
    saga: await service.saga(orderId),
    events: await service.sagaEvents(orderId),
    ledger: await ledgerOf(world, orderId),
    stock: await stock(world),
  };
}

/** Until a payment is tried again whose provider asks for 50 minutes. */
async function minutesToWait(world: SagaWorld, deadlines: Readonly<{ captureMs: number }>) {
  await using service = createService(world, { deadlines });
  await service.start();
  await service.setOnHand('book', 10);
  const fault = { operation: 'capture', fault: 'too_many', retryAfterSeconds: 3_000 } as const;
  await world.simulator.addFault(fault);
  const orderId = await service.place();
  await eventually(async () => actionOf(await service.saga(orderId), 'capture').attempts === 1);
  const [row] = await world.database.query<{ minutes: number }>(
    'select extract(epoch from due_at - clock_timestamp())::float8 / 60 as minutes from saga_work',
  );
  return row!.minutes;
}

describe.skipIf(skipReason('postgres'))('the fulfilment of an order', () => {
  test('reserves, captures and ships', async () => {
    await using world = await createSagaWorld();
    const { state, order, ledger, events, ...after } = await fulfilOne(world, []);
    expect(state).toBe('completed');
    expect(order).toMatchObject({
      status: 'shipped',
      fulfilment: 'completed',
      capturedCents: 2500,
      trackingNumber: expect.stringMatching(/^SIM/),
      carrier: 'Simulated Post',
    });
    expect(ledger).toEqual(shippedOnce);
    expect(after.stock).toEqual({ book: [8, 0] });
    expect(events).toEqual([
      'SagaStarted',
      'StepDone reserve',
      'StepRequested capture',
      'StepDone capture',
      'StepRequested ship',
      'StepDone ship',
      'SagaCompleted',
    ]);
  });

  test('sends the events of the order to the outbox, in order', async () => {
    await using world = await createSagaWorld();
    const { orderId } = await fulfilOne(world, []);
    const rows = await world.database.query(
      'select event_type, stream_version from outbox_events where aggregate_id = $1 order by id',
      [orderId],
    );
    expect(rows).toEqual(
      [
        'OrderPlaced',
        'FulfilmentStarted',
        'PaymentCaptured',
        'ShipmentRequested',
        'OrderShipped',
      ].map((type, index) => ({ event_type: type, stream_version: index + 1 })),
    );
  });

  test('cancels the order if the stock is short, and charges nothing', async () => {
    await using world = await createSagaWorld();
    await using service = createService(world);
    await service.start();
    await service.setOnHand('book', 1);
    const orderId = await service.place();
    expect(await resting(service, orderId)).toBe('compensated');
    expect(await service.order(orderId)).toMatchObject({
      status: 'cancelled',
      reason: 'reserve refused: out of stock',
      refundAmountCents: 0,
      fulfilment: 'compensated',
    });
    expect(await ledgerOf(world, orderId)).toEqual(noMoney);
    expect(await stock(world)).toEqual({ book: [1, 0] });
  });

  test('cancels the order if the card is refused, and releases the stock', async () => {
    await using world = await createSagaWorld();
    const { order, ledger, ...after } = await fulfilOne(world, [
      { operation: 'capture', fault: 'refuse' },
    ]);
    expect(order).toMatchObject({ status: 'cancelled', refundAmountCents: 0 });
    expect(order.reason).toBe('capture refused: card_declined');
    expect(ledger).toEqual(noMoney);
    expect(after.stock).toEqual({ book: [10, 0] });
  });

  test('refunds the money if the carrier refuses, before the order is cancelled', async () => {
    await using world = await createSagaWorld();
    const { orderId, order, ledger, ...after } = await fulfilOne(world, [
      { operation: 'ship', fault: 'refuse' },
    ]);
    expect(order).toMatchObject({
      status: 'cancelled',
      refundAmountCents: 2500,
      capturedCents: 2500,
      refundedCents: 2500,
    });
    expect(ledger).toEqual(paidBack);
    expect(after.stock).toEqual({ book: [10, 0] });
    const rows = await world.database.query<{ type: string }>(
      'select type from events where stream_id = $1 order by version',
      [orderId],
    );
    expect(rows.map(({ type }) => type).slice(-2)).toEqual(['PaymentRefunded', 'OrderCancelled']);
  });

  test.each([
    'timeout_before',
    'timeout_after',
    'error_before',
    'error_after',
    'reset_before',
    'reset_after',
    'too_many',
    'unavailable',
    'overloaded_after',
    'garbage',
    'html',
    'empty',
    'cut_short',
    'other_key',
    'duplicate',
    'late',
  ] as const)('ships once and charges once whatever goes wrong on the way: %s', async (fault) => {
    await using world = await createSagaWorld();
    const operation = ['capture', 'ship', 'look_up_capture', 'look_up_shipment'] as const;
    const { state, ledger, ...after } = await fulfilOne(
      world,
      operation.map((operation) => ({ operation, fault, times: 1, lateMs: 100 })),
      { limits: { callTimeoutMs: 200 } },
    );
    expect({ state, ledger, stock: after.stock }).toEqual({
      state: 'completed',
      ledger: shippedOnce,
      stock: { book: [8, 0] },
    });
  });

  test.each(['other_amount', 'other_currency'] as const)(
    'refunds exactly what the provider took if that is not what was requested: %s',
    async (fault) => {
      await using world = await createSagaWorld();
      const { state, order, orderId, events } = await fulfilOne(world, [
        { operation: 'capture', fault },
      ]);
      expect(state).toBe('compensated');
      expect(order.status).toBe('cancelled');
      const [capture, refund] = (await world.simulator.ledger({ orderId })).filter(
        ({ effect }) => effect === 'capture' || effect === 'refund',
      );
      expect(refund).toMatchObject({
        effect: 'refund',
        amountCents: capture!.amountCents,
        currency: capture!.currency,
      });
      expect(events).toContain('StepGivenUp capture');
      const { capturedCents, refundedCents } = order;
      expect(capturedCents).toBe(refundedCents);
      expect(capturedCents).toBe(fault === 'other_currency' ? 0 : capture!.amountCents);
    },
  );

  test.each([
    ['ships', [], { status: 'shipped', fulfilment: 'completed' }],
    [
      'cancels',
      [{ operation: 'ship', fault: 'refuse' }],
      { status: 'cancelled', fulfilment: 'compensated', refundAmountCents: 0 },
    ],
  ] as const)(
    '%s an order that costs nothing without a call about money',
    async (_, faults, end) => {
      await using world = await createSagaWorld();
      const money = ['capture', 'cancel_capture', 'refund'] as const;
      await using service = createService(world);
      await service.start();
      await service.setOnHand('book', 10);
      for (const operation of money) await world.simulator.addFault({ operation, fault: 'refuse' });
      for (const fault of faults) await world.simulator.addFault(fault);
      const orderId = await service.place([{ sku: 'book', quantity: 2, priceCents: 0 }]);
      await resting(service, orderId);
      expect(await service.order(orderId)).toMatchObject({
        ...end,
        paymentId: `none-${orderId}`,
        capturedCents: 0,
        refundedCents: 0,
        owedCents: 0,
      });
      const calls = await world.simulator.calls({ orderId });
      expect(calls.map(({ operation }) => operation)).toEqual(['ship']);
      const told = await world.database.query<{ event_type: string }>(
        'select event_type from outbox_events where aggregate_id = $1 order by id',
        [orderId],
      );
      expect(told.map(({ event_type: type }) => type)).toEqual([
        'OrderPlaced',
        'FulfilmentStarted',
        'PaymentCaptured',
        'ShipmentRequested',
        end.status === 'shipped' ? 'OrderShipped' : 'OrderCancelled',
      ]);
    },
  );

  test('captures only what is left if payments were reported by hand before', async () => {
    await using world = await createSagaWorld();
    await using service = createService(world);
    await service.start();
    await service.setOnHand('book', 10);
    const orderId = await service.place(undefined, {});
    await service.handle(orderId, { type: 'PayOrder', paymentId: 'card', amountCents: 1000 });
    await service.handle(orderId, { type: 'FulfilOrder', sagaId: uuidv7() });
    expect(await resting(service, orderId)).toBe('completed');
    expect(await ledgerOf(world, orderId)).toMatchObject({ captures: 1, capturedCents: 1500 });
    const order = { status: 'shipped', capturedCents: 2500, owedCents: 0 };
    expect(await service.order(orderId)).toMatchObject(order);
  });

  test('captures nothing if everything was paid by hand before its request', async () => {
    await using world = await createSagaWorld();
    const orderId = uuidv7();
    await using other = createService(world);
    await using service = createService(world, {
      observe: async (point) => {
        if (point !== 'before commit start') return;
        await other.handle(orderId, { type: 'PayOrder', paymentId: 'hand', amountCents: 2500 });
      },
    });
    await service.start();
    await service.setOnHand('book', 10);
    await service.place(undefined, { orderId, sagaId: uuidv7() });
    expect(await resting(service, orderId)).toBe('completed');
    expect(await ledgerOf(world, orderId)).toMatchObject({ captures: 0, parcels: 1 });
    const order = { paymentId: 'hand', capturedCents: 2500, owedCents: 0 };
    expect(await service.order(orderId)).toMatchObject(order);
  });

  test.each([
    ['goes on', undefined, { status: 'shipped', refundedCents: 0 }],
    ['is cancelled', 'changed my mind', { status: 'cancelled', refundedCents: 2500 }],
  ] as const)(
    'leaves a payment by hand beside its own to be refunded by hand, if it %s',
    async (_, reason, end) => {
      await using world = await createSagaWorld();
      await using service = createService(world);
      await service.start();
      await service.setOnHand('book', 10);
      await world.simulator.addFault({ operation: 'capture', fault: 'hold' });
      const orderId = await service.place();
      await world.simulator.nextCall({ operation: 'capture', orderId });
      const pay = { type: 'PayOrder', paymentId: 'hand', amountCents: 2500 } as const;
      expect((await service.handle(orderId, pay)).status).toBe(200);
      const refund = {
        type: 'RefundOrder',
        refundId: 'back',
        amountCents: 2500,
        sagaId: 'refund-1',
      } as const;
      const early = service.handle(orderId, refund);
      await expect(early).rejects.toMatchObject({ code: 'fulfilment_running' });
      if (reason) await service.handle(orderId, { type: 'CancelOrder', reason });
      await world.simulator.release({ orderId });
      await resting(service, orderId);
      const ended = { ...end, capturedCents: 5000, owedCents: 2500 };
      expect(await service.order(orderId)).toMatchObject(ended);
      const byHand = { ...refund, paymentId: 'hand' };
      expect((await service.handle(orderId, byHand)).status).toBe(200);
      expect(await service.order(orderId)).toMatchObject({
        status: end.status,
        refundedCents: end.refundedCents + 2500,
        owedCents: 0,
      });
    },
  );

  test('asks the provider for the refund of a payment that somebody reported before it knew of it', async () => {
    await using world = await createSagaWorld();
    const reported = Promise.withResolvers<void>();
    await using service = createService(world, {
      observe: (point) => (point === 'after send capture' ? reported.promise : undefined),
    });
    await service.start();
    await service.setOnHand('book', 10);
    const orderId = await service.place();
    await world.simulator.nextCall({ operation: 'capture', orderId });
    const paymentId = await eventually(async () => {
      const [capture] = await world.simulator.ledger({ orderId });
      return capture?.paymentId ?? false;
    });
    const pay = { type: 'PayOrder', paymentId: String(paymentId), amountCents: 2500 } as const;
    expect((await service.handle(orderId, pay)).status).toBe(200);
    reported.resolve();
    expect(await resting(service, orderId)).toBe('completed');
    const payments = [{ paymentId, amountCents: 2500, source: 'fulfilment' }];
    expect(await service.order(orderId)).toMatchObject({ capturedCents: 2500, payments });
    const refund = { refundId: 'back', amountCents: 1000, sagaId: uuidv7() };
    const asked = await service.handle(orderId, { type: 'RefundOrder', ...refund });
    expect(asked.status).toBe(202);
    await eventually(async () => (await service.order(orderId)).refundedCents === 1000);
    expect(await ledgerOf(world, orderId)).toMatchObject({ captures: 1, refundedCents: 1000 });
  });

  test('finds a payment that took effect after it gave up, and refunds it', async () => {
    await using world = await createSagaWorld();
    const { simulator } = world;
    const landed = Promise.withResolvers<void>();
    await using service = createService(world, {
      deadlines: { captureMs: 1 },
      observe: (point) => (point === 'after cancel cancel_capture' ? landed.promise : undefined),
    });
    await service.start();
    await service.setOnHand('book', 10);
    await simulator.addFault({ operation: 'capture', fault: 'late_error' });
    await simulator.addFault({ operation: 'cancel_capture', fault: 'unavailable', times: 1 });
    const orderId = await service.place();
    await simulator.nextCall({ operation: 'cancel_capture', orderId });
    expect(await simulator.release({ orderId })).toBe(1);
    landed.resolve();
    expect(await resting(service, orderId)).toBe('compensated');
    expect(await ledgerOf(world, orderId)).toEqual(paidBack);
    const order = { status: 'cancelled', capturedCents: 2500, refundedCents: 2500 };
    expect(await service.order(orderId)).toMatchObject(order);
  });

  test('has a payment refused that comes after its key was cancelled', async () => {
    await using world = await createSagaWorld();
    const { simulator } = world;
    await using service = createService(world, { deadlines: { captureMs: 1 } });
    await service.start();
    await service.setOnHand('book', 10);
    await simulator.addFault({ operation: 'capture', fault: 'late_error' });
    const orderId = await service.place();
    expect(await resting(service, orderId)).toBe('compensated');
    expect(await simulator.release({ orderId })).toBe(1);
    expect(await ledgerOf(world, orderId)).toEqual(noMoney);
  });

  test('never sends a key again that is too old, and shows why', async () => {
    await using world = await createSagaWorld();
    let now = Date.parse('2026-01-01T00:00:00.000Z');
    await using service = createService(world, {
      databaseNow: () => new Date(now),
      deadlines: { shipMs: 48 * 3_600_000 },
    });
    await service.start();
    await service.setOnHand('book', 10);
    await world.simulator.addFault({ operation: 'ship', fault: 'error_before' });
    const orderId = await service.place();
    await eventually(async () => actionOf(await service.saga(orderId), 'ship').attempts > 0);
    now += 21 * 3_600_000;
    expect(await resting(service, orderId)).toBe('stuck');
    const { actions } = await service.saga(orderId);
    expect(actions['ship']!.reason).toBe('not there, and the key is too old to be sent again');
    const sent = await world.simulator.calls({ operation: 'ship', orderId });
    expect(sent).toHaveLength(actions['ship']!.attempts - 1);
  });

  test('is stuck with a refund whose key is too old, also after a retry', async () => {
    await using world = await createSagaWorld();
    let now = Date.parse('2026-01-01T00:00:00.000Z');
    await using service = createService(world, { databaseNow: () => new Date(now) });
    await service.start();
    await service.setOnHand('book', 10);
    await world.simulator.addFault({ operation: 'ship', fault: 'refuse', times: 1 });
    await world.simulator.addFault({ operation: 'refund', fault: 'error_before' });
    const orderId = await service.place();
    await eventually(async () => actionOf(await service.saga(orderId), 'refund').attempts > 0);
    now += 21 * 3_600_000;
    expect(await resting(service, orderId)).toBe('stuck');
    await service.retry(orderId);
    expect(await resting(service, orderId)).toBe('stuck');
    expect(await ledgerOf(world, orderId)).toMatchObject({ refundedCents: 0 });
  });

  describe('of an order that a replica with its clock a month ahead has written to', () => {
    const ahead = { now: () => new Date(Date.now() + MONTH_MS) };
    /** Its payment never succeeds, and who fulfils it has a right clock. */
    const fulfilled = async (world: SagaWorld, changes: Changes) => {
      await using service = createService(world, changes);
      await service.start();
      await service.setOnHand('book', 10);
      await world.simulator.addFault({ operation: 'capture', fault: 'error_before' });
      const orderId = uuidv7();
      {
        await using fast = createService(world, ahead);
        await fast.place(undefined, { orderId });
      }
      await service.handle(orderId, { type: 'FulfilOrder', sagaId: uuidv7() });
      const state = await resting(service, orderId);
      const saga = await service.saga(orderId);
      expect(Date.parse(saga.startedAt)).toBeGreaterThan(Date.now() + MONTH_MS / 2);
      return { state, capture: actionOf(saga, 'capture'), saga };
    };

    test('gives up its payment at the deadline', async () => {
      await using world = await createSagaWorld();
      const { state, capture } = await fulfilled(world, { deadlines: { captureMs: 1 } });
      expect(state).toBe('compensated');
      expect(capture.state).toBe('cancelled');
    });

    test('does not send a key again that is too old', async () => {
      await using world = await createSagaWorld();
      const { state, capture } = await fulfilled(world, { limits: { resendMsMax: 1 } });
      expect(state).toBe('stuck');
      expect(capture.reason).toBe('not there, and the key is too old to be sent again');
    });

    test('is not given up early if that replica takes it over', async () => {
      await using world = await createSagaWorld();
      await using fast = createService(world, ahead);
      const right = createService(world, { limits: { stopMsMax: 10 } });
      await right.setOnHand('book', 10);
      await world.simulator.addFault({ operation: 'capture', fault: 'hold', times: 1 });
      const orderId = await right.place();
      await world.simulator.nextCall({ operation: 'capture', orderId });
      await right[Symbol.asyncDispose]();
      await endLeases(world);
      await fast.start();
      expect(await resting(fast, orderId)).toBe('completed');
      expect(await ledgerOf(world, orderId)).toEqual(shippedOnce);
    });
  });

  test('waits if there is no place for a call, and counts no attempt', async () => {
    await using world = await createSagaWorld();
    const tries = { made: 0 };
    await using service = createService(world, {
      deadlines: { captureMs: 1 },
      payments: (payments) => ({
        ...payments,
        capture: async (request, signal) => {
          tries.made += 1;
          if (tries.made <= FAILED_RUNS) throw new CallNotMade();
          return payments.capture(request, signal);
        },
      }),
    });
    await service.start();
    await service.setOnHand('book', 10);
    const orderId = await service.place();
    expect(await resting(service, orderId)).toBe('completed');
    expect(tries.made).toBe(FAILED_RUNS + 1);
    expect(actionOf(await service.saga(orderId), 'capture').attempts).toBe(1);
  });

  test('does not wait for an operator because the outcome of its commits is unknown', async () => {
    await using world = await createSagaWorld();
    const { query } = world.database;
    await query(
      `create sequence unheard;
       create function cut() returns trigger security definer language plpgsql as $$
       begin
         if new.type = 'OrderShipped' then
           perform nextval('unheard'), pg_terminate_backend(pg_backend_pid());
         end if;
         return new;
       end $$;
       create trigger cut before insert on events for each row execute function cut();`,
    );
    await using service = createService(world);
    await service.start();
    await service.setOnHand('book', 10);
    const orderId = await service.place();
    const queueRow = async () => {
      const [row] = await query<{ unheard: number; state: string; failures: number }>(
        'select last_value as unheard, state, failures from unheard, saga_work',
      );
      return row!;
    };
    await eventually(async () => {
      const { unheard, state } = await queueRow();
      return unheard > FAILED_RUNS || state === 'stuck';
    });
    expect(await queueRow()).toMatchObject({ state: 'running', failures: 0 });
    await query('drop trigger cut on events');
    expect(await resting(service, orderId)).toBe('completed');
    expect(await ledgerOf(world, orderId)).toEqual(shippedOnce);
  });

  test('makes no call in a process that lost its lease before the call', async () => {
    await using world = await createSagaWorld();
    const held = Promise.withResolvers<void>();
    await using service = createService(world, {
      limits: { callTimeoutMs: 60_000, leaseMarginMs: 0 },
      observe: (point) => (point === 'after commit start' ? held.promise : undefined),
    });
    await service.setOnHand('book', 10);
    const orderId = await service.place();
    await world.database.query(
      'update saga_work set epoch = epoch + 1, owner = gen_random_uuid() where subject_id = $1',
      [orderId],
    );
    held.resolve();
    expect(await resting(service, await service.place())).toBe('completed');
    expect(await world.simulator.calls({ operation: 'capture', orderId })).toEqual([]);
  });

  test('waits as long as a provider asks it to', async () => {
    await using world = await createSagaWorld();
    expect(await minutesToWait(world, { captureMs: 3_600_000 })).toBeGreaterThan(45);
  });

  test('waits no longer than until its deadline', async () => {
    await using world = await createSagaWorld();
    expect(await minutesToWait(world, { captureMs: 600_000 })).toBeLessThanOrEqual(10);
  });
});

describe.skipIf(skipReason('postgres'))('an order that is cancelled while it is fulfilled', () => {
  test('does not wait for the next attempt of a step', async () => {
    await using world = await createSagaWorld();
    await using service = createService(world, {
      limits: { retry: { baseMs: 3_600_000, maxMs: 3_600_000 } },
    });
    await service.start();
    await service.setOnHand('book', 10);
    await world.simulator.addFault({ operation: 'capture', fault: 'error_before' });
    const orderId = await service.place();
    await eventually(async () => actionOf(await service.saga(orderId), 'capture').attempts === 1);
    const response = await service.handle(orderId, { type: 'CancelOrder', reason: 'too slow' });
    expect(response.status).toBe(202);
    expect(await resting(service, orderId)).toBe('compensated');
    expect(await service.order(orderId)).toMatchObject({ status: 'cancelled', reason: 'too slow' });
    expect(await ledgerOf(world, orderId)).toEqual(noMoney);
    expect(await stock(world)).toEqual({ book: [10, 0] });
  });

  test('is not overlooked by an attempt that fails at the same moment', async () => {
    await using world = await createSagaWorld();
    await using other = createService(world);
    const orderId = uuidv7();
    let cancel: (() => Promise<unknown>) | undefined;
    await using service = createService(world, {
      limits: { retry: { baseMs: 3_600_000, maxMs: 3_600_000 } },
      observe: (point) => {
        if (point !== 'after send capture') return;
        cancel = () => other.handle(orderId, { type: 'CancelOrder', reason: 'changed my mind' });
      },
      beforeWrite: async () => {
        const now = cancel;
        cancel = undefined;
        await now?.();
      },
    });
    await service.start();
    await service.setOnHand('book', 10);
    await world.simulator.addFault({ operation: 'capture', fault: 'error_before' });
    await service.place(undefined, { orderId, sagaId: uuidv7() });
    expect(await resting(service, orderId)).toBe('compensated');
    expect(await ledgerOf(world, orderId)).toEqual(noMoney);
  });

  test('is refunded if its payment was under way', async () => {
    await using world = await createSagaWorld();
    await using service = createService(world);
    await service.start();
    await service.setOnHand('book', 10);
    await world.simulator.addFault({ operation: 'capture', fault: 'hold' });
    const orderId = await service.place();
    await world.simulator.nextCall({ operation: 'capture', orderId });
    await service.handle(orderId, { type: 'CancelOrder', reason: 'changed my mind' });
    await world.simulator.release({ orderId });
    expect(await resting(service, orderId)).toBe('compensated');
    expect(await ledgerOf(world, orderId)).toEqual(paidBack);
    expect(await stock(world)).toEqual({ book: [10, 0] });
  });

  test('cannot be cancelled once the shipment is requested', async () => {
    await using world = await createSagaWorld();
    await using service = createService(world);
    await service.start();
    await service.setOnHand('book', 10);
    await world.simulator.addFault({ operation: 'ship', fault: 'hold' });
    const orderId = await service.place();
    await world.simulator.nextCall({ operation: 'ship', orderId });
    const cancel = service.handle(orderId, { type: 'CancelOrder', reason: 'changed my mind' });
    await expect(cancel).rejects.toMatchObject({ code: 'shipment_requested' });
    await world.simulator.release({ orderId });
    expect(await resting(service, orderId)).toBe('completed');
  });
});

describe.skipIf(skipReason('postgres'))('several services on one database', () => {
  test('sell no more than there is', async () => {
    await using world = await createSagaWorld();
    await using first = createService(world);
    await using second = createService(world);
    await using third = createService(world);
    const services = [first, second, third];
    for (const service of services) await service.start();
    await first.setOnHand('book', 50);
    const one = [{ sku: 'book', quantity: 1, priceCents: 1250 }];
    const orderIds = await Promise.all(
      Array.from({ length: 200 }, (_, index) => services[index % 3]!.place(one)),
    );
    expect(orderIds).toHaveLength(200);
    await eventually(async () => {
      const states = await world.database.query(
        'select state, count(*) from saga_work group by state order by state',
      );
      expect(states).toEqual([
        { state: 'compensated', count: 150 },
        { state: 'completed', count: 50 },
      ]);
    });
    expect(await stock(world)).toEqual({ book: [0, 0] });
    const parcels = (await world.simulator.ledger()).filter(({ effect }) => effect === 'shipment');
    expect(parcels).toHaveLength(50);
  });

  test('leave a saga to the one that works on it, however long its call takes', async () => {
    await using world = await createSagaWorld();
    await using first = createService(world);
    await using second = createService(world);
    await first.start();
    await second.start();
    await first.setOnHand('book', 10);
    await world.simulator.addFault({ operation: 'capture', fault: 'hold' });
    const orderId = await first.place();
    await world.simulator.nextCall({ operation: 'capture', orderId });
    await first.handle(orderId, { type: 'CancelOrder', reason: 'changed my mind' });
    const other = await second.place();
    await world.simulator.nextCall({ operation: 'capture', orderId: other });
    await world.simulator.release({ orderId });
    expect(await resting(first, orderId)).toBe('compensated');
    await world.simulator.release();
    expect(await resting(second, other)).toBe('completed');
    const [row] = await world.database.query('select epoch from saga_work where subject_id = $1', [
      orderId,
    ]);
    expect(row).toEqual({ epoch: 2 }); // the first one's, and the end of it
  });

  test('leave a saga to others while they are paused, and take it up afterwards', async () => {
    await using world = await createSagaWorld();
    const writing = { asked: 0, allowed: false };
    await using paused = createService(world, {
      isPaused: () => {
        writing.asked += 1;
        return !writing.allowed;
      },
    });
    await using other = createService(world, { limits: { concurrency: 0 } });
    await other.setOnHand('book', 10);
    const orderId = await other.place();
    await paused.start();
    await eventually(() => writing.asked > 2);
    const row = await world.database.query('select owner, epoch from saga_work');
    expect(row).toEqual([{ owner: null, epoch: 1 }]);
    writing.allowed = true;
    expect(await resting(paused, orderId)).toBe('completed');
  });

  test('hand a saga over when one is stopped in the middle of a call', async () => {
    await using world = await createSagaWorld();
    await using second = createService(world);
    const first = createService(world);
    await first.setOnHand('book', 10);
    await world.simulator.addFault({ operation: 'capture', fault: 'hold' });
    const orderId = await first.place();
    await world.simulator.nextCall({ operation: 'capture', orderId });
    const stopped = first[Symbol.asyncDispose]();
    await world.simulator.release({ orderId });
    await stopped;
    expect((await second.saga(orderId)).actions['capture']!.state).toBe('done');
    expect(await world.simulator.calls({ operation: 'ship', orderId })).toEqual([]);
    await second.start();
    expect(await resting(second, orderId)).toBe('completed');
    expect(await ledgerOf(world, orderId)).toEqual(shippedOnce);
  });

  test('keep the lease of a saga whose call does not end when they are stopped', async () => {
    await using world = await createSagaWorld();
    await using second = createService(world);
    const first = createService(world, { limits: { stopMsMax: 10 } });
    await first.setOnHand('book', 10);
    await world.simulator.addFault({ operation: 'capture', fault: 'hold', times: 1 });
    const orderId = await first.place();
    await world.simulator.nextCall({ operation: 'capture', orderId });
    await first[Symbol.asyncDispose]();
    expect((await second.saga(orderId)).actions['capture']!).toMatchObject({
      state: 'requested',
      attempts: 0,
    });
    await endLeases(world);
    await second.start();
    expect(await resting(second, orderId)).toBe('completed');
    expect(await ledgerOf(world, orderId)).toEqual(shippedOnce);
  });
});

/** What time would do. */
async function endLeases({ database }: SagaWorld): Promise<void> {
  await database.query(
    `update saga_work set lease_until = clock_timestamp(), due_at = clock_timestamp()
     where lease_until is not null`,
  );
}
