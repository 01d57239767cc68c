import type { FastifyPluginAsyncZod } from 'fastify-type-provider-zod';
import { z } from 'zod';
import { safeText } from '#src/http/fields.ts';
import { response } from '#src/http/openapi.ts';
import { Problem } from '#src/http/problem.ts';
import type { ProblemKind } from '#src/http/problem.ts';
import { guardedHeaders, matchingHeaders } from '#src/http/request-head.ts';
import type { Order } from '#src/orders/domain/order.ts';
import { orderProblemKind, orderProblemKinds } from '#src/orders/order-problems.ts';
import { orderParams } from '#src/orders/order-schemas.ts';
import { foldOrder } from '#src/orders/order-stream.ts';
import { readEvents } from '#src/orders/read-order.ts';
import { decideRetry } from '#src/sagas/saga-operator.ts';
import {
  listRefunds,
  readRefundRow,
  refundList,
  refundResponse,
  toRecordedRefund,
  toRefundView,
} from './refund-view.ts';
import {
  operate,
  operatorAccess,
  operatorProblems,
  readSaga,
  resolveBody,
  resolvedAs,
  sagaProblemKind,
} from './saga-operation.ts';
import type { SagaAccess, ShownSaga } from './saga-operation.ts';

const notFound = sagaProblemKind('refund_not_found');
const notStuck = sagaProblemKind('refund_not_stuck');
const problems = [notFound, notStuck, ...operatorProblems];
const readAccess = { scope: 'orders:read', customers: true } as const;

const refundParams = z.strictObject({ ...orderParams.shape, refundId: safeText(1, 100) });
const common = { tags: ['Refunds'], params: refundParams };
const goesOn = {
  202: response(refundResponse, 'The refund, which continues.', ['ETag', 'Idempotency-Replayed']),
};
const getRefunds = {
  tags: ['Refunds'],
  params: orderParams,
  operationId: 'listRefunds',
  summary: 'List the refunds of an order',
  description: 'Those that the provider is asked for, and those that were made elsewhere.',
  response: { 200: response(refundList, 'The refunds, 100 at most.') },
};
const getRefund = {
  ...common,
  operationId: 'getRefund',
  summary: 'Read a refund of an order',
  description:
    'Shows how the provider is asked for it: the key, the attempts and their outcome. `open` lists what ' +
    'it is stuck at. Send the ETag as If-Match of retry and resolve.',
  response: { 200: response(refundResponse, 'The refund.') },
};
const retryRefund = {
  ...common,
  operationId: 'retryRefund',
  summary: 'Retry a stuck refund',
  description: 'The provider is asked again, under the same key: it looks the key up first.',
  headers: guardedHeaders,
  response: goesOn,
};
const resolveRefund = {
  ...common,
  operationId: 'resolveRefund',
  summary: 'Tell a stuck refund its outcome',
  description:
    'Ask the provider first: the service does not check what you send. With the outcome `notDone` the ' +
    'refund has failed, and the amount can be refunded anew. If-Match is required: send the ETag of the ' +
    'refund, so that the outcome applies to the attempt that you looked at.',
  headers: matchingHeaders,
  body: resolveBody,
  response: goesOn,
};

/** The refunds of an order over HTTP: watched and repaired. */
export const refundRoutes: FastifyPluginAsyncZod<SagaAccess> = async (app, access) => {
  const { reads } = access;
  app.get(
    '/v1/orders/:orderId/refunds',
    {
      schema: getRefunds,
      config: {
        access: readAccess,
        problems: orderProblemKinds('order_not_found', 'database_unavailable'),
      },
    },
    async ({ params, principal }) => {
      const missing = orderProblemKind('order_not_found');
      return listRefunds(
        reads,
        await requireOrder(access, params.orderId, missing, principal.customerId),
      );
    },
  );
  app.get(
    '/v1/orders/:orderId/refunds/:refundId',
    {
      schema: getRefund,
      config: {
        access: readAccess,
        problems: [notFound, ...orderProblemKinds('database_unavailable')],
      },
    },
    async ({ params, principal }, reply) => {
      const { order, refund } = await requireRefund(access, params, principal.customerId);
      const row = refund.sagaId === undefined ? null : await readRefundRow(reads, refund.sagaId);
      if (!row) return reply.send(toRecordedRefund(order, refund));
      const { view, etag } = await readSaga(access, row, toRefundView(order, refund));
      return reply.header('etag', etag).send(view);
    },
  );
  app.post(
    '/v1/orders/:orderId/refunds/:refundId/retry',
    { schema: retryRefund, config: { access: operatorAccess, problems } },
    (request, reply) => {
      const find = () => findRefund(access, request.params);
      return operate(access, find, request, reply, decideRetry);
    },
  );
  app.post(
    '/v1/orders/:orderId/refunds/:refundId/resolve',
    {
      schema: resolveRefund,
      config: {
        access: operatorAccess,
        problems: [...problems, sagaProblemKind('step_not_open')],
      },
    },
    (request, reply) => {
      const find = () => findRefund(access, request.params);
      return operate(access, find, request, reply, resolvedAs(request.body));
    },
  );
};

type RefundId = z.infer<typeof refundParams>;

/** @throws Problem if there is no such order, or if it is not the customer's */
async function requireOrder(
  { eventStore }: SagaAccess,
  orderId: string,
  missing: ProblemKind,
  customerId: string | undefined,
): Promise<Order> {
  const order = foldOrder(await readEvents(eventStore, orderId, { customerId }));
  if (!order) throw new Problem(missing);
  return order;
}

/** @throws Problem `refund_not_found` */
async function requireRefund(
  access: SagaAccess,
  { orderId, refundId }: RefundId,
  customerId?: string,
) {
  const order = await requireOrder(access, orderId, notFound, customerId);
  const refund = order.refunds.find((known) => known.refundId === refundId);
  if (!refund) throw new Problem(notFound);
  return { order, refund };
}

/** @throws Problem `refund_not_found`, or `refund_not_stuck` for one that was only recorded */
async function findRefund(access: SagaAccess, id: RefundId): Promise<ShownSaga> {
  const { order, refund } = await requireRefund(access, id);
  const row = refund.sagaId === undefined ? null : await readRefundRow(access.reads, refund.sagaId);
  if (!row) throw new Problem(notStuck, { extra: { state: refund.state } });
  return { orderId: id.orderId, row, show: toRefundView(order, refund) };
}
