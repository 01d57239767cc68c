import { z } from 'zod';
import { createHttpClient } from '../http-client.ts';
import type { HttpResponse, HttpClient } from '../http-client.ts';
import { deliverable } from '../order-api.ts';

const orderShape = z.looseObject({
  orderId: z.string(),
  status: z.enum(['pending', 'paid', 'shipped', 'cancelled']),
  version: z.int(),
  capturedCents: z.int(),
  refundedCents: z.int(),
  fulfilment: z.string().optional(),
  cancellationRequestedAt: z.string().optional(),
});
const fulfilmentShape = z.strictObject({
  sagaId: z.uuid(),
  orderId: z.uuid(),
  definitionVersion: z.int(),
  state: z.enum(['running', 'compensating', 'stuck', 'completed', 'compensated']),
  reason: z.string().min(1).optional(),
  steps: z.array(z.looseObject({ step: z.string(), state: z.string(), attempts: z.int() })),
  open: z.array(z.strictObject({ step: z.string(), reason: z.string().min(1) })),
  startedAt: z.iso.datetime({ precision: 3 }),
  updatedAt: z.iso.datetime({ precision: 3 }),
});
const refundsShape = z.strictObject({
  data: z.array(
    z.looseObject({
      refundId: z.string(),
      state: z.enum(['requested', 'stuck', 'refunded', 'failed']),
      amountCents: z.int(),
      sagaId: z.uuid().optional(),
    }),
  ),
});
const problemShape = z.looseObject({ status: z.int(), code: z.string(), detail: z.string() });

export type FulfilledOrder = z.infer<typeof orderShape>;
export type RefundInList = z.infer<typeof refundsShape>['data'][number];
export type FulfilmentResponse = z.infer<typeof fulfilmentShape>;

type Item = Readonly<{ sku: string; quantity: number; priceCents: number }>;

/** Orders and their fulfilment over HTTP. A method that returns an `HttpResponse` accepts any status. */
export type SagaApi = HttpClient &
  Readonly<{
    place(
      items?: readonly Item[],
      options?: Readonly<{ fulfilment?: 'manual' | 'automatic'; key?: string }>,
    ): Promise<HttpResponse>;
    /** Placed and accepted; the orderId. */
    placed(items?: readonly Item[], fulfilment?: 'manual' | 'automatic'): Promise<string>;
    command(name: string, orderId: string, body?: unknown): Promise<HttpResponse>;
    order(orderId: string): Promise<FulfilledOrder>;
    fulfilment(orderId: string): Promise<FulfilmentResponse>;
    refunds(orderId: string): Promise<readonly RefundInList[]>;
  }>;

/** Two books of 1250 cents each. */
export const TWO_BOOKS: readonly Item[] = [{ sku: 'book', quantity: 2, priceCents: 1250 }];

export function createSagaApi(url: string, headers?: Readonly<Record<string, string>>): SagaApi {
  const client = createHttpClient(url, headers);
  const { request } = client;
  const place: SagaApi['place'] = (items = TWO_BOOKS, { fulfilment, key } = {}) =>
    request('POST', '/v1/orders', {
      body: {
        customerId: 'c-1',
        currency: 'EUR',
        items,
        ...deliverable,
        ...(fulfilment && { fulfilment }),
      },
      ...(key !== undefined && { headers: { 'idempotency-key': key } }),
    });
  return {
    ...client,
    place,
    placed: async (items, fulfilment = 'automatic') =>
      read(await place(items, { fulfilment }), orderShape).orderId,
    command: (name, orderId, body) =>
      request('POST', `/v1/orders/${orderId}/${name}`, {
        ...(body !== undefined && { body }),
        // A word on a fulfilment needs to say which attempt it is about; here it is the newest.
        ...(name.endsWith('/resolve') && { headers: { 'if-match': '*' } }),
      }),
    order: async (orderId) => read(await request('GET', `/v1/orders/${orderId}`), orderShape),
    refunds: async (orderId) =>
      read(await request('GET', `/v1/orders/${orderId}/refunds`), refundsShape).data,
    fulfilment: async (orderId) =>
      read(await request('GET', `/v1/orders/${orderId}/fulfilment`), fulfilmentShape),
  };
}

/** The order of a 2xx response. */
export function orderIn(response: HttpResponse): FulfilledOrder {
  return read(response, orderShape);
}

/** What a 4xx or 5xx response says went wrong: its status and its code. */
export function refusalOf({ status, text }: HttpResponse): string {
  const problem = problemShape.parse(JSON.parse(text));
  if (problem.status !== status) throw new Error(`status ${status} with the problem ${text}`);
  return `${status} ${problem.code}`;
}

function read<T>({ status, text }: HttpResponse, shape: z.ZodType<T>): T {
  if (status < 200 || status > 299) throw new Error(`got ${status}: ${text.slice(0, 1000)}`);
  return shape.parse(JSON.parse(text));
}
