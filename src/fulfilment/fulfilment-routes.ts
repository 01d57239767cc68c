import { v7 as uuidv7 } from 'uuid';
import { z } from 'zod';
import { guardedHeaders, matchingHeaders } from '#src/http/command-headers.ts';
import { safeText } from '#src/http/fields.ts';
import { problemKinds } from '#src/http/problem-kinds.ts';
import { route } from '#src/http/route.ts';
import type { AnswerSpec, Route } from '#src/http/route.ts';
import { commandProblems, orderAnswered } from '#src/orders/order-command-routes.ts';
import { orderProblemKinds } from '#src/orders/order-problems.ts';
import { orderParams } from '#src/orders/order-schemas.ts';
import type { RunOrderCommand } from '#src/orders/run-order-command.ts';
import { decideResolve, decideRetry } from '#src/sagas/saga-operator.ts';
import { fulfilmentProblemKinds } from './fulfilment-problems.ts';
import { fulfilmentAnswer } from './fulfilment-view.ts';
import { operateFulfilment, readFulfilment } from './operate-fulfilment.ts';
import type { FulfilmentAccess, OperatorDecision } from './operate-fulfilment.ts';

export type FulfilmentRouteDependencies = FulfilmentAccess & Readonly<{ run: RunOrderCommand }>;

const resolveBody = z
  .strictObject({
    step: z.string().min(1).max(64),
    outcome: z.enum(['done', 'notDone']),
    reference: safeText(1, 100).optional().meta({
      description: 'The id that the provider gave it. Required if the outcome is `done`.',
    }),
    reason: safeText(1, 500),
  })
  .refine(({ outcome, reference }) => outcome === 'notDone' || reference !== undefined, {
    error: 'is needed where the step was done: what the provider calls it',
    path: ['reference'],
  });

const { notFound, notStuck, stepNotOpen } = fulfilmentProblemKinds;
const {
  clockOff,
  databaseUnavailable,
  fulfilmentOff,
  overloaded,
  outcomeUnknown,
  versionConflict,
} = orderProblemKinds;
const common = { params: orderParams, tag: 'Fulfilment' } as const;
const goesOn: AnswerSpec = {
  description: 'The fulfilment, which continues.',
  schema: fulfilmentAnswer,
  headers: ['ETag', 'Idempotency-Replayed'],
};
/** What an operator's word can meet. */
const operatorProblems = [
  notFound,
  notStuck,
  problemKinds.preconditionFailed,
  fulfilmentOff,
  versionConflict,
  overloaded,
  clockOff,
  databaseUnavailable,
  outcomeUnknown,
] as const;

/** The fulfilment of an order over HTTP: started, watched, repaired. */
export function fulfilmentRoutes(dependencies: FulfilmentRouteDependencies): Route[] {
  return [
    fulfilRoute(dependencies),
    getRoute(dependencies),
    retryRoute(dependencies),
    resolveRoute(dependencies),
  ];
}

function fulfilRoute({ run }: FulfilmentRouteDependencies): Route {
  return route({
    ...common,
    method: 'POST',
    path: '/v1/orders/{orderId}/fulfil',
    operationId: 'fulfilOrder',
    summary: 'Start the automatic fulfilment of a pending order',
    description:
      'Reserves the stock, captures the payment and ships the order. If a step fails, the earlier ' +
      'steps are undone. Until it has ended, shipping and refunding by hand are refused.',
    headers: guardedHeaders,
    answers: { 202: orderAnswered('The order. Its fulfilment is running.', 'Location') },
    problems: [
      ...commandProblems('order_already_paid', 'order_already_shipped', 'order_cancelled'),
      fulfilmentOff,
    ],
    handle: ({ params, ...request }) =>
      run(request, params.orderId, { type: 'FulfilOrder', sagaId: uuidv7() }),
  });
}

function getRoute(dependencies: FulfilmentRouteDependencies): Route {
  return route({
    ...common,
    method: 'GET',
    path: '/v1/orders/{orderId}/fulfilment',
    operationId: 'getFulfilment',
    summary: 'Read the fulfilment of an order',
    description:
      'Shows every step with its key, its attempts and their outcome. `open` lists the steps that the ' +
      'fulfilment is stuck at. Send the ETag as If-Match of retry and resolve.',
    answers: { 200: { description: 'The fulfilment.', schema: fulfilmentAnswer } },
    problems: [notFound, databaseUnavailable],
    handle: async ({ params }) => {
      const { view, etag } = await readFulfilment(dependencies, params.orderId);
      return { status: 200, body: view, headers: { etag } };
    },
  });
}

function retryRoute(dependencies: FulfilmentRouteDependencies): Route {
  return route({
    ...common,
    method: 'POST',
    path: '/v1/orders/{orderId}/fulfilment/retry',
    operationId: 'retryFulfilment',
    summary: 'Retry the open steps of a stuck fulfilment',
    headers: guardedHeaders,
    answers: { 202: goesOn },
    problems: operatorProblems,
    handle: ({ params, ...request }) =>
      operateFulfilment(dependencies, params.orderId, request, decideRetry),
  });
}

function resolveRoute(dependencies: FulfilmentRouteDependencies): Route {
  return route({
    ...common,
    method: 'POST',
    path: '/v1/orders/{orderId}/fulfilment/resolve',
    operationId: 'resolveFulfilment',
    summary: 'Tell a stuck fulfilment the outcome of a step',
    description:
      'Ask the provider first: the service does not check what you send. A refund with the outcome ' +
      '`notDone` is made again under a new key. If-Match is required: send the ETag of the fulfilment, so ' +
      'that the outcome applies to the attempt that you looked at.',
    headers: matchingHeaders,
    body: resolveBody,
    example: {
      step: 'refund',
      outcome: 'done',
      reference: 're_12345',
      reason: 'refunded by hand in the dashboard of the provider',
    },
    answers: { 202: goesOn },
    problems: [...operatorProblems, stepNotOpen],
    handle: ({ params, body: said, ...request }) => {
      const resolution = { ...said, reference: said.reference ?? null };
      const decide: OperatorDecision = (saga, definition, isSetAside) =>
        decideResolve(saga, resolution, definition, isSetAside);
      return operateFulfilment(dependencies, params.orderId, request, decide);
    },
  });
}
