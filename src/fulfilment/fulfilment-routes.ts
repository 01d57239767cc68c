import { v7 as uuidv7 } from 'uuid';
import { z } from 'zod';
import { entityTags } from '#src/http/entity-tags.ts';
import { safeText } from '#src/http/fields.ts';
import { idempotencyKey } from '#src/http/idempotency.ts';
import { problemKinds } from '#src/http/problem-kinds.ts';
import { route } from '#src/http/route.ts';
import type { Route } from '#src/http/route.ts';
import { orderAnswered } from '#src/orders/order-command-routes.ts';
import { orderProblemKinds, refusalKind } from '#src/orders/order-problems.ts';
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
    reference: safeText(1, 100).optional(),
    reason: safeText(1, 500),
  })
  .refine(({ outcome, reference }) => outcome === 'notDone' || reference !== undefined, {
    error: 'is needed where the step was done: what the provider calls it',
    path: ['reference'],
  });

const { notFound, notStuck, stepNotOpen } = fulfilmentProblemKinds;
const { databaseUnavailable, fulfilmentOff, overloaded, outcomeUnknown, versionConflict } =
  orderProblemKinds;
const common = { params: orderParams, tag: 'Fulfilment' } as const;

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
    headers: z.object({
      'idempotency-key': idempotencyKey.optional(),
      'if-match': entityTags.optional(),
    }),
    answers: { 202: orderAnswered('The order; its fulfilment runs.', 'Location') },
    problems: [
      refusalKind('order_not_found'),
      refusalKind('order_already_paid'),
      refusalKind('order_already_shipped'),
      refusalKind('order_cancelled'),
      refusalKind('version_mismatch'),
      fulfilmentOff,
      problemKinds.idempotencyKeyInUse,
      orderProblemKinds.idempotencyKeyReused,
      orderProblemKinds.versionConflict,
      orderProblemKinds.outboxFull,
      overloaded,
      databaseUnavailable,
      outcomeUnknown,
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
      'Every step with its key, its tries and their outcome; `open` is what it is stuck at.',
    answers: { 200: { description: 'The fulfilment.', schema: fulfilmentAnswer } },
    problems: [notFound, databaseUnavailable],
    handle: async ({ params }) => ({
      status: 200,
      body: await readFulfilment(dependencies, params.orderId),
    }),
  });
}

function retryRoute(dependencies: FulfilmentRouteDependencies): Route {
  return route({
    ...common,
    method: 'POST',
    path: '/v1/orders/{orderId}/fulfilment/retry',
    operationId: 'retryFulfilment',
    summary: 'Have a stuck fulfilment try again what it gave up',
    answers: { 202: { description: 'The fulfilment; it goes on.', schema: fulfilmentAnswer } },
    problems: [
      notFound,
      notStuck,
      versionConflict,
      overloaded,
      databaseUnavailable,
      outcomeUnknown,
    ],
    handle: async ({ params, ...request }) => ({
      status: 202,
      body: await operateFulfilment(dependencies, params.orderId, request, decideRetry),
    }),
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
      'new key.',
    body: resolveBody,
    example: {
      step: 'refund',
      outcome: 'done',
      reference: 're_12345',
      reason: 'refunded by hand in the dashboard of the provider',
    },
    answers: { 202: { description: 'The fulfilment; it goes on.', schema: fulfilmentAnswer } },
    problems: [
      notFound,
      notStuck,
      stepNotOpen,
      versionConflict,
      overloaded,
      databaseUnavailable,
      outcomeUnknown,
    ],
    handle: async ({ params, body: said, ...request }) => {
      const resolution = { ...said, reference: said.reference ?? null };
      const decide: OperatorDecision = (saga, definition, isSetAside) =>
        decideResolve(saga, resolution, definition, isSetAside);
      const body = await operateFulfilment(dependencies, params.orderId, request, decide);
      return { status: 202, body };
    },
  });
}
