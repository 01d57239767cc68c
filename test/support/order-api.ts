import { historyOf, orderOf, pageOf } from './api-shapes.ts';
import type { History, Order, OrderRow } from './api-shapes.ts';
import { createHttpClient } from './http-client.ts';
import type { HttpResponse, HttpClient } from './http-client.ts';

/** Headers that a command may carry. */
export type CommandOptions = Readonly<{ key?: string; ifMatch?: string; signal?: AbortSignal }>;
export type CommandName = 'pay' | 'ship' | 'deliver' | 'return' | 'cancel' | 'refund';

/** The API of orders. A method that returns an `HttpResponse` accepts any status; the others require a 2xx. */
export type OrderApi = HttpClient &
  Readonly<{
    place(body: unknown, options?: CommandOptions): Promise<HttpResponse>;
    send(
      name: CommandName,
      orderId: string,
      body: unknown,
      o?: CommandOptions,
    ): Promise<HttpResponse>;
    get(orderId: string, query?: string): Promise<Order>;
    list(query?: Readonly<Record<string, string>>): Promise<ReturnType<typeof pageOf>>;
    /** All orders that match the filters. Reads page by page. */
    listAll(query?: Readonly<Record<string, string>>): Promise<OrderRow[]>;
    history(orderId: string): Promise<History['data']>;
    placeOrder(body?: Partial<PlaceBody>): Promise<Order>;
    pay(order: Order): Promise<Order>;
    ship(order: Order): Promise<Order>;
    cancel(order: Order): Promise<Order>;
  }>;

export type PlaceBody = Readonly<{
  customerId: string;
  currency: string;
  items: ReadonlyArray<Readonly<{ sku: string; quantity: number; priceCents: number }>>;
}>;

/** Two lines, 2500 cents. */
export const placeBody: PlaceBody = {
  customerId: 'c-1',
  currency: 'EUR',
  items: [
    { sku: 'book', quantity: 2, priceCents: 1000 },
    { sku: 'pen', quantity: 5, priceCents: 100 },
  ],
};

/** What an automatic fulfilment needs to know of an order. */
export const deliverable = {
  payment: { method: 'pm_card_ok' },
  shippingAddress: {
    name: 'Ada Example',
    line1: '1 Sample Street',
    postalCode: '10115',
    city: 'Berlin',
    country: 'DE',
  },
} as const;

export function createOrderApi(url: string, headers?: Readonly<Record<string, string>>): OrderApi {
  const client = createHttpClient(url, headers);
  const { request } = client;
  const place: OrderApi['place'] = (body, options) =>
    request('POST', '/v1/orders', { body, ...commandParts(options) });
  const send: OrderApi['send'] = (name, orderId, body, options) =>
    request('POST', `/v1/orders/${orderId}/${name}`, { body, ...commandParts(options) });
  const list: OrderApi['list'] = async (query = {}) =>
    pageOf(await request('GET', `/v1/orders?${new URLSearchParams(query).toString()}`));
  return {
    ...client,
    place,
    send,
    list,
    get: async (orderId, query = '') =>
      orderOf(await request('GET', `/v1/orders/${orderId}${query}`)),
    listAll: async (query) => {
      const rows: OrderRow[] = [];
      for (let cursor: string | null = ''; cursor !== null;) {
        const page = await list({ limit: '100', ...query, ...(cursor !== '' && { cursor }) });
        rows.push(...page.data);
        cursor = page.nextCursor;
      }
      return rows;
    },
    history: async (orderId) =>
      historyOf(await request('GET', `/v1/orders/${orderId}/events`)).data,
    placeOrder: async (body) => orderOf(await place({ ...placeBody, ...body })),
    pay: async ({ orderId, totalCents }) =>
      orderOf(await send('pay', orderId, { paymentId: 'pay-1', amountCents: totalCents })),
    ship: async ({ orderId }) =>
      orderOf(await send('ship', orderId, { trackingNumber: 'T-1', carrier: 'post' })),
    cancel: async ({ orderId }) => orderOf(await send('cancel', orderId, { reason: 'wrong size' })),
  };
}

function commandParts({ key, ifMatch, signal }: CommandOptions = {}) {
  return {
    headers: {
      ...(key !== undefined && { 'idempotency-key': key }),
      ...(ifMatch !== undefined && { 'if-match': ifMatch }),
    },
    ...(signal && { signal }),
  };
}
