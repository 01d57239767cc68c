import { randomUUID } from 'node:crypto';
import { v7 as uuidv7 } from 'uuid';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { z } from 'zod';
import type { FaultName } from '#dev/provider-simulator/faults.ts';
import type { Operation } from '#dev/provider-simulator/contract.ts';
import type { FaultRuleInput } from '#dev/provider-simulator/simulator-client.ts';
import { skipReason } from '#test/support/infra.ts';
import { eventually } from '#test/support/poll.ts';
import { orderIn, refusalOf } from '#test/support/saga/api.ts';
import type { SagaApi } from '#test/support/saga/api.ts';
import { fastClock } from '#test/support/saga/points.ts';
import { BY_HAND } from '#test/support/order-fold.ts';
import { verifySagas } from '#test/support/saga/verify-sagas.ts';
import { createSagaWorld, startReplica, untilAtRest } from '#test/support/saga/world.ts';
import type { SagaWorld } from '#test/support/saga/world.ts';

const STOCK = { book: 10_000 };
const errorsShape = z.looseObject({ errors: z.array(z.looseObject({ pointer: z.string() })) });
const stockShape = z.looseObject({ onHand: z.int(), reserved: z.int(), available: z.int() });

/** Where every call gets a response, or held for as long as a test wants it. */
const longTimeouts = { env: { PROVIDER_TIMEOUT_MS: '30000' } };

/** A world and one replica, for all tests of a describe; `judged` orders are checked by their test alone. */
function useStage(seams: Parameters<typeof startReplica>[1] = {}) {
  const stack = new AsyncDisposableStack();
  const judged = new Set<string>();
  let world: SagaWorld;
  let api: SagaApi;
  beforeAll(async () => {
    world = stack.use(await createSagaWorld());
    for (const [sku, onHand] of Object.entries(STOCK)) await world.setStock(sku, onHand);
    ({ api } = stack.use(await startReplica(world, seams)));
  });
  afterAll(() => stack.disposeAsync());

  /** The money at the provider, taken and given back, and parcels. */
  const reality = async (orderId: string) => {
    const entries = await world.simulator.ledger({ orderId });
    const of = (wanted: string) => entries.filter(({ effect }) => effect === wanted);
    const money = (wanted: string) => of(wanted).map((e) => `${e.amountCents} ${e.currency}`);
    return { taken: money('capture'), back: money('refund'), parcels: of('shipment').length };
  };
  return {
    world: () => world,
    api: () => api,
    judged,
    reality,
    /** An order whose saga meets these faults. */
    begin: async (...faults: FaultRuleInput[]) => {
      const orderId = await api.placed(undefined, 'manual');
      for (const fault of faults) await world.simulator.addFault({ ...fault, orderId });
      expect((await api.command('fulfil', orderId)).status).toBe(202);
      return orderId;
    },
    /** The state that its saga comes to rest in. */
    resting: (orderId: string) =>
      eventually(async () => {
        const { state } = await api.fulfilment(orderId);
        return state !== 'running' && state !== 'compensating' && state;
      }),
    /** Waits until a step was tried in vain, more than once; how it stands then. */
    unsettled: (orderId: string, name: string) =>
      eventually(async () => {
        const { steps } = await api.fulfilment(orderId);
        const found = steps.find(({ step }) => step === name);
        return found !== undefined && found.attempts > 1 && found;
      }),
    /** Whatever the tests did, all that they do not judge themselves is as promised. */
    violations: async () => {
      await untilAtRest(world, 0);
      const wrong = await verifySagas(world, { stock: STOCK });
      return wrong.filter((what) => !judged.has(what.slice(0, 36)));
    },
  };
}

const SHIPPED = { taken: ['2500 EUR'], back: [], parcels: 1 };
const UNDONE = { taken: ['2500 EUR'], back: ['2500 EUR'], parcels: 0 };
const UNTOUCHED = { taken: [], back: [], parcels: 0 };

/** Which fields a response finds fault with. */
const pointersOf = (text: string) => [
  ...new Set(errorsShape.parse(JSON.parse(text)).errors.map(({ pointer }) => pointer)),
];

describe.skipIf(skipReason('postgres'))('G7 for bad input from callers', () => {
  const { world, api, judged, reality, begin, resting, violations } = useStage(longTimeouts);

  test('a sku that nobody knows is short: the order is cancelled, and nothing charged', async () => {
    const response = await api().request('GET', '/v1/stock/unheard-of');
    expect(refusalOf(response)).toBe('404 stock_not_found');
    const items = [
      { sku: 'book', quantity: 1, priceCents: 1250 },
      { sku: 'unheard-of', quantity: 1, priceCents: 1 },
    ];
    const orderId = await api().placed(items);
    expect(await resting(orderId)).toBe('compensated');
    expect(await api().order(orderId)).toMatchObject({
      status: 'cancelled',
      reason: 'reserve refused: out of stock',
      capturedCents: 0,
    });
    expect(await reality(orderId)).toEqual(UNTOUCHED);
  });

  test.each([
    [{ onHand: -1 }, '/onHand'],
    [{ onHand: 0.5 }, '/onHand'],
    [{ onHand: '5' }, '/onHand'],
    [{ onHand: null }, '/onHand'],
    [{ onHand: 1e300 }, '/onHand'],
    [{}, '/onHand'],
    [{ onHand: 1, reserved: 0 }, '/reserved'],
  ])('stock cannot be set to %j', async (body, pointer) => {
    const response = await api().request('PUT', '/v1/stock/never-set', { body });
    expect(response.status).toBe(400);
    expect(pointersOf(response.text)).toEqual([pointer]);
    expect((await api().request('GET', '/v1/stock/never-set')).status).toBe(404);
  });

  test('stock cannot fall below what is reserved, whoever sets it', async () => {
    const items = [{ sku: 'lamp', quantity: 3, priceCents: 500 }];
    await api().request('PUT', '/v1/stock/lamp', { body: { onHand: 5 } });
    const orderId = await api().placed(items, 'manual');
    await world().simulator.addFault({ operation: 'capture', fault: 'hold', orderId, times: 1 });
    await api().command('fulfil', orderId);
    await world().simulator.nextCall({ operation: 'capture', orderId });
    const lower = await api().request('PUT', '/v1/stock/lamp', { body: { onHand: 2 } });
    expect(refusalOf(lower)).toBe('409 stock_reserved');
    const level = await api().request('PUT', '/v1/stock/lamp', { body: { onHand: 3 } });
    expect(stockShape.parse(JSON.parse(level.text))).toMatchObject({ reserved: 3, available: 0 });
    await world().simulator.release({ orderId });
    expect(await resting(orderId)).toBe('completed');
    const after = stockShape.parse(JSON.parse((await api().request('GET', '/v1/stock/lamp')).text));
    expect(after).toMatchObject({ onHand: 0, reserved: 0, available: 0 });
  });

  test('fulfil is refused once an order is paid, shipped or cancelled by hand', async () => {
    const refused = async (orderId: string) => {
      const before = await api().order(orderId);
      const refusal = refusalOf(await api().command('fulfil', orderId));
      expect(await api().order(orderId)).toEqual(before);
      judged.add(orderId);
      return refusal;
    };
    const handled = await api().placed(undefined, 'manual');
    await api().command('pay', handled, { paymentId: 'p-1', amountCents: 2500 });
    expect(await refused(handled)).toBe('409 order_already_paid');
    await api().command('ship', handled, { trackingNumber: 'T-1', carrier: 'post' });
    expect(await refused(handled)).toBe('409 order_already_shipped');
    const cancelled = await api().placed(undefined, 'manual');
    await api().command('cancel', cancelled, { reason: 'no' });
    expect(await refused(cancelled)).toBe('409 order_cancelled');
  });

  test('fulfil is refused once a fulfilment has ended', async () => {
    const completed = await begin();
    expect(await resting(completed)).toBe('completed');
    const again = await api().command('fulfil', completed);
    expect(refusalOf(again)).toBe('409 order_already_shipped');
    const undone = await begin({ operation: 'capture', fault: 'refuse' });
    expect(await resting(undone)).toBe('compensated');
    expect(refusalOf(await api().command('fulfil', undone))).toBe('409 order_cancelled');
  });

  test('fulfil twice, even at once, starts one saga', async () => {
    const orderId = await api().placed(undefined, 'manual');
    const responses = await Promise.all([1, 2, 3, 4].map(() => api().command('fulfil', orderId)));
    for (const { status, text } of responses) expect([202, 409], text).toContain(status);
    expect(await resting(orderId)).toBe('completed');
    expect(await reality(orderId)).toEqual(SHIPPED);
    const sagas = await world().database.query('select from saga_work where subject_id = $1', [
      orderId,
    ]);
    expect(sagas).toHaveLength(1);
  });

  test('ship and refund by hand are refused while it runs; cancel is, once a parcel is asked for', async () => {
    const orderId = await begin({ operation: 'ship', fault: 'hold', times: 1 });
    await world().simulator.nextCall({ operation: 'ship', orderId });
    const before = await api().order(orderId);
    expect(before).toMatchObject({ status: 'paid', fulfilment: 'running' });
    const byHand = [
      api().command('ship', orderId, { trackingNumber: 'T-1', carrier: 'post' }),
      api().command('refund', orderId, { refundId: 'r-1', amountCents: 2500 }),
    ];
    for (const response of await Promise.all(byHand)) {
      expect(refusalOf(response)).toBe('409 fulfilment_running');
    }
    const cancel = await api().command('cancel', orderId, { reason: 'too late' });
    expect(refusalOf(cancel)).toBe('409 shipment_requested');
    expect(await api().order(orderId)).toEqual(before);
    await world().simulator.release({ orderId });
    expect(await resting(orderId)).toBe('completed');
  });

  test.each([
    ['before its own', 'capture', 'pending', undefined, 'completed'],
    ['beside its own', 'ship', 'paid', undefined, 'completed'],
    ['beside its own, and then undoes it', 'capture', 'pending', 'no', 'compensated'],
  ] as const)(
    'a payment by hand is recorded %s, is owed, and is given back by hand at the end',
    async (_, operation, status, reason, end) => {
      const orderId = await begin({ operation, fault: 'hold', times: 1 });
      await world().simulator.nextCall({ operation, orderId });
      expect(await api().order(orderId)).toMatchObject({ status });
      const payment = { paymentId: `${BY_HAND}-1`, amountCents: 2500 };
      expect((await api().command('pay', orderId, payment)).status).toBe(200);
      if (reason) await api().command('cancel', orderId, { reason });
      await world().simulator.release({ orderId });
      expect(await resting(orderId)).toBe(end);
      const money = reason ? [['2500 EUR'], ['2500 EUR'], 0] : [['2500 EUR'], [], 1];
      expect(Object.values(await reality(orderId))).toEqual(money);
      expect(await api().order(orderId)).toMatchObject({ capturedCents: 5000, owedCents: 2500 });
      const late = { paymentId: `${BY_HAND}-2`, amountCents: 7 };
      expect((await api().command('pay', orderId, late)).status).toBe(200);
      const refund = { refundId: 'r-1', ...payment };
      expect((await api().command('refund', orderId, refund)).status).toBe(200);
      expect(await api().order(orderId)).toMatchObject({ capturedCents: 5007, owedCents: 7 });
    },
  );

  test('a cancel is taken before that, and says that it is under way', async () => {
    const orderId = await begin({ operation: 'capture', fault: 'hold', times: 1 });
    await world().simulator.nextCall({ operation: 'capture', orderId });
    const response = await api().command('cancel', orderId, { reason: 'changed my mind' });
    expect(response.status).toBe(202);
    expect(orderIn(response)).toMatchObject({ status: 'pending' });
    expect(orderIn(response).cancellationRequestedAt).toBeDefined();
    const again = await api().command('cancel', orderId, { reason: 'once more' });
    expect([again.status, orderIn(again).version]).toEqual([202, orderIn(response).version]);
    await world().simulator.release({ orderId });
    expect(await resting(orderId)).toBe('compensated');
    expect(await api().order(orderId)).toMatchObject({ reason: 'changed my mind' });
  });

  test('retry and resolve are refused where nothing is stuck', async () => {
    const orderId = await begin();
    expect(await resting(orderId)).toBe('completed');
    const word = { step: 'ship', outcome: 'done', reference: 'T-1', reason: 'I saw it' };
    const retry = await api().command('fulfilment/retry', orderId);
    const resolve = await api().command('fulfilment/resolve', orderId, word);
    expect(refusalOf(retry)).toBe('409 fulfilment_not_stuck');
    expect(refusalOf(resolve)).toBe('409 fulfilment_not_stuck');
    const manual = await api().placed(undefined, 'manual');
    for (const id of [manual, uuidv7()]) {
      expect(refusalOf(await api().command('fulfilment/retry', id))).toBe(
        '404 fulfilment_not_found',
      );
    }
  });

  test.each([
    ['a reason', { step: 'refund', outcome: 'done', reference: 'r' }, '/reason'],
    ['an empty reason', { step: 'refund', outcome: 'notDone', reason: '' }, '/reason'],
    ['a reference', { step: 'refund', outcome: 'done', reason: 'r' }, '/reference'],
    ['an outcome', { step: 'refund', reason: 'r' }, '/outcome'],
    ['sense', { step: 'refund', outcome: 'perhaps', reason: 'r' }, '/outcome'],
    ['a step', { outcome: 'notDone', reason: 'r' }, '/step'],
    ['bounds', { step: 'refund', outcome: 'notDone', reason: 'r', force: true }, '/force'],
  ])('a resolution without %s is refused', async (_, body, pointer) => {
    const orderId = await api().placed(undefined, 'manual');
    const response = await api().command('fulfilment/resolve', orderId, body);
    expect(response.status).toBe(400);
    expect(pointersOf(response.text)).toEqual([pointer]);
  });

  test('an order that is none has no fulfilment', async () => {
    expect(refusalOf(await api().command('fulfil', uuidv7()))).toBe('404 order_not_found');
    expect((await api().command('fulfil', 'no-uuid')).status).toBe(400);
    const place = await api().request('POST', '/v1/orders', {
      body: {
        customerId: 'c',
        currency: 'EUR',
        items: [{ sku: 'book', quantity: 1, priceCents: 1 }],
        fulfilment: 'sometimes',
      },
    });
    expect(place.status).toBe(400);
    expect(pointersOf(place.text)).toEqual(['/fulfilment']);
  });

  test('and in the end all is as promised', async () => {
    expect(await violations()).toEqual([]);
  });
});

/** What a provider says that is no response to what it was asked. */
const NONSENSE = ['garbage', 'html', 'empty', 'wrong_shape', 'other_key', 'timeout_after'] as const;

describe.skipIf(skipReason('postgres'))('G7 for bad input from providers', () => {
  const { world, api, judged, reality, begin, resting, unsettled, violations } = useStage();

  test.each(NONSENSE)('%s once at every step is asked about, never guessed', async (fault) => {
    const shipped = await begin(
      { operation: 'capture', fault, times: 1 },
      { operation: 'look_up_capture', fault, times: 1 },
      { operation: 'ship', fault, times: 1 },
      { operation: 'look_up_shipment', fault, times: 1 },
    );
    const undone = await begin(
      { operation: 'ship', fault: 'refuse' },
      { operation: 'refund', fault, times: 1 },
      { operation: 'look_up_refund', fault, times: 1 },
    );
    expect(await resting(shipped)).toBe('completed');
    expect(await reality(shipped)).toEqual(SHIPPED);
    expect(await resting(undone)).toBe('compensated');
    expect(await reality(undone)).toEqual(UNDONE);
  });

  test.each([
    ['other_amount', '1250 EUR', 1250],
    ['other_currency', '2500 XTS', 0],
  ] as const)('a payment of %s is given back as it was taken', async (fault, money, cents) => {
    const orderId = await begin({ operation: 'capture', fault });
    expect(await resting(orderId)).toBe('compensated');
    expect(await reality(orderId)).toEqual({ taken: [money], back: [money], parcels: 0 });
    const order = { status: 'cancelled', capturedCents: cents, refundedCents: cents };
    expect(await api().order(orderId)).toMatchObject(order);
    const { reason } = await api().fulfilment(orderId);
    expect(reason).toBe(
      `capture given up: the provider states ${money} where 2500 EUR was asked for`,
    );
  });

  test.each(['misstated_amount', 'misstated_currency'] as const)(
    'a payment that is %s once is looked up, and is right',
    async (fault) => {
      const orderId = await begin({ operation: 'capture', fault, times: 1 });
      expect(await resting(orderId)).toBe('completed');
      expect(await reality(orderId)).toEqual(SHIPPED);
    },
  );

  test.each(NONSENSE)(
    '%s for ever leaves a payment unknown, until it can be known',
    async (fault) => {
      const money = [
        { operation: 'capture', fault },
        { operation: 'look_up_capture', fault },
      ] as const;
      const orderId = await begin(...money, { operation: 'cancel_capture', fault });
      const step = { state: 'requested', outcome: 'unknown', reason: expect.stringMatching(/./) };
      expect(await unsettled(orderId, 'capture')).toMatchObject(step);
      expect(await api().order(orderId)).toMatchObject({ status: 'pending', capturedCents: 0 });

      const cancel = await api().command('cancel', orderId, { reason: 'too slow' });
      expect(cancel.status).toBe(202);
      expect(await unsettled(orderId, 'cancel_capture')).toMatchObject(step);
      const shown = { status: 'pending', fulfilment: 'compensating' };
      expect(await api().order(orderId)).toMatchObject(shown);

      await world().simulator.clearFaults();
      expect(await resting(orderId)).toBe('compensated');
      expect(await reality(orderId)).toEqual(UNDONE);
    },
  );

  test.each(NONSENSE)('%s for ever leaves a parcel unknown, and no money moves', async (fault) => {
    const orderId = await begin({ operation: ['ship', 'look_up_shipment'], fault });
    const step = { state: 'requested', outcome: 'unknown' };
    expect(await unsettled(orderId, 'ship')).toMatchObject(step);
    const cancel = await api().command('cancel', orderId, { reason: 'too slow' });
    expect(refusalOf(cancel)).toBe('409 shipment_requested');
    expect(await api().order(orderId)).toMatchObject({ status: 'paid', fulfilment: 'running' });
    expect(await reality(orderId)).toMatchObject({ back: [] });

    await world().simulator.clearFaults();
    expect(await resting(orderId)).toBe('completed');
    expect(await reality(orderId)).toEqual(SHIPPED);
  });

  test.each(NONSENSE)('%s for ever leaves a refund unknown, and the order paid', async (fault) => {
    const orderId = await begin(
      { operation: 'ship', fault: 'refuse' },
      { operation: ['refund', 'look_up_refund'], fault },
    );
    const step = { state: 'requested', outcome: 'unknown' };
    expect(await unsettled(orderId, 'refund')).toMatchObject(step);
    const shown = { status: 'paid', fulfilment: 'compensating', refundedCents: 0 };
    expect(await api().order(orderId)).toMatchObject(shown);

    await world().simulator.clearFaults();
    expect(await resting(orderId)).toBe('compensated');
    expect(await reality(orderId)).toEqual(UNDONE);
  });

  test.each(['other_amount', 'other_currency'] as const)(
    'a refund of %s is stuck until somebody says what became of it',
    async (fault) => {
      const orderId = await begin(
        { operation: 'ship', fault: 'refuse' },
        { operation: 'refund', fault, times: 1 },
      );
      judged.add(orderId);
      expect(await resting(orderId)).toBe('stuck');
      const { open } = await api().fulfilment(orderId);
      expect(open).toEqual([
        { step: 'refund', reason: expect.stringContaining('where 2500 EUR was asked for') },
      ]);
      const shown = { status: 'paid', fulfilment: 'stuck', capturedCents: 2500, refundedCents: 0 };
      expect(await api().order(orderId)).toMatchObject(shown);
      expect((await api().command('fulfilment/retry', orderId)).status).toBe(202);
      expect(await resting(orderId)).toBe('stuck');
      expect((await reality(orderId)).back).toHaveLength(1);

      const word = { step: 'refund', outcome: 'done', reference: 're-1', reason: 'paid the rest' };
      expect((await api().command('fulfilment/resolve', orderId, word)).status).toBe(202);
      expect(await resting(orderId)).toBe('compensated');
      const ended = { status: 'cancelled', refundedCents: 2500, refundAmountCents: 2500 };
      expect(await api().order(orderId)).toMatchObject(ended);
    },
  );

  test('and in the end all is as promised', async () => {
    expect(await violations()).toEqual([]);
  });
});

describe.skipIf(skipReason('postgres'))('G7 for a fulfilment that is stuck', () => {
  const { world, api, judged, reality, begin, resting, violations } = useStage({
    now: fastClock(20),
    env: {
      ...longTimeouts.env,
      CAPTURE_DEADLINE_S: '1',
      SHIP_DEADLINE_S: '1',
      UNDO_DEADLINE_S: '1',
    },
  });

  const unreachable = (operation: Operation[]): FaultRuleInput => ({
    operation,
    fault: 'reset_before',
  });
  /** Nobody can tell whether the money moved, nor stop it. */
  const paymentLost = (fault: FaultName): FaultRuleInput[] => [
    { operation: 'capture', fault, times: 1 },
    unreachable(['look_up_capture', 'cancel_capture']),
  ];
  const parcelLost = (fault: FaultName): FaultRuleInput[] => [
    { operation: 'ship', fault, times: 1 },
    unreachable(['look_up_shipment', 'cancel_shipment']),
  ];
  const refundRefused: FaultRuleInput[] = [
    { operation: 'ship', fault: 'refuse' },
    { operation: 'refund', fault: 'refuse', times: 1 },
  ];

  const open = async (orderId: string) =>
    (await api().fulfilment(orderId)).open.map(({ step }) => step);
  /** Reachable again, and told by an operator to go on. */
  const retry = async (orderId: string) => {
    await world().simulator.clearFaults();
    expect((await api().command('fulfilment/retry', orderId)).status).toBe(202);
    return resting(orderId);
  };
  const resolve = async (orderId: string, word: Readonly<Record<string, string>>) => {
    await world().simulator.clearFaults();
    const reason = `asked the provider ${randomUUID()}`;
    const response = await api().command('fulfilment/resolve', orderId, { ...word, reason });
    expect(response.status, response.text).toBe(202);
    const state = await resting(orderId);
    const recorded = await world().database.query(
      `select metadata from events where type = 'StepResolved' and data ->> 'reason' = $1`,
      [reason],
    );
    expect(recorded).toEqual([{ metadata: expect.objectContaining({ actor: 'anonymous' }) }]);
    return state;
  };

  test.each([
    ['capture', paymentLost('reset_after'), 'pending'],
    ['ship', parcelLost('reset_after'), 'paid'],
    ['refund', refundRefused, 'paid'],
  ] as const)(
    'shows that it is stuck at %s, and takes no word on others',
    async (step, faults, status) => {
      const orderId = await begin(...faults);
      expect(await resting(orderId)).toBe('stuck');
      expect(await open(orderId)).toEqual([step]);
      expect(await api().order(orderId)).toMatchObject({ status, fulfilment: 'stuck' });
      const other = { step: 'reserve', outcome: 'notDone', reason: 'r' };
      expect(refusalOf(await api().command('fulfilment/resolve', orderId, other))).toBe(
        '409 step_not_open',
      );
      expect(await resting(orderId)).toBe('stuck');
      await retry(orderId);
    },
  );

  test('at a payment that was taken: retry gives it back', async () => {
    const orderId = await begin(...paymentLost('reset_after'));
    expect(await resting(orderId)).toBe('stuck');
    expect(await retry(orderId)).toBe('compensated');
    expect(await reality(orderId)).toEqual(UNDONE);
  });

  test('at a payment that was never taken: retry closes it', async () => {
    const orderId = await begin(...paymentLost('reset_before'));
    expect(await resting(orderId)).toBe('stuck');
    expect(await retry(orderId)).toBe('compensated');
    expect(await reality(orderId)).toEqual(UNTOUCHED);
  });

  test('at a payment that an operator found: it is given back', async () => {
    const orderId = await begin(...paymentLost('reset_after'));
    expect(await resting(orderId)).toBe('stuck');
    const [entry] = await world().simulator.ledger({ orderId, operation: 'capture' });
    const word = { step: 'capture', outcome: 'done', reference: entry!.paymentId! };
    expect(await resolve(orderId, word)).toBe('compensated');
    expect(await reality(orderId)).toEqual(UNDONE);
  });

  test('at a payment that an operator did not find: nothing is given back', async () => {
    const orderId = await begin(...paymentLost('reset_before'));
    judged.add(orderId); // its key is closed by nothing but the operator's word
    expect(await resting(orderId)).toBe('stuck');
    const word = { step: 'capture', outcome: 'notDone' };
    expect(await resolve(orderId, word)).toBe('compensated');
    expect(await reality(orderId)).toEqual(UNTOUCHED);
    expect(await api().order(orderId)).toMatchObject({ status: 'cancelled', capturedCents: 0 });
  });

  test('at a parcel: its goods stay reserved, and retry finds it', async () => {
    const before = await reserved();
    const orderId = await begin(...parcelLost('reset_after'));
    expect(await resting(orderId)).toBe('stuck');
    expect(await reserved()).toBe(before + 2);
    expect(await retry(orderId)).toBe('completed');
    expect(await reality(orderId)).toEqual(SHIPPED);
    expect(await reserved()).toBe(before);
  });

  test('at a parcel that never left: retry stops it, and all is undone', async () => {
    const orderId = await begin(...parcelLost('reset_before'));
    expect(await resting(orderId)).toBe('stuck');
    expect(await retry(orderId)).toBe('compensated');
    expect(await reality(orderId)).toEqual(UNDONE);
  });

  test('at a parcel that an operator found: the order is shipped', async () => {
    const orderId = await begin(...parcelLost('reset_after'));
    expect(await resting(orderId)).toBe('stuck');
    const [entry] = await world().simulator.ledger({ orderId, operation: 'ship' });
    const reference = entry!.parcels![0]!.trackingNumber;
    expect(await resolve(orderId, { step: 'ship', outcome: 'done', reference })).toBe('completed');
    const shown = { status: 'shipped', trackingNumber: reference };
    expect(await api().order(orderId)).toMatchObject(shown);
    expect(await reality(orderId)).toEqual(SHIPPED);
  });

  test('at a parcel that an operator did not find: the money is given back', async () => {
    const orderId = await begin(...parcelLost('reset_before'));
    judged.add(orderId);
    expect(await resting(orderId)).toBe('stuck');
    expect(await resolve(orderId, { step: 'ship', outcome: 'notDone' })).toBe('compensated');
    expect(await reality(orderId)).toEqual(UNDONE);
  });

  test.each([
    ['retry', undefined],
    ['a word that it was not done', { step: 'refund', outcome: 'notDone' }],
  ])('at a refund that was refused: %s makes it anew, under a new key', async (_, word) => {
    const orderId = await begin(...refundRefused);
    expect(await resting(orderId)).toBe('stuck');
    expect(await (word ? resolve(orderId, word) : retry(orderId))).toBe('compensated');
    expect(await reality(orderId)).toEqual(UNDONE);
    const asked = await world().simulator.calls({ orderId, operation: 'refund' });
    expect(new Set(asked.map(({ key }) => key.at(-1)))).toEqual(new Set(['1', '2']));
  });

  test('and in the end all is as promised', async () => {
    expect(await violations()).toEqual([]);
  });

  async function reserved(): Promise<number> {
    const { text } = await api().request('GET', '/v1/stock/book');
    return stockShape.parse(JSON.parse(text)).reserved;
  }
});
