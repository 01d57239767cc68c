import pino from 'pino';
import { z } from 'zod';
import { fulfilmentRoutes } from '#src/fulfilment/fulfilment-routes.ts';
import { refundRoutes } from '#src/fulfilment/refund-routes.ts';
import { inventoryRoutes } from '#src/fulfilment/inventory-routes.ts';
import { createInFlight } from '#src/http/idempotency.ts';
import { createServer } from '#src/http/server.ts';
import { orderCommandRoutes } from '#src/orders/order-command-routes.ts';
import { toProblem } from '#src/to-problem.ts';
import type { SagaWorld } from '#test/support/saga/world.ts';
import { createService } from './fulfilment-service.ts';
import type { Changes } from './fulfilment-service.ts';
import { deliverable } from '#test/support/order-api.ts';

/** Two books of 1250 cents each. */
export const order = {
  customerId: 'c-1',
  currency: 'EUR',
  items: [{ sku: 'book', quantity: 2, priceCents: 1250 }],
  ...deliverable,
};

/** For a resolve that is right whatever the fulfilment has come to. */
export const ANY = { 'if-match': '*' };

/** What the tests read of responses; all the rest is compared as it came. */
const responseShape = z.looseObject({
  orderId: z.string().default(''),
  sagaId: z.string().default(''),
  steps: z.array(z.looseObject({ step: z.string(), state: z.string() })).default([]),
  data: z.array(z.looseObject({ sku: z.string().default('') })).default([]),
  nextCursor: z.string().nullable().default(null),
});

/** The service with the routes of orders, fulfilments and stock. */
export async function createApi(world: SagaWorld, changes: Changes = {}) {
  const service = createService(world, changes);
  const { handle, commit, fulfilment, eventStore, reads } = service;
  const inFlight = createInFlight();
  const sagaAccess = { inFlight, commit, fulfilment, eventStore, reads };
  const server = createServer({
    log: pino({ level: 'silent' }),
    authentication: 'off',
    toProblem,
  });
  await server
    .register(orderCommandRoutes, {
      handle: (request) => handle(request.orderId, request.command, request),
      inFlight,
      toProblem,
      countCommand: () => {},
    })
    .register(fulfilmentRoutes, sagaAccess)
    .register(refundRoutes, sagaAccess)
    .register(inventoryRoutes, { reads, writes: service.pool, inFlight });
  const url = await server.listen({ host: '127.0.0.1', port: 0 });
  await service.start();
  const call = async (
    method: string,
    path: string,
    sent?: unknown,
    headers: Readonly<Record<string, string>> = {},
  ) => {
    const isJson = sent !== undefined;
    const response = await fetch(url + path, {
      method,
      headers: { ...(isJson && { 'content-type': 'application/json' }), ...headers },
      ...(isJson && { body: JSON.stringify(sent) }),
    });
    const text = await response.text();
    const body = responseShape.parse(text === '' ? {} : JSON.parse(text));
    return { status: response.status, headers: response.headers, body, text };
  };
  return {
    service,
    call,
    place: async (fulfilment?: string, changes?: Readonly<Record<string, unknown>>) =>
      (await call('POST', '/v1/orders', { ...order, ...changes, fulfilment })).body.orderId,
    async [Symbol.asyncDispose]() {
      await server.close();
      await service[Symbol.asyncDispose]();
    },
  };
}
