import type { FastifyReply } from 'fastify';
import type { FastifyPluginAsyncZod } from 'fastify-type-provider-zod';
import { z } from 'zod';
import type { Principal } from '#src/auth/principal.ts';
import type { ReadPool } from '#src/database/database.ts';
import type { EventStore, ReadFilter, StoredEvent } from '#src/event-store/event-store.ts';
import { versionETag } from '#src/http/entity-tags.ts';
import { instant, queryInteger } from '#src/http/fields.ts';
import { preferredType } from '#src/http/media-types.ts';
import { response } from '#src/http/openapi.ts';
import { Problem, problemKind } from '#src/http/problem.ts';
import { addVary, sendText } from '#src/http/responses.ts';
import { ORDER_CATEGORY } from './domain/order-events.ts';
import { toJson } from './domain/order.ts';
import type { FulfilmentState, Order } from './domain/order.ts';
import { orderProblemKind, orderProblemKinds } from './order-problems.ts';
import { orderParams, orderResponse, ucpOrderResponse } from './order-schemas.ts';
import { foldOrder } from './order-stream.ts';
import { listOrders, listOrdersQuery, orderPage } from './orders-summary.ts';
import { toUcpOrder, UCP_MEDIA_TYPE } from './ucp-order.ts';

const getOrderQuery = z
  .strictObject({
    version: queryInteger(1, 2_147_483_647)
      .optional()
      .meta({ description: 'Read the order as it was at this version. Not together with `at`.' }),
    at: instant
      .optional()
      .meta({ description: 'Read the order as it was at this time. Not together with `version`.' }),
  })
  .refine(({ version, at }) => version === undefined || at === undefined, {
    error: 'version and at exclude each other',
    path: ['at'],
  });

const orderHistory = z.object({
  data: z.array(
    z.object({
      version: z.int().min(1),
      position: z.int(),
      type: z.string(),
      schemaVersion: z.int(),
      data: z.record(z.string(), z.unknown()),
      metadata: z.object({
        correlationId: z.string(),
        causationId: z.string().optional(),
        actor: z
          .string()
          .describe(
            'The principal of the request; `other` to a customer, if it was not the customer.',
          ),
        traceparent: z.string().optional(),
      }),
      recordedAt: instant,
    }),
  ),
});

export type OrderReadDependencies = Readonly<{
  eventStore: EventStore;
  reads: ReadPool;
  /** How far the sagas of these orders are, for those that have one. */
  fulfilmentStates: (orderIds: readonly string[]) => Promise<ReadonlyMap<string, FulfilmentState>>;
  /** Where a customer sees an order, with `{orderId}`. */
  orderPageUrl: string;
}>;

const tags = ['Orders'];
const access = { scope: 'orders:read', customers: true } as const;

const getOrder = {
  schema: {
    operationId: 'getOrder',
    tags,
    summary: 'Read an order, now or at an earlier time',
    description:
      'Send `version` or `at` to read an earlier state of the order. With `Accept: application/ucp+json` the ' +
      'order is shown as the order object of the Universal Commerce Protocol. Its ETag is another one, which ' +
      'If-Match accepts as well.',
    params: orderParams,
    querystring: getOrderQuery,
    response: {
      200: response(orderResponse, 'The order.', [], 'application/json', {
        [UCP_MEDIA_TYPE]: ucpOrderResponse,
      }),
    },
  },
  config: {
    access,
    problems: [
      problemKind('not_acceptable'),
      ...orderProblemKinds('order_not_found', 'order_version_not_found', 'database_unavailable'),
    ],
  },
};
const getOrders = {
  schema: {
    operationId: 'listOrders',
    tags,
    summary: 'List orders, newest first',
    description: 'placedFrom and placedTo are inclusive. nextCursor is null on the last page.',
    querystring: listOrdersQuery,
    response: { 200: response(orderPage, 'A page of orders, without their items.') },
  },
  config: { access, problems: orderProblemKinds('cursor_invalid', 'database_unavailable') },
};
const getOrderEvents = {
  schema: {
    operationId: 'listOrderEvents',
    tags,
    summary: 'Read the history of an order',
    description: 'Every event of the order as it is stored, oldest first.',
    params: orderParams,
    response: { 200: response(orderHistory, 'The events.') },
  },
  config: { access, problems: orderProblemKinds('order_not_found', 'database_unavailable') },
};

/** What is known of orders over HTTP. */
export const orderQueryRoutes: FastifyPluginAsyncZod<OrderReadDependencies> = async (
  app,
  { eventStore, reads, fulfilmentStates, orderPageUrl },
) => {
  app.get(
    '/v1/orders/:orderId',
    getOrder,
    async ({ params: { orderId }, query: { version, at }, principal, headers }, reply) => {
      const form = chooseForm(headers.accept, reply);
      const until = {
        customerId: principal.customerId,
        ...(version !== undefined && { version }),
        ...(at !== undefined && { instant: at }),
      };
      const order = await readOrder(eventStore, orderId, until);
      const isNow = version === undefined && at === undefined;
      const news = isNow ? await sagaNews(order, fulfilmentStates) : undefined;
      const etag = versionETag(order.version, news);
      if (form === UCP_MEDIA_TYPE) return sendUcp(reply, order, etag, orderPageUrl);
      const body = toJson(news ? { ...order, fulfilment: news } : order);
      return sendText(reply, { status: 200, etag, body });
    },
  );
  app.get('/v1/orders', getOrders, async ({ query, principal }, reply) => {
    const { limit, cursor, ...filter } = query;
    const page = { limit, cursor, customerId: principal.customerId };
    const { data, nextCursor } = await listOrders(reads, filter, page);
    const states = await fulfilmentStates(data.map(({ orderId }) => orderId));
    const withStates = data.map((order) => {
      const fulfilment = states.get(order.orderId);
      return fulfilment ? Object.assign(order, { fulfilment }) : order;
    });
    return reply.send({ data: withStates, nextCursor });
  });
  app.get('/v1/orders/:orderId/events', getOrderEvents, async ({ params, principal }, reply) => {
    const { customerId } = principal;
    const events = await readEvents(eventStore, params.orderId, { customerId });
    if (events.length === 0) throw new Problem(orderProblemKind('order_not_found'));
    const data = events.map((event) => toHistoryEntry(event, principal));
    const body = JSON.stringify({ data });
    return sendText(reply, { status: 200, etag: versionETag(events.length), body });
  });
};

/** @throws Problem `not_acceptable` */
function chooseForm(accept: string | undefined, reply: FastifyReply): string {
  addVary(reply, 'accept');
  const form = preferredType(accept, ['application/json', UCP_MEDIA_TYPE]);
  if (form === undefined) throw new Problem(problemKind('not_acceptable'));
  return form;
}

/** The tag of another form is another one. As If-Match it means the same version. */
function sendUcp(reply: FastifyReply, order: Order, etag: string, orderPageUrl: string) {
  const permalinkUrl = orderPageUrl.replaceAll('{orderId}', order.orderId);
  return sendText(reply, {
    status: 200,
    etag: etag.replace(/"$/, '-ucp"'),
    body: JSON.stringify(toUcpOrder(order, { permalinkUrl })),
    mediaType: `${UCP_MEDIA_TYPE}; charset=utf-8`,
  });
}

/** To a customer, whoever else acted on the order is `other`: the subject of a JWT may name a person. */
function toHistoryEntry(event: StoredEvent, { id, customerId }: Principal) {
  const { version, position, type, schemaVersion, data, recordedAt } = event;
  const isHidden = customerId !== undefined && event.metadata.actor !== id;
  const metadata = { ...event.metadata, ...(isHidden && { actor: 'other' }) };
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
  const first = { version: 1, customerId: until.customerId };
  const isKnown = order ?? (await readEvents(eventStore, orderId, first)).length > 0;
  throw new Problem(orderProblemKind(isKnown ? 'order_version_not_found' : 'order_not_found'));
}

function readEvents(
  eventStore: EventStore,
  orderId: string,
  until: Omit<ReadFilter, 'category'>,
): Promise<StoredEvent[]> {
  return eventStore.readStream(orderId, { ...until, category: ORDER_CATEGORY });
}

/** What only the saga knows, while it is alive: that it is stuck, or on its way back. */
async function sagaNews(
  { orderId, fulfilment }: Order,
  fulfilmentStates: OrderReadDependencies['fulfilmentStates'],
): Promise<FulfilmentState | undefined> {
  if (fulfilment !== 'running' && fulfilment !== 'compensating') return undefined;
  const state = (await fulfilmentStates([orderId])).get(orderId);
  const isNews = (state === 'stuck' || state === 'compensating') && state !== fulfilment;
  return isNews ? state : undefined;
}
