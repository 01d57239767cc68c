import { describe, expect, test } from 'vitest';
import { skipReason } from '#test/support/infra.ts';
import { eventually } from '#test/support/poll.ts';
import { createSagaWorld } from '#test/support/saga/world.ts';
import { ANY, createApi } from './fulfilment-api.ts';
import { resting } from './fulfilment-service.ts';

type Api = Awaited<ReturnType<typeof createApi>>;

async function shipped(api: Api): Promise<string> {
  await api.call('PUT', '/v1/stock/book', { onHand: 10 });
  const orderId = await api.place('automatic');
  expect(await resting(api.service, orderId)).toBe('completed');
  return orderId;
}

async function untilState(api: Api, path: string, state: string) {
  await eventually(async () => (await api.call('GET', path)).body['state'] === state);
  return api.call('GET', path);
}

describe.skipIf(skipReason('postgres'))('the refunds of an order over HTTP', () => {
  test('are shown with their attempts, those that were made elsewhere too', async () => {
    await using world = await createSagaWorld();
    await using api = await createApi(world);
    const orderId = await shipped(api);
    const path = `/v1/orders/${orderId}/refunds`;
    expect((await api.call('GET', path)).body).toMatchObject({ data: [] });

    const asked = { refundId: 'ref/1', amountCents: 1000, reason: 'too small' };
    const first = await api.call('POST', `/v1/orders/${orderId}/refund`, asked);
    expect(first.status).toBe(202);
    const location = first.headers.get('location')!;
    expect(location).toBe(`${path}/ref%2F1`);
    const { body, headers } = await untilState(api, location, 'refunded');
    expect(headers.get('etag')).toMatch(/^"v\d+-[0-9a-f]+"$/);
    expect(body).toMatchObject({
      orderId,
      refundId: 'ref/1',
      amountCents: 1000,
      currency: 'EUR',
      reason: 'too small',
      open: [],
      steps: [{ step: 'refund', state: 'done', attempts: 1, key: `${body.sagaId}-refund-1` }],
    });

    const recorded = { refundId: 'ref-2', amountCents: 500, recordOnly: true };
    expect((await api.call('POST', `/v1/orders/${orderId}/refund`, recorded)).status).toBe(200);
    expect((await api.call('GET', `${path}/ref-2`)).body).toMatchObject({
      state: 'refunded',
      steps: [],
    });
    expect((await api.call('GET', path)).body).toMatchObject({
      data: [
        { refundId: 'ref/1', state: 'refunded', sagaId: body.sagaId },
        { refundId: 'ref-2', state: 'refunded' },
      ],
    });
    for (const name of ['retry', 'resolve']) {
      const word = { step: 'refund', outcome: 'notDone', reason: 'r' };
      for (const refundId of ['ref%2F1', 'ref-2']) {
        const sent = name === 'resolve' ? word : undefined;
        expect(await api.call('POST', `${path}/${refundId}/${name}`, sent, ANY)).toMatchObject({
          status: 409,
          body: { code: 'refund_not_stuck', state: 'refunded' },
        });
      }
      expect(
        await api.call('POST', `${path}/none/${name}`, name === 'resolve' ? word : undefined, ANY),
      ).toMatchObject({ status: 404, body: { code: 'refund_not_found' } });
    }
    const missing = path.replace(/[0-9a-f]{12}/, '000000000000');
    expect(await api.call('GET', missing)).toMatchObject({
      status: 404,
      body: { code: 'order_not_found' },
    });
  });

  test('that are stuck show why, and are repaired by an operator', async () => {
    await using world = await createSagaWorld();
    await using api = await createApi(world);
    const orderId = await shipped(api);
    const path = `/v1/orders/${orderId}/refunds`;
    await world.simulator.addFault({ operation: 'refund', orderId, fault: 'other_amount' });
    for (const refundId of ['ref-1', 'ref-2', 'ref-3']) {
      const asked = { refundId, amountCents: 500 };
      expect((await api.call('POST', `/v1/orders/${orderId}/refund`, asked)).status).toBe(202);
      const { body } = await untilState(api, `${path}/${refundId}`, 'stuck');
      expect(body).toMatchObject({
        open: [{ step: 'refund', reason: expect.stringContaining('states') }],
      });
    }
    expect((await api.call('GET', path)).body.data).toMatchObject([
      {
        refundId: 'ref-1',
        state: 'stuck',
        stuckReason: expect.stringMatching(/^refund: .*states/),
      },
      { state: 'stuck' },
      { state: 'stuck' },
    ]);

    const stale = { 'if-match': '"v1"' };
    const made = { step: 'refund', outcome: 'done', reference: 're_9', reason: 'asked them' };
    expect((await api.call('POST', `${path}/ref-1/resolve`, made, stale)).status).toBe(412);
    const { headers } = await api.call('GET', `${path}/ref-1`);
    const seen = { 'if-match': headers.get('etag')!, 'idempotency-key': 'k-1' };
    const resolved = await api.call('POST', `${path}/ref-1/resolve`, made, seen);
    expect(resolved).toMatchObject({ status: 202, body: { state: 'refunded', refundId: 'ref-1' } });
    const replayed = await api.call('POST', `${path}/ref-1/resolve`, made, seen);
    expect([replayed.status, replayed.text]).toEqual([202, resolved.text]);
    expect((await api.call('GET', `${path}/ref-1`)).body).toEqual(resolved.body);

    const notMade = { step: 'refund', outcome: 'notDone', reason: 'asked them' };
    expect(await api.call('POST', `${path}/ref-2/resolve`, notMade, ANY)).toMatchObject({
      status: 202,
      body: { state: 'failed', failure: 'resolved: asked them' },
    });
    expect(await api.call('POST', `${path}/ref-3/retry`)).toMatchObject({
      status: 202,
      body: { state: 'requested' },
    });
    await untilState(api, `${path}/ref-3`, 'stuck');
    const { refunds, refundedCents } = await api.service.order(orderId);
    expect(refunds.map(({ refundId, state }) => `${refundId} ${state}`).toSorted()).toEqual([
      'ref-1 refunded',
      'ref-2 failed',
      'ref-3 requested',
    ]);
    expect(refundedCents).toBe(500);
  });
});
