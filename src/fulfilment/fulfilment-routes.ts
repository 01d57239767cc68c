import { v7 as uuidv7 } from 'uuid';
import { z } from 'zod';
import type { Reads } from '#src/database/reads.ts';
import type { EventStore } from '#src/event-store/event-store.ts';
import type { GroupCommit } from '#src/event-store/group-commit.ts';
import { entityTags } from '#src/http/entity-tags.ts';
import { safeText } from '#src/http/fields.ts';
import { idempotencyKey } from '#src/http/idempotency.ts';
import { problemKinds } from '#src/http/problem-kinds.ts';
import { route } from '#src/http/route.ts';
import type { Route, RouteRequest } from '#src/http/route.ts';
import { orderAnswered } from '#src/orders/order-command-routes.ts';
import {
  orderProblem,
  orderProblemKinds,
  refusalKind,
  toOrderProblem,
} from '#src/orders/order-problems.ts';
import { orderParams } from '#src/orders/order-schemas.ts';
import type { OrderRows } from '#src/orders/order-units.ts';
import type { RunOrderCommand } from '#src/orders/run-order-command.ts';
import type { SagaDefinition } from '#src/sagas/saga-definition.ts';
import { toRecordedSagaEvent } from '#src/sagas/saga-event-codec.ts';
import type { SagaEvent } from '#src/sagas/saga-events.ts';
import {
  SagaNotStuck,
  StepNotOpen,
  decideResolve,
  decideRetry,
  operateSaga,
} from '#src/sagas/saga-operator.ts';
import { foldSaga, isLive } from '#src/sagas/saga.ts';
import type { Saga } from '#src/sagas/saga.ts';
import type { FulfilledOrder } from './fulfilment-definition.ts';
import type { Fulfilment } from './fulfilment.ts';
import { fulfilmentProblemKinds } from './fulfilment-problems.ts';
import { readFulfilmentRow } from './fulfilment-queries.ts';
import { fulfilmentAnswer, toFulfilmentView } from './fulfilment-view.ts';
import type { FulfilmentView } from './fulfilment-view.ts';

/** Nobody signs in yet. */
const OPERATOR = 'operator';

export type FulfilmentRouteDependencies = Readonly<{
  run: RunOrderCommand;
  commit: Pick<GroupCommit<OrderRows>, 'submit'>;
  fulfilment: Pick<Fulfilment, 'definitions' | 'kinds'>;
  eventStore: EventStore;
  reads: Reads;
  now: () => Date;
}>;

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
const { databaseUnavailable, fulfilmentOff, overloaded, outcomeUnknown } = orderProblemKinds;
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
      body: await guarded(() => read(dependencies, params.orderId)),
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
    problems: [notFound, notStuck, overloaded, databaseUnavailable, outcomeUnknown],
    handle: async ({ params, ...request }) => ({
      status: 202,
      body: await operate(dependencies, params.orderId, request, decideRetry),
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
    problems: [notFound, notStuck, stepNotOpen, overloaded, databaseUnavailable, outcomeUnknown],
    handle: async ({ params, body, ...request }) => {
      const resolution = { ...body, reference: body.reference ?? null };
      const decide = (saga: Saga, definition: SagaDefinition<FulfilledOrder>) =>
        decideResolve(saga, resolution, definition);
      return { status: 202, body: await operate(dependencies, params.orderId, request, decide) };
    },
  });
}

type Decide = (
  saga: Saga,
  definition: SagaDefinition<FulfilledOrder>,
  isSetAside: boolean,
) => SagaEvent[];

async function operate(
  dependencies: FulfilmentRouteDependencies,
  orderId: string,
  { requestId, traceparent }: Pick<RouteRequest<0, 0, 0, 0>, 'requestId' | 'traceparent'>,
  decide: Decide,
): Promise<FulfilmentView> {
  const { commit, reads, fulfilment, now } = dependencies;
  return guarded(async () => {
    const { sagaId, definitionVersion, state } = await find(reads, orderId);
    const metadata = {
      correlationId: requestId,
      actor: OPERATOR,
      ...(traceparent !== undefined && { traceparent }),
    };
    const saga = { sagaId, subjectId: orderId, metadata };
    const kind = fulfilment.kinds.find(
      ({ definition }) => definition.version === definitionVersion,
    );
    if (!kind) throw orderProblem(fulfilmentOff);
    await operateSaga(commit, kind, now, saga, (current, definition) =>
      decide(current, definition, state === 'stuck' && isLive(current)),
    );
    return read(dependencies, orderId);
  });
}

async function read(
  { reads, eventStore, fulfilment }: FulfilmentRouteDependencies,
  orderId: string,
): Promise<FulfilmentView> {
  const row = await find(reads, orderId);
  const stream = await eventStore.readStream(row.sagaId);
  const saga = foldSaga(stream.map(toRecordedSagaEvent));
  const definition = fulfilment.definitions.find(
    ({ version }) => version === row.definitionVersion,
  );
  if (!saga || !definition) throw new Error(`saga ${row.sagaId} cannot be shown`);
  return toFulfilmentView(saga, row, definition);
}

async function find(reads: Reads, orderId: string) {
  const row = await readFulfilmentRow(reads, orderId);
  if (!row) throw orderProblem(notFound);
  return row;
}

/** @throws Problem */
async function guarded<Result>(work: () => Promise<Result>): Promise<Result> {
  try {
    return await work();
  } catch (error) {
    if (error instanceof SagaNotStuck) {
      throw orderProblem(notStuck, { extra: { state: error.state } });
    }
    if (error instanceof StepNotOpen) {
      throw orderProblem(stepNotOpen, { extra: { open: error.open } });
    }
    throw toOrderProblem(error);
  }
}
