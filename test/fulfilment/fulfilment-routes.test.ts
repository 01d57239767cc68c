import { describe, expect, test } from 'vitest';
import { skipReason } from '#test/support/infra.ts';
import { eventually } from '#test/support/poll.ts';
import { createSagaWorld } from '#test/support/saga/world.ts';
import { ANY, createApi, order } from './fulfilment-api.ts';
import { ledgerOf, resting, stock } from './fulfilment-service.ts';

const bySteps = (steps: { step: string; state: string }[]) =>
  Object.fromEntries(steps.map(({ step, state }) => [step, state]));

describe.skipIf(skipReason('postgres'))('the fulfilment of an order over HTTP', () => {
  test('is started with the order, and shows its steps', async () => {
    await using world = await createSagaWorld();
    await using api = await createApi(world);
    await api.call('PUT', '/v1/stock/book', { onHand: 10 });
    const orderId = await api.place('automatic');
    await resting(api.service, orderId);
    const { status, body } = await api.call('GET', `/v1/orders/${orderId}/fulfilment`);
    expect(status).toBe(200);
    expect(body).toMatchObject({
      orderId,
      state: 'completed',
      definitionVersion: 2,
      open: [],
      steps: [
        { step: 'reserve', state: 'done', attempts: 1, outcome: 'ok' },
        {
          step: 'capture',
          state: 'done',
          attempts: 1,
          outcome: 'ok',
          key: `${body.sagaId}-capture-1`,
          result: { amountCents: 2500, currency: 'EUR' },
        },
        {
          step: 'ship',
          state: 'done',
          result: { parcels: [{ carrier: 'Simulated Post' }] },
        },
      ],
    });
  });

  test('shows that an order that costs nothing was not captured', async () => {
    await using world = await createSagaWorld();
    await using api = await createApi(world);
    await api.call('PUT', '/v1/stock/book', { onHand: 10 });
    const items = [{ sku: 'book', quantity: 1, priceCents: 0 }];
    const orderId = await api.place('automatic', { items, payment: undefined });
    expect(await resting(api.service, orderId)).toBe('completed');
    const { body } = await api.call('GET', `/v1/orders/${orderId}/fulfilment`);
    expect(body.steps).toMatchObject([
      { step: 'reserve' },
      { step: 'capture', state: 'done', skipped: true },
      { step: 'ship', state: 'done' },
    ]);
    expect(body.steps.map((step) => 'skipped' in step)).toEqual([false, true, false]);
    expect(await ledgerOf(world, orderId)).toMatchObject({ captures: 0, parcels: 1 });
  });

  test('is started once for a pending order, and the response has its Location', async () => {
    await using world = await createSagaWorld();
    await using api = await createApi(world);
    await api.call('PUT', '/v1/stock/book', { onHand: 10 });
    await world.simulator.addFault({ operation: 'capture', fault: 'hold' });
    const orderId = await api.place();
    expect((await api.call('GET', `/v1/orders/${orderId}/fulfilment`)).status).toBe(404);
    const first = await api.call('POST', `/v1/orders/${orderId}/fulfil`);
    expect(first).toMatchObject({ status: 202, body: { orderId, fulfilment: 'running' } });
    expect(first.headers.get('location')).toBe(`/v1/orders/${orderId}/fulfilment`);
    expect(first.headers.get('etag')).toBe('"v2"');
    expect(await api.call('POST', `/v1/orders/${orderId}/fulfil`)).toMatchObject({
      status: 202,
      body: { version: 2 },
    });
    const ship = { trackingNumber: 't', carrier: 'post' };
    expect(await api.call('POST', `/v1/orders/${orderId}/ship`, ship)).toMatchObject({
      status: 409,
      body: { code: 'fulfilment_running' },
    });
    await world.simulator.nextCall({ operation: 'capture', orderId });
    await world.simulator.release();
    expect(await resting(api.service, orderId)).toBe('completed');
    expect(await api.call('POST', `/v1/orders/${orderId}/fulfil`)).toMatchObject({
      status: 409,
      body: { code: 'order_already_shipped' },
    });
  });

  test('is refused for an order that is paid or cancelled', async () => {
    await using world = await createSagaWorld();
    await using api = await createApi(world);
    const paid = await api.place();
    await api.call('POST', `/v1/orders/${paid}/pay`, { paymentId: 'p', amountCents: 2500 });
    expect(await api.call('POST', `/v1/orders/${paid}/fulfil`)).toMatchObject({
      status: 409,
      body: { code: 'order_already_paid' },
    });
    const cancelled = await api.place('manual');
    await api.call('POST', `/v1/orders/${cancelled}/cancel`, { reason: 'r' });
    expect(await api.call('POST', `/v1/orders/${cancelled}/fulfil`)).toMatchObject({
      status: 409,
      body: { code: 'order_cancelled' },
    });
  });

  test('is refused without providers, and nothing is written', async () => {
    await using world = await createSagaWorld();
    await using api = await createApi(world, { providers: undefined });
    const body = { ...order, fulfilment: 'automatic' };
    expect(await api.call('POST', '/v1/orders', body)).toMatchObject({
      status: 409,
      body: { code: 'fulfilment_off' },
    });
    expect(await world.database.query('select from events')).toEqual([]);
  });

  test('waits for an operator if its events cannot be written, and continues after a retry', async () => {
    await using world = await createSagaWorld();
    await world.database.query(
      `create function refuse() returns trigger language plpgsql as $$
       begin
         if new.type = 'OrderShipped' then
           raise exception 'not now' using errcode = 'check_violation';
         end if;
         return new;
       end $$;
       create trigger refuse before insert on events for each row execute function refuse();`,
    );
    await using api = await createApi(world);
    await api.call('PUT', '/v1/stock/book', { onHand: 10 });
    const orderId = await api.place('automatic');
    const path = `/v1/orders/${orderId}/fulfilment`;
    await eventually(async () => (await api.call('GET', path)).body['state'] === 'stuck');
    expect((await api.call('GET', path)).body).toMatchObject({
      reason: '20 runs failed, the last with WriteFailed',
      open: [],
    });
    const word = { step: 'ship', outcome: 'notDone', reason: 'r' };
    expect(await api.call('POST', `${path}/resolve`, word, ANY)).toMatchObject({
      status: 409,
      body: { code: 'step_not_open', open: [] },
    });
    await world.database.query('drop trigger refuse on events');
    const twice = await Promise.all([1, 2].map(() => api.call('POST', `${path}/retry`)));
    expect(new Set(twice.map(({ status }) => status))).toEqual(new Set([202, 409]));
    expect(await resting(api.service, orderId)).toBe('completed');
    expect(await ledgerOf(world, orderId)).toMatchObject({ capturedCents: 2500, parcels: 1 });
  });

  test('is cancelled with a reason of any 500 characters', async () => {
    await using world = await createSagaWorld();
    await using api = await createApi(world);
    await api.call('PUT', '/v1/stock/book', { onHand: 10 });
    await world.simulator.addFault({ operation: 'capture', fault: 'hold' });
    const orderId = await api.place('automatic');
    await world.simulator.nextCall({ operation: 'capture', orderId }, 0);
    const reason = `a${'\u{1F600}'.repeat(499)}`;
    expect((await api.call('POST', `/v1/orders/${orderId}/cancel`, { reason })).status).toBe(202);
    await world.simulator.release({ orderId });
    expect(await resting(api.service, orderId)).toBe('compensated');
    expect((await api.service.order(orderId)).reason).toBe(reason);
  });

  test('shows what is open when it is stuck, and is repaired by an operator', async () => {
    await using world = await createSagaWorld();
    await using api = await createApi(world);
    await api.call('PUT', '/v1/stock/book', { onHand: 10 });
    await world.simulator.addFault({ operation: 'ship', fault: 'refuse' });
    await world.simulator.addFault({ operation: 'refund', fault: 'refuse', times: 2 });
    const orderId = await api.place('automatic');
    const path = `/v1/orders/${orderId}/fulfilment`;
    expect(await resting(api.service, orderId)).toBe('stuck');
    const stuck = await api.call('GET', path);
    expect(stuck.body).toMatchObject({
      state: 'stuck',
      reason: 'refund: refund_refused, after ship refused: carrier_refused',
      open: [{ step: 'refund', reason: 'refund_refused' }],
    });
    expect(bySteps(stuck.body.steps)).toEqual({
      reserve: 'done',
      capture: 'done',
      ship: 'refused',
      refund: 'refused',
      release: 'done',
    });
    expect((await api.service.order(orderId)).status).toBe('paid');

    const other = { step: 'capture', outcome: 'notDone', reason: 'r' };
    expect(await api.call('POST', `${path}/resolve`, other, ANY)).toMatchObject({
      status: 409,
      body: { code: 'step_not_open', open: ['refund'] },
    });
    expect((await api.call('POST', `${path}/retry`)).status).toBe(202);
    expect(await resting(api.service, orderId)).toBe('stuck');
    const notDone = { step: 'refund', outcome: 'notDone', reason: 'the provider knows nothing' };
    expect((await api.call('POST', `${path}/resolve`, notDone, ANY)).status).toBe(202);
    expect(await resting(api.service, orderId)).toBe('compensated');
    const keys = (await world.simulator.calls({ operation: 'refund', orderId })).map(({ key }) =>
      key.split('-').at(-1)!,
    );
    expect(new Set(keys)).toEqual(new Set(['1', '2', '3']));
    expect(await ledgerOf(world, orderId)).toMatchObject({
      capturedCents: 2500,
      refundedCents: 2500,
    });
    expect(await stock(world)).toEqual({ book: [10, 0] });
    expect(await api.service.sagaEvents(orderId)).toEqual(
      expect.arrayContaining(['RetryRequested', 'StepResolved refund']),
    );
    expect(await api.call('POST', `${path}/retry`)).toMatchObject({
      status: 409,
      body: { code: 'fulfilment_not_stuck', state: 'compensated' },
    });
  });

  test('takes the outcome of a refund from an operator', async () => {
    await using world = await createSagaWorld();
    await using api = await createApi(world);
    await api.call('PUT', '/v1/stock/book', { onHand: 10 });
    await world.simulator.addFault({ operation: 'ship', fault: 'refuse' });
    await world.simulator.addFault({ operation: 'refund', fault: 'refuse' });
    const orderId = await api.place('automatic');
    await resting(api.service, orderId);
    const word = { step: 'refund', outcome: 'done', reference: 're_1', reason: 'by hand' };
    const response = await api.call('POST', `/v1/orders/${orderId}/fulfilment/resolve`, word, ANY);
    expect(response).toMatchObject({ status: 202, body: { state: 'compensated' } });
    expect(await api.service.order(orderId)).toMatchObject({
      status: 'cancelled',
      refundedCents: 2500,
    });
  });

  test.each([
    ['without a reason', { step: 'refund', outcome: 'done', reference: 'r' }, '/reason'],
    ['without a reference', { step: 'refund', outcome: 'done', reason: 'r' }, '/reference'],
    ['with another outcome', { step: 'refund', outcome: 'maybe', reason: 'r' }, '/outcome'],
    ['with more', { step: 'refund', outcome: 'notDone', reason: 'r', force: true }, '/force'],
  ])('refuses to be resolved %s', async (_, body, pointer) => {
    await using world = await createSagaWorld();
    await using api = await createApi(world);
    const orderId = await api.place();
    const response = await api.call('POST', `/v1/orders/${orderId}/fulfilment/resolve`, body, ANY);
    expect(response).toMatchObject({ status: 400, body: { errors: [{ pointer }] } });
  });

  test('is not found if the order has none', async () => {
    await using world = await createSagaWorld();
    await using api = await createApi(world);
    const orderId = await api.place();
    const word = { step: 'refund', outcome: 'notDone', reason: 'r' };
    for (const response of [
      await api.call('GET', `/v1/orders/${orderId}/fulfilment`),
      await api.call('POST', `/v1/orders/${orderId}/fulfilment/retry`),
      await api.call('POST', `/v1/orders/${orderId}/fulfilment/resolve`, word, ANY),
    ]) {
      expect(response).toMatchObject({ status: 404, body: { code: 'fulfilment_not_found' } });
    }
  });
});
