import type { FastifyPluginAsyncZod } from 'fastify-type-provider-zod';
import type { ReadPool } from '#src/database/database.ts';
import { response } from '#src/http/openapi.ts';
import { Problem } from '#src/http/problem.ts';
import { guardedHeaders, matchingHeaders } from '#src/http/request-head.ts';
import { orderProblemKinds } from '#src/orders/order-problems.ts';
import { orderParams } from '#src/orders/order-schemas.ts';
import { decideRetry } from '#src/sagas/saga-operator.ts';
import { fulfilmentResponse, readFulfilmentRow, toFulfilmentView } from './fulfilment-view.ts';
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

const notFound = sagaProblemKind('fulfilment_not_found');
const problems = [notFound, sagaProblemKind('fulfilment_not_stuck'), ...operatorProblems];

const common = { tags: ['Fulfilment'], params: orderParams };
const goesOn = {
  202: response(fulfilmentResponse, 'The fulfilment, which continues.', [
    'ETag',
    'Idempotency-Replayed',
  ]),
};
const getFulfilment = {
  ...common,
  operationId: 'getFulfilment',
  summary: 'Read the fulfilment of an order',
  description:
    'Shows every step with its key, its attempts and their outcome. `open` lists the steps that the ' +
    'fulfilment is stuck at. Send the ETag as If-Match of retry and resolve.',
  response: { 200: response(fulfilmentResponse, 'The fulfilment.') },
};
const retryFulfilment = {
  ...common,
  operationId: 'retryFulfilment',
  summary: 'Retry the open steps of a stuck fulfilment',
  headers: guardedHeaders,
  response: goesOn,
};
const resolveFulfilment = {
  ...common,
  operationId: 'resolveFulfilment',
  summary: 'Tell a stuck fulfilment the outcome of a step',
  description:
    'Ask the provider first: the service does not check what you send. A refund with the outcome ' +
    '`notDone` is made again under a new key. If-Match is required: send the ETag of the fulfilment, so ' +
    'that the outcome applies to the attempt that you looked at.',
  headers: matchingHeaders,
  body: resolveBody,
  response: goesOn,
};

/** The fulfilment of an order over HTTP: watched and repaired. */
export const fulfilmentRoutes: FastifyPluginAsyncZod<SagaAccess> = async (app, access) => {
  const find = (orderId: string) => () => findFulfilment(access.reads, orderId);
  app.get(
    '/v1/orders/:orderId/fulfilment',
    {
      schema: getFulfilment,
      config: {
        access: { scope: 'orders:read', customers: true },
        problems: [notFound, ...orderProblemKinds('database_unavailable')],
      },
    },
    async ({ params, principal }, reply) => {
      const row = await requireRow(access.reads, params.orderId, principal.customerId);
      const { view, etag } = await readSaga(access, row, toFulfilmentView);
      return reply.header('etag', etag).send(view);
    },
  );
  app.post(
    '/v1/orders/:orderId/fulfilment/retry',
    { schema: retryFulfilment, config: { access: operatorAccess, problems } },
    (request, reply) => operate(access, find(request.params.orderId), request, reply, decideRetry),
  );
  app.post(
    '/v1/orders/:orderId/fulfilment/resolve',
    {
      schema: resolveFulfilment,
      config: {
        access: operatorAccess,
        problems: [...problems, sagaProblemKind('step_not_open')],
      },
    },
    (request, reply) =>
      operate(access, find(request.params.orderId), request, reply, resolvedAs(request.body)),
  );
};

async function findFulfilment(reads: ReadPool, orderId: string): Promise<ShownSaga> {
  return { orderId, row: await requireRow(reads, orderId), show: toFulfilmentView };
}

/** @throws Problem `fulfilment_not_found` */
async function requireRow(reads: ReadPool, orderId: string, customerId?: string) {
  const row = await readFulfilmentRow(reads, orderId, customerId);
  if (!row) throw new Problem(notFound);
  return row;
}
