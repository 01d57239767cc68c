import type { ReadPool } from '#src/database/database.ts';
import type { EventStore, ReadFilter, StoredEvent } from '#src/event-store/event-store.ts';
import { versionETag } from '#src/http/entity-tags.ts';
import { route } from '#src/http/route.ts';
import type { Route } from '#src/http/route.ts';
import { toJson } from './domain/order.ts';
import type { FulfilmentState, Order } from './domain/order.ts';
import { orderProblem, orderProblemKinds, refusalKind, toOrderProblem } from './order-problems.ts';
import {
  getOrderQuery,
  listOrdersQuery,
  orderResponse,
  orderEvents,
  orderPage,
  orderParams,
} from './order-schemas.ts';
import { ORDER_CATEGORY, foldOrder } from './order-stream.ts';
import { listOrders } from './orders-summary.ts';

export type OrderReadDependencies = Readonly<{
  eventStore: EventStore;
  reads: ReadPool;
  /** How far the sagas of these orders are, for those that have one. */
  fulfilmentStates: (orderIds: readonly string[]) => Promise<ReadonlyMap<string, FulfilmentState>>;
}>;

const { databaseUnavailable, versionNotFound, cursorInvalid } = orderProblemKinds;

/** What is known of orders over HTTP. */
export function orderQueryRoutes(dependencies: OrderReadDependencies): Route[] {
  return [
    getOrderRoute(dependencies),
    listOrdersRoute(dependencies),
    orderEventsRoute(dependencies),
  ];
}

function getOrderRoute({ eventStore, fulfilmentStates }: OrderReadDependencies): Route {
  return route({
    method: 'GET',
    path: '/v1/orders/{orderId}',
    operationId: 'getOrder',
    tag: 'Orders',
    summary: 'Read an order, now or at an earlier time',
    description: 'Send `version` or `at` to read an earlier state of the order.',
    params: orderParams,
    query: getOrderQuery,
    answers: { 200: { description: 'The order.', schema: orderResponse } },
    problems: [refusalKind('order_not_found'), versionNotFound, databaseUnavailable],
    handle: async ({ params, query }) => {
      const order = await readOrder(eventStore, params.orderId, {
        ...(query.version !== undefined && { version: query.version }),
        ...(query.at !== undefined && { instant: query.at }),
      });
      const isNow = query.version === undefined && query.at === undefined;
      const news = isNow ? await sagaNews(order, fulfilmentStates) : undefined;
      const text = toJson(news ? { ...order, fulfilment: news } : order);
      const etag = versionETag(order.version, news);
      return { status: 200, text, headers: { etag } };
    },
  });
}

function listOrdersRoute({ reads, fulfilmentStates }: OrderReadDependencies): Route {
  return route({
    method: 'GET',
    path: '/v1/orders',
    operationId: 'listOrders',
    tag: 'Orders',
    summary: 'List orders, newest first',
    description: 'placedFrom and placedTo are inclusive. nextCursor is null on the last page.',
    query: listOrdersQuery,
    answers: { 200: { description: 'A page of orders, without their items.', schema: orderPage } },
    problems: [cursorInvalid, databaseUnavailable],
    handle: async ({ query: { limit, cursor, ...filter } }) => {
      const { data, nextCursor } = await attempt(listOrders(reads, filter, limit, cursor));
      const states = await attempt(fulfilmentStates(data.map(({ orderId }) => orderId)));
      const withStates = data.map((order) => {
        const fulfilment = states.get(order.orderId);
        return fulfilment ? Object.assign(order, { fulfilment }) : order;
      });
      return { status: 200, body: { data: withStates, nextCursor } };
    },
  });
}

function orderEventsRoute({ eventStore }: OrderReadDependencies): Route {
  return route({
    method: 'GET',
    path: '/v1/orders/{orderId}/events',
    operationId: 'listOrderEvents',
    tag: 'Orders',
    summary: 'Read the history of an order',
    description: 'Every event of the order as it is stored, oldest first.',
    params: orderParams,
    answers: { 200: { description: 'The events.', schema: orderEvents } },
    problems: [refusalKind('order_not_found'), databaseUnavailable],
    handle: async ({ params }) => {
      const events = await readEvents(eventStore, params.orderId);
      if (events.length === 0) throw orderProblem(refusalKind('order_not_found'));
      const etag = versionETag(events.length);
      const text = JSON.stringify({ data: events.map(toHistoryEntry) });
      return { status: 200, text, headers: { etag } };
    },
  });
}

function toHistoryEntry(event: StoredEvent) {
  const { version, position, type, schemaVersion, data, metadata, recordedAt } = event;
  return { version, position, type, schemaVersion, data, metadata, recordedAt };
}

async function readOrder(
  eventStore: EventStore,
  orderId: string,
  until: Omit<ReadFilter, 'category'>,
): Promise<Order> {
  const order = foldOrder(await readEvents(eventStore, orderId, until));
  const reached = until.version === undefined || order?.version === until.version;
  if (order && reached) return order;
  const isKnown = order ?? (await readEvents(eventStore, orderId, { version: 1 })).length > 0;
  throw orderProblem(isKnown ? versionNotFound : refusalKind('order_not_found'));
}

function readEvents(
  eventStore: EventStore,
  orderId: string,
  until: Omit<ReadFilter, 'category'> = {},
): Promise<StoredEvent[]> {
  return attempt(eventStore.readStream(orderId, { ...until, category: ORDER_CATEGORY }));
}

/** What only the saga knows, while it is alive: that it is stuck, or on its way back. */
async function sagaNews(
  { orderId, fulfilment }: Order,
  fulfilmentStates: OrderReadDependencies['fulfilmentStates'],
): Promise<FulfilmentState | undefined> {
  if (fulfilment !== 'running' && fulfilment !== 'compensating') return undefined;
  const state = (await attempt(fulfilmentStates([orderId]))).get(orderId);
  const isNews = (state === 'stuck' || state === 'compensating') && state !== fulfilment;
  return isNews ? state : undefined;
}

async function attempt<Result>(read: Promise<Result>): Promise<Result> {
  try {
    return await read;
  } catch (error) {
    throw toOrderProblem(error);
  }
}
