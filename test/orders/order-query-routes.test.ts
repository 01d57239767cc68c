import { Pool } from 'pg';
import { describe, expect, test } from 'vitest';
import { createReadPool } from '#src/database/database.ts';
import type { EventStore } from '#src/event-store/event-store.ts';
import type { OrderEvent } from '#src/orders/domain/order-events.ts';
import { orderQueryRoutes } from '#src/orders/order-query-routes.ts';
import type { FulfilmentState } from '#src/orders/domain/order.ts';
import { sampleServer } from '#test/http/sample-server.ts';
import * as a from '#test/support/orders.ts';

/** One order, and a saga whose state the test sets. */
function setUp(...events: readonly OrderEvent[]) {
  const eventStore: EventStore = {
    readStream: async (streamId) =>
      events.map(({ type, data }, index) => ({
        streamId,
        type,
        data,
        schemaVersion: 1,
        version: index + 1,
        position: index + 1,
        metadata: { correlationId: 'c', actor: 'a' },
        recordedAt: '2026-01-31T12:00:00.000Z',
      })),
  };
  let state: FulfilmentState = 'running';
  const server = sampleServer({
    // It may not see personal data, so that no database is needed.
    authentication: async () => ({ id: 'shop', scopes: new Set(['orders:read']) }),
    routes: async (app) => {
      await app.register(orderQueryRoutes, {
        eventStore,
        reads: createReadPool(new Pool()),
        fulfilmentStates: async ([orderId = '']) => new Map([[orderId, state]]),
        orderPageUrl: '',
      });
    },
  });
  const get = async (ifNoneMatch?: string) => {
    const { statusCode, headers, body } = await server.app.inject({
      url: `/v1/orders/${a.orderId}`,
      headers: { ...(ifNoneMatch !== undefined && { 'if-none-match': ifNoneMatch }) },
    });
    const shown = statusCode === 200 ? String(JSON.parse(body).fulfilment) : '';
    return `${statusCode} ${headers['etag']} ${shown}`.trim();
  };
  return {
    get,
    sagaIs: (now: FulfilmentState) => {
      state = now;
    },
    [Symbol.asyncDispose]: server[Symbol.asyncDispose],
  };
}

describe('an order whose fulfilment is running', () => {
  test('has another ETag while its saga has news, and is otherwise not sent again', async () => {
    await using order = setUp(a.placed, a.fulfilmentStarted);
    expect(await order.get()).toBe('200 "v2" running');
    expect(await order.get('"v2"')).toBe('304 "v2"');
    order.sagaIs('stuck');
    expect(await order.get('"v2"')).toBe('200 "v2-stuck" stuck');
    expect(await order.get('"v2-stuck"')).toBe('304 "v2-stuck"');
    order.sagaIs('running');
    expect(await order.get('"v2-stuck"')).toBe('200 "v2" running');
    order.sagaIs('compensating');
    expect(await order.get('"v2", "v2-stuck"')).toBe('200 "v2-compensating" compensating');
  });

  test('has the ETag of its version if its saga has no news', async () => {
    await using order = setUp(a.placed, a.fulfilmentStarted, a.cancellationRequested);
    order.sagaIs('compensating');
    expect(await order.get()).toBe('200 "v3" compensating');
    order.sagaIs('stuck');
    expect(await order.get('"v3"')).toBe('200 "v3-stuck" stuck');
  });
});
