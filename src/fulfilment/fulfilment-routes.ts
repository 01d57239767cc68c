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
    reference: safeText(1, 100)
      .optional()
      .meta({ description: 'What the provider calls it. Needed where the outcome is `done`.' }),
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
  description: 'The fulfilment; it goes on.',
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
    summary: 'Have a pending order fulfilled',
    description:
      'Stock is reserved, the payment captured, the parcel handed over; or all of it undone. From here ' +
      'on pay, ship and refund by hand are refused.',
    headers: guardedHeaders,
    answers: { 202: orderAnswered('The order; its fulfilment runs.', 'Location') },
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
    summary: 'Read how far the fulfilment of an order is',
    description:
      'Every step with its key, its tries and their outcome; `open` is what it is stuck at. The ETag ' +
      'is for the If-Match of retry and resolve.',
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
    summary: 'Have a stuck fulfilment try again what it gave up',
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
    summary: 'Tell a stuck fulfilment what became of a step',
    description:
      'Ask the provider first: the saga believes it. A refund that was notDone is made anew, under a ' +
      'new key. If-Match is required, so that what is said is of the attempt that was looked at: ' +
      'send the ETag of the fulfilment.',
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
