import { describe, expect, test } from 'vitest';
import { skipReason } from '#test/support/infra.ts';
import { startTcpProxy } from '#test/support/tcp-proxy.ts';
import { createSagaWorld } from '#test/support/saga/world.ts';
import { createApi } from './fulfilment-api.ts';
import { resting, stock } from './fulfilment-service.ts';

describe.skipIf(skipReason('postgres'))('the stock over HTTP', () => {
  test('returns outcome_unknown if the stock may have been set', async () => {
    await using world = await createSagaWorld();
    await using proxy = await startTcpProxy(world.database.url);
    await using api = await createApi({
      ...world,
      database: { ...world.database, url: proxy.url },
    });
    proxy.trap('change_stock', 'cutResponse');
    expect(await api.call('PUT', '/v1/stock/book', { onHand: 7 })).toMatchObject({
      status: 503,
      body: { code: 'outcome_unknown' },
    });
    expect(await stock(world)).toEqual({ book: [7, 0] });
  });

  test('is set, read and listed page by page', async () => {
    await using world = await createSagaWorld();
    await using api = await createApi(world);
    for (const [sku, onHand] of [
      ['b', 2],
      ['a', 1],
      ['Z', 0],
      ['é', 4],
    ] as const) {
      const path = `/v1/stock/${encodeURIComponent(sku)}`;
      const response = await api.call('PUT', path, { onHand });
      expect(response).toMatchObject({
        status: 201,
        body: { sku, onHand, reserved: 0, available: onHand },
      });
      expect(response.headers.get('location')).toBe(path);
      const read = await api.call('GET', path);
      expect(read.text).toBe(response.text);
      expect(read.headers.get('etag')).toBe(response.headers.get('etag'));
    }
    const skus: string[] = [];
    for (let cursor: string | null = ''; cursor !== null;) {
      const query: string = cursor === '' ? '' : `&cursor=${cursor}`;
      const { body } = await api.call('GET', `/v1/stock?limit=3${query}`);
      skus.push(...body.data.map(({ sku }) => sku));
      cursor = body.nextCursor;
    }
    expect(skus).toEqual(['Z', 'a', 'b', 'é']);
    expect(await api.call('GET', '/v1/stock/none')).toMatchObject({
      status: 404,
      body: { code: 'stock_not_found' },
    });
  });

  test('is guarded by its ETag: an outdated count changes nothing', async () => {
    await using world = await createSagaWorld();
    await using api = await createApi(world);
    await api.call('PUT', '/v1/stock/book', { onHand: 10 });
    const counted = (await api.call('GET', '/v1/stock/book')).headers.get('etag')!;
    await resting(api.service, await api.place('automatic'));
    const set = (tag: string) =>
      api.call('PUT', '/v1/stock/book', { onHand: 10 }, { 'if-match': tag });
    for (const tag of [counted, '"nonsense"']) {
      const response = await set(tag);
      expect(response).toMatchObject({
        status: 412,
        body: { code: 'precondition_failed', stock: { onHand: 8, reserved: 0, available: 8 } },
      });
      const now = await api.call('GET', '/v1/stock/book');
      expect(response.headers.get('etag')).toBe(now.headers.get('etag'));
      const known = await api.call('HEAD', '/v1/stock/book', undefined, {
        'if-none-match': response.headers.get('etag')!,
      });
      expect(known.status).toBe(304);
    }
    expect((await set('nonsense')).status).toBe(400);
    expect(await stock(world)).toEqual({ book: [8, 0] });
    const now = (await api.call('GET', '/v1/stock/book')).headers.get('etag')!;
    expect(await set(now)).toMatchObject({ status: 200, body: { onHand: 10 } });
    expect((await set(now)).status).toBe(412);
  });

  test('is set once if it must not exist yet, however many try', async () => {
    await using world = await createSagaWorld();
    await using api = await createApi(world);
    const set = (onHand: number) =>
      api.call('PUT', '/v1/stock/new', { onHand }, { 'if-none-match': '*' });
    const responses = await Promise.all([1, 2, 3, 4].map(set));
    const statuses = responses.map(({ status }) => status);
    expect(statuses.filter((status) => status === 412)).toHaveLength(3);
    const created = responses.find(({ status }) => status === 201);
    expect(await stock(world)).toEqual({ new: [created!.body['onHand'], 0] });
    const other = { 'if-none-match': '"other"' };
    expect((await api.call('PUT', '/v1/stock/new', { onHand: 9 }, other)).status).toBe(200);
    expect((await api.call('PUT', '/v1/stock/none', { onHand: 9 }, other)).status).toBe(201);
    const must = { 'if-match': '*' };
    expect((await api.call('PUT', '/v1/stock/nope', { onHand: 9 }, must)).status).toBe(412);
  });

  test('adds up all adjustments that come at once', async () => {
    await using world = await createSagaWorld();
    await using api = await createApi(world);
    await using other = await createApi(world);
    const adjust = (delta: number, key?: string, { call } = api) =>
      call('POST', '/v1/stock/book/adjust', { delta }, key ? { 'idempotency-key': key } : {});
    expect(await adjust(1)).toMatchObject({ status: 404, body: { code: 'stock_not_found' } });
    await api.call('PUT', '/v1/stock/book', { onHand: 100 });
    await Promise.all(Array.from({ length: 20 }, (_, index) => adjust(index % 2 ? -3 : 2)));
    expect(await stock(world)).toEqual({ book: [90, 0] });

    // One key at two replicas: one effect, and nobody is told of another.
    const responses = await Promise.all([adjust(5, 'k'), adjust(5, 'k', other)]);
    for (const { status, body } of responses) {
      if (status === 200) expect(body).toMatchObject({ onHand: 95 });
      else expect(status).toBe(503);
    }
    expect(await adjust(5, 'k', other)).toMatchObject({ status: 200, body: { onHand: 95 } });
    expect(await stock(world)).toEqual({ book: [95, 0] });
  });

  test('is not adjusted out of bounds, and the refusal shows the present stock', async () => {
    await using world = await createSagaWorld();
    await using api = await createApi(world);
    await api.call('PUT', '/v1/stock/book', { onHand: 10 });
    await world.simulator.addFault({ operation: 'capture', fault: 'hold' });
    const orderId = await api.place('automatic');
    await world.simulator.nextCall({ operation: 'capture', orderId });
    const adjust = (body: unknown) => api.call('POST', '/v1/stock/book/adjust', body);
    const there = { onHand: 10, reserved: 2, available: 8 };
    expect(await adjust({ delta: -9 })).toMatchObject({
      status: 409,
      body: { code: 'stock_reserved', stock: there },
    });
    expect(await adjust({ delta: 1_000_000_000 })).toMatchObject({
      status: 422,
      body: { code: 'stock_too_large', stock: there },
    });
    for (const body of [{ delta: 0 }, { delta: 0.5 }, { delta: '1' }, {}, { onHand: 1 }]) {
      expect((await adjust(body)).status).toBe(400);
    }
    expect(await stock(world)).toEqual({ book: [10, 2] });
    expect(await adjust({ delta: -8 })).toMatchObject({ status: 200, body: { available: 0 } });
    await world.simulator.release();
    await resting(api.service, orderId);
    expect(await stock(world)).toEqual({ book: [0, 0] });
  });

  test('does not fall below what is reserved', async () => {
    await using world = await createSagaWorld();
    await using api = await createApi(world);
    await api.call('PUT', '/v1/stock/book', { onHand: 10 });
    await world.simulator.addFault({ operation: 'capture', fault: 'hold' });
    const orderId = await api.place('automatic');
    await world.simulator.nextCall({ operation: 'capture', orderId });
    expect(await api.call('PUT', '/v1/stock/book', { onHand: 1 })).toMatchObject({
      status: 409,
      body: { code: 'stock_reserved', stock: { onHand: 10, reserved: 2 } },
    });
    expect((await api.call('PUT', '/v1/stock/book', { onHand: 2 })).body).toMatchObject({
      onHand: 2,
      reserved: 2,
      available: 0,
    });
    await world.simulator.release();
    await resting(api.service, orderId);
    expect(await stock(world)).toEqual({ book: [0, 0] });
  });

  test.each([
    ['less than nothing', { onHand: -1 }],
    ['half a piece', { onHand: 0.5 }],
    ['text', { onHand: '5' }],
    ['too much', { onHand: 1_000_000_001 }],
    ['nothing said', {}],
    ['more said', { onHand: 1, reserved: 1 }],
  ])('cannot be set to %s', async (_, body) => {
    await using world = await createSagaWorld();
    await using api = await createApi(world);
    expect((await api.call('PUT', '/v1/stock/book', body)).status).toBe(400);
    expect(await stock(world)).toEqual({});
  });

  test('is only set for a sku that an order and a path can name', async () => {
    await using world = await createSagaWorld();
    await using api = await createApi(world);
    const named = (sku: string) => `/v1/stock/${encodeURIComponent(sku)}`;
    for (const sku of ['e\u0301', 'a\u0007', 'a\u2066b']) {
      expect((await api.call('PUT', named(sku), { onHand: 1 })).status).toBe(400);
      expect((await api.call('POST', `${named(sku)}/adjust`, { delta: 1 })).status).toBe(400);
      // What an earlier release took can still be read.
      expect((await api.call('GET', named(sku))).status).toBe(404);
    }
    expect((await api.call('PUT', named('\u00e9'), { onHand: 1 })).status).toBe(201);
    expect(await stock(world)).toEqual({ '\u00e9': [1, 0] });
  });

  test('refuses a cursor that it did not send', async () => {
    await using world = await createSagaWorld();
    await using api = await createApi(world);
    for (const cursor of ['AA', '_w', 'YQ%3D%3D', 'YR']) {
      expect((await api.call('GET', `/v1/stock?cursor=${cursor}`)).status, cursor).toBe(400);
    }
    expect((await api.call('GET', '/v1/stock?cursor=YQ')).status).toBe(200);
    expect((await api.call('GET', '/v1/stock?limit=101')).status).toBe(400);
  });
});
