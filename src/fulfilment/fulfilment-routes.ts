import { hash } from 'node:crypto';
import { v7 as uuidv7 } from 'uuid';
import { z } from 'zod';
import type { ReadPool } from '#src/database/database.ts';
import type { EventStore } from '#src/event-store/event-store.ts';
import type { GroupCommit } from '#src/event-store/group-commit.ts';
import { requireMatch, versionETag } from '#src/http/entity-tags.ts';
import type { EntityTags } from '#src/http/entity-tags.ts';
import { safeText } from '#src/http/fields.ts';
import { requireSameRequest } from '#src/http/idempotency.ts';
import type { InFlight } from '#src/http/idempotency.ts';
import { problemKinds } from '#src/http/problem-kinds.ts';
import type { ProblemKind } from '#src/http/problem.ts';
import { guardedHeaders, matchingHeaders } from '#src/http/request-head.ts';
import { route } from '#src/http/route.ts';
import type { AnswerSpec, ReadyAnswer, Route, RouteRequest } from '#src/http/route.ts';
import { commandProblems, orderAnswered } from '#src/orders/order-command-routes.ts';
import { orderProblem, orderProblemKinds, toOrderProblem } from '#src/orders/order-problems.ts';
import { orderParams } from '#src/orders/order-schemas.ts';
import type { RunOrderCommand } from '#src/orders/run-order-command.ts';
import type { SagaDefinition } from '#src/sagas/saga-definition.ts';
import {
  SagaNotStuck,
  StepNotOpen,
  decideResolve,
  decideRetry,
  operateSaga,
} from '#src/sagas/saga-operator.ts';
import type { Operated } from '#src/sagas/saga-operator.ts';
import { foldSaga, isLive, toRecordedSagaEvent } from '#src/sagas/saga.ts';
import type { Saga, SagaEvent } from '#src/sagas/saga.ts';
import { fulfilmentAnswer, readFulfilmentRow, toFulfilmentView } from './fulfilment-view.ts';
import type { FulfilmentRow, FulfilmentView } from './fulfilment-view.ts';
import type { Fulfilment } from './fulfilment.ts';

/** Nobody signs in yet. */
const OPERATOR = 'operator';
/** Hexadecimal digits of the hash in the ETag. */
const SHOWN_LENGTH = 12;
/** Nothing is stored without a key. */
const NO_HASH = new Uint8Array();

/** What it takes to read and to change a fulfilment. */
type FulfilmentAccess = Readonly<{
  commit: Pick<GroupCommit, 'submit'>;
  inFlight: InFlight;
  fulfilment: Pick<Fulfilment, 'definitions' | 'runnable' | 'commitContext'>;
  eventStore: EventStore;
  reads: ReadPool;
}>;

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

/** What these routes can fail with, besides what any order command can. */
const notFound = {
  code: 'fulfilment_not_found',
  status: 404,
  title: 'No fulfilment of this order',
  advice: 'The order does not exist, or its automatic fulfilment was never started.',
} as const satisfies ProblemKind;
const notStuck = {
  code: 'fulfilment_not_stuck',
  status: 409,
  title: 'Fulfilment is not stuck',
  advice:
    'The fulfilment is still running or has ended. Only a stuck fulfilment accepts retry and ' +
    'resolve.',
} as const satisfies ProblemKind;
const stepNotOpen = {
  code: 'step_not_open',
  status: 409,
  title: 'Step is not open',
  advice:
    'The fulfilment is not stuck at this step. `open` of this response lists the steps that ' +
    'it is stuck at.',
} as const satisfies ProblemKind;
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
/** Problems of retry and resolve. */
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
    handle: ({ params, body, ...request }) => {
      const resolution = { ...body, reference: body.reference ?? null };
      const decide: OperatorDecision = (saga, definition, isSetAside) =>
        decideResolve(saga, resolution, definition, isSetAside);
      return operateFulfilment(dependencies, params.orderId, request, decide);
    },
  });
}

/** The events that an operator's request leads to. */
type OperatorDecision = (
  saga: Saga,
  definition: SagaDefinition,
  isSetAside: boolean,
) => SagaEvent[];

type OperatorRequest = Pick<
  RouteRequest<unknown, unknown, Readonly<{ 'if-match'?: EntityTags | undefined }>, unknown>,
  'headers' | 'keyed' | 'requestId' | 'traceparent'
>;

/**
 * Records what an operator decided on a fulfilment, which continues from there. The checks come in this order:
 * replay by key, If-Match, whether the fulfilment is stuck.
 * @throws Problem
 */
function operateFulfilment(
  access: FulfilmentAccess,
  orderId: string,
  { headers, keyed, requestId, traceparent }: OperatorRequest,
  decide: OperatorDecision,
): Promise<ReadyAnswer> {
  const { commit, reads, fulfilment } = access;
  const ifMatch = headers['if-match'];
  const operate = () =>
    asProblems(async () => {
      const row = await requireRow(reads, orderId);
      const metadata = {
        correlationId: requestId,
        actor: OPERATOR,
        ...(traceparent !== undefined && { traceparent }),
      };
      const { sagaId, epoch } = row;
      const operated = await operateSaga(
        commit,
        () => runnableFor(fulfilment, row),
        fulfilment.commitContext,
        { sagaId, subjectId: orderId, epoch, metadata },
        {
          key: keyed?.ref,
          decide(saga, definition, version) {
            requireMatch(ifMatch, version);
            return decide(saga, definition, row.state === 'stuck' && isLive(saga));
          },
          answer: (saga, version) => ({
            requestHash: keyed?.hash ?? NO_HASH,
            status: 202,
            etag: versionETag(version),
            location: null,
            body: JSON.stringify(
              toFulfilmentView(saga, idleRow(row, saga), runnableFor(fulfilment, row)),
            ),
          }),
        },
      );
      if (!operated) throw orderProblem(versionConflict);
      if (operated.replayed && keyed) requireSameRequest(operated.answer.requestHash, keyed);
      return toReadyAnswer(operated);
    });
  return access.inFlight.run(keyed, operate);
}

/** @throws Problem `fulfilment_off` if this process cannot carry the fulfilment out */
function runnableFor(
  { runnable }: FulfilmentAccess['fulfilment'],
  { definitionVersion }: FulfilmentRow,
): SagaDefinition {
  const definition = runnable.find(({ version }) => version === definitionVersion);
  if (!definition) throw orderProblem(fulfilmentOff);
  return definition;
}

/** The queue row after the commit: due, without an owner. */
function idleRow(row: FulfilmentRow, { state }: Saga): FulfilmentRow {
  return { ...row, state, reason: null, step: null, dueAt: null, deadlineAt: null };
}

function toReadyAnswer({ answer, replayed }: Operated): ReadyAnswer {
  if ('version' in answer) throw new Error('an operation always has an effect');
  const { status, etag, body } = answer;
  const headers = {
    ...(etag !== null && { etag }),
    ...(replayed && { 'idempotency-replayed': 'true' }),
  };
  return { status, text: body, headers };
}

/**
 * The fulfilment and its ETag, which is the version of its stream, for If-Match, and a hash of everything
 * that is shown.
 * @throws Problem
 */
function readFulfilment(
  { reads, eventStore, fulfilment }: FulfilmentAccess,
  orderId: string,
): Promise<Readonly<{ view: FulfilmentView; etag: string }>> {
  return asProblems(async () => {
    const row = await requireRow(reads, orderId);
    const stream = await eventStore.readStream(row.sagaId);
    const saga = foldSaga(stream.map(toRecordedSagaEvent));
    const definition = fulfilment.definitions.find(
      ({ version }) => version === row.definitionVersion,
    );
    if (!saga || !definition) throw new Error(`saga ${row.sagaId} cannot be shown`);
    const view = toFulfilmentView(saga, row, definition);
    const shown = hash('sha1', JSON.stringify(view), 'hex').slice(0, SHOWN_LENGTH);
    return { view, etag: versionETag(stream.length, shown) };
  });
}

async function requireRow(reads: ReadPool, orderId: string) {
  const row = await readFulfilmentRow(reads, orderId);
  if (!row) throw orderProblem(notFound);
  return row;
}

/** @throws Problem */
async function asProblems<Result>(work: () => Promise<Result>): Promise<Result> {
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
