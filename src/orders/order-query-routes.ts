import type { FastifyReply } from 'fastify';
import type { FastifyPluginAsyncZod } from 'fastify-type-provider-zod';
import { z } from 'zod';
import type { Principal } from '#src/auth/principal.ts';
import type { StoredEvent } from '#src/event-store/event-store.ts';
import { versionETag } from '#src/http/entity-tags.ts';
import { instant, queryInteger } from '#src/http/fields.ts';
import { preferredType } from '#src/http/media-types.ts';
import { response } from '#src/http/openapi.ts';
import { Problem, problemKind } from '#src/http/problem.ts';
import { addVary, sendText } from '#src/http/responses.ts';
import { toJson } from './domain/order.ts';
import { orderProblemKind, orderProblemKinds } from './order-problems.ts';
import { orderParams, readOrderResponse, ucpOrderResponse } from './order-schemas.ts';
import { COMBINATIONS, listOrders, listOrdersQuery } from './order-lists.ts';
import { orderPage } from './orders-summary.ts';
import { readEvents, readOrderNow, readOrderThen } from './read-order.ts';
import type { OrderRead, OrderReadDependencies } from './read-order.ts';
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

export type OrderRouteDependencies = OrderReadDependencies &
  Readonly<{
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
      'Send `version` or `at` to read an earlier state of the order. Without them, the order has ' +
      'shippingAddress and contact for a service with the scope `personal-data:read`, and for the customer ' +
      'whose order it is. With `Accept: application/ucp+json` the order is shown as the order object of the ' +
      'Universal Commerce Protocol. Each form has another ETag, and If-Match accepts all of them.',
    params: orderParams,
    querystring: getOrderQuery,
    response: {
      200: response(readOrderResponse, 'The order.', [], 'application/json', {
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
    description: `placedFrom and placedTo are inclusive. nextCursor is null on the last page. Filters: ${COMBINATIONS}.`,
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
export const orderQueryRoutes: FastifyPluginAsyncZod<OrderRouteDependencies> = async (
  app,
  dependencies,
) => {
  const { eventStore, reads, fulfilmentStates } = dependencies;
  app.get(
    '/v1/orders/:orderId',
    getOrder,
    async ({ params: { orderId }, query: { version, at }, principal, headers }, reply) => {
      const form = chooseForm(headers.accept, reply);
      const { customerId } = principal;
      const until = {
        ...(version !== undefined && { version }),
        ...(at !== undefined && { instant: at }),
      };
      const isNow = version === undefined && at === undefined;
      const read = isNow
        ? await readOrderNow(dependencies, orderId, principal)
        : await readOrderThen(eventStore, orderId, { customerId, ...until });
      addVary(reply, 'authorization');
      // Erasure does not reach caches.
      if (Object.keys(read.personalData).length > 0) reply.header('cache-control', 'no-store');
      if (form === UCP_MEDIA_TYPE) return sendUcp(reply, read, dependencies.orderPageUrl);
      const { order, personalData, etag } = read;
      return sendText(reply, { status: 200, etag, body: toJson(order, personalData) });
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
function sendUcp(
  reply: FastifyReply,
  { order, personalData, etag }: OrderRead,
  orderPageUrl: string,
) {
  const permalinkUrl = orderPageUrl.replaceAll('{orderId}', order.orderId);
  return sendText(reply, {
    status: 200,
    etag: etag.replace(/"$/, '-ucp"'),
    body: JSON.stringify(toUcpOrder(order, { permalinkUrl, ...personalData })),
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
