import { hash } from 'node:crypto';
import type { FastifyReply, FastifyRequest } from 'fastify';
import type { FastifyPluginAsyncZod } from 'fastify-type-provider-zod';
import { z } from 'zod';
import type { ReadPool } from '#src/database/database.ts';
import { VersionConflict } from '#src/event-store/event-store.ts';
import type { EventStore } from '#src/event-store/event-store.ts';
import type { GroupCommit } from '#src/event-store/group-commit.ts';
import { requireMatch, versionETag } from '#src/http/entity-tags.ts';
import { safeText } from '#src/http/fields.ts';
import { requireSameRequest } from '#src/http/idempotency.ts';
import type { InFlight } from '#src/http/idempotency.ts';
import { response } from '#src/http/openapi.ts';
import { Problem, problemKind } from '#src/http/problem.ts';
import type { ProblemKind } from '#src/http/problem.ts';
import { guardedHeaders, matchingHeaders, requestMetadata } from '#src/http/request-head.ts';
import { sendText } from '#src/http/responses.ts';
import { orderProblemKind, orderProblemKinds } from '#src/orders/order-problems.ts';
import { orderParams } from '#src/orders/order-schemas.ts';
import type { SagaDefinition } from '#src/sagas/saga-definition.ts';
import { decideResolve, decideRetry, operateSaga } from '#src/sagas/saga-operator.ts';
import { foldSaga, isLive, toRecordedSagaEvent } from '#src/sagas/saga.ts';
import type { Saga, SagaEvent } from '#src/sagas/saga.ts';
import { fulfilmentResponse, readFulfilmentRow, toFulfilmentView } from './fulfilment-view.ts';
import type { FulfilmentRow, FulfilmentView } from './fulfilment-view.ts';
import type { Fulfilment } from './fulfilment.ts';

/** Hexadecimal digits of the hash in the ETag. */
const SHOWN_LENGTH = 12;
/** Nothing is stored without a key. */
const NO_HASH = new Uint8Array();

/** What it takes to read and to change a fulfilment. */
export type FulfilmentAccess = Readonly<{
  commit: Pick<GroupCommit, 'submit'>;
  inFlight: InFlight;
  fulfilment: Pick<Fulfilment, 'definitions' | 'runnable' | 'commitContext'>;
  eventStore: EventStore;
  reads: ReadPool;
}>;

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
  })
  .meta({
    examples: [
      {
        step: 'refund',
        outcome: 'done',
        reference: 're_12345',
        reason: 'refunded by hand in the dashboard of the provider',
      },
    ],
  });

/** What these routes can fail with, besides what any command can. */
const kinds = {
  fulfilment_not_found: {
    status: 404,
    title: 'No fulfilment of this order',
    advice: 'The order does not exist, or its automatic fulfilment was never started.',
  },
  fulfilment_not_stuck: {
    status: 409,
    title: 'Fulfilment is not stuck',
    advice:
      'The fulfilment is still running or has ended. Only a stuck fulfilment accepts retry and ' +
      'resolve.',
  },
  step_not_open: {
    status: 409,
    title: 'Step is not open',
    advice:
      'The fulfilment is not stuck at this step. `open` of this response lists the steps that ' +
      'it is stuck at.',
  },
} as const satisfies Record<string, Omit<ProblemKind, 'code'>>;

export function fulfilmentProblemKind(code: keyof typeof kinds): ProblemKind {
  return { code, ...kinds[code] };
}

const notFound = fulfilmentProblemKind('fulfilment_not_found');
/** Problems of retry and resolve. */
const operatorProblems = [
  notFound,
  fulfilmentProblemKind('fulfilment_not_stuck'),
  problemKind('precondition_failed'),
  problemKind('overloaded'),
  ...orderProblemKinds(
    'fulfilment_off',
    'version_conflict',
    'clock_off',
    'database_unavailable',
    'outcome_unknown',
  ),
];

const operatorAccess = { scope: 'fulfilment:operate', customers: false } as const;

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
export const fulfilmentRoutes: FastifyPluginAsyncZod<FulfilmentAccess> = async (app, access) => {
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
      const { orderId } = params;
      const { view, etag } = await readFulfilment(access, orderId, principal.customerId);
      return reply.header('etag', etag).send(view);
    },
  );
  app.post(
    '/v1/orders/:orderId/fulfilment/retry',
    { schema: retryFulfilment, config: { access: operatorAccess, problems: operatorProblems } },
    (request, reply) => operate(access, request.params.orderId, request, reply, decideRetry),
  );
  app.post(
    '/v1/orders/:orderId/fulfilment/resolve',
    {
      schema: resolveFulfilment,
      config: {
        access: operatorAccess,
        problems: [...operatorProblems, fulfilmentProblemKind('step_not_open')],
      },
    },
    (request, reply) => {
      const { reference = null, ...body } = request.body;
      const decide: OperatorDecision = (saga, definition, isSetAside) =>
        decideResolve(saga, { ...body, reference }, definition, isSetAside);
      return operate(access, request.params.orderId, request, reply, decide);
    },
  );
};

/** The events that an operator's request leads to. */
type OperatorDecision = (
  saga: Saga,
  definition: SagaDefinition,
  isSetAside: boolean,
) => SagaEvent[];

/**
 * Records what an operator decided on a fulfilment, which continues from there. The checks come in this order:
 * replay by key, If-Match, whether the fulfilment is stuck.
 */
async function operate(
  { commit, inFlight, reads, fulfilment }: FulfilmentAccess,
  orderId: string,
  request: FastifyRequest,
  reply: FastifyReply,
  decide: OperatorDecision,
): Promise<void> {
  const { keyed, ifMatch } = request;
  const result = await inFlight.run(keyed, async () => {
    const row = await requireRow(reads, orderId);
    const { sagaId, epoch } = row;
    const metadata = requestMetadata(request);
    const operated = await operateSaga(
      commit,
      () => runnableFor(fulfilment, row),
      fulfilment.commitContext,
      { sagaId, orderId, epoch, metadata },
      {
        key: keyed?.ref,
        decide(saga, definition, version) {
          requireMatch(ifMatch, version);
          return decide(saga, definition, row.state === 'stuck' && isLive(saga));
        },
        respond: (saga, version) => ({
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
    if (!operated) throw new VersionConflict();
    const { response, replayed } = operated;
    if (replayed && keyed) requireSameRequest(response.requestHash, keyed);
    if ('version' in response) throw new Error('an operation always has an effect');
    return { ...response, replayed };
  });
  await sendText(reply, result);
}

/** @throws Problem `fulfilment_off` if this process cannot carry the fulfilment out */
function runnableFor(
  { runnable }: FulfilmentAccess['fulfilment'],
  { definitionVersion }: FulfilmentRow,
): SagaDefinition {
  const definition = runnable.find(({ version }) => version === definitionVersion);
  if (!definition) throw new Problem(orderProblemKind('fulfilment_off'));
  return definition;
}

/** The queue row after the commit: due, without an owner. */
function idleRow(row: FulfilmentRow, { state }: Saga): FulfilmentRow {
  return { ...row, state, reason: null, step: null, dueAt: null, deadlineAt: null };
}

/**
 * The fulfilment and its ETag, which is the version of its stream, for If-Match, and a hash of everything
 * that is shown.
 * @throws Problem `fulfilment_not_found`
 */
async function readFulfilment(
  { reads, eventStore, fulfilment }: FulfilmentAccess,
  orderId: string,
  customerId: string | undefined,
): Promise<Readonly<{ view: FulfilmentView; etag: string }>> {
  const row = await requireRow(reads, orderId, customerId);
  const stream = await eventStore.readStream(row.sagaId);
  const saga = foldSaga(stream.map(toRecordedSagaEvent));
  const definition = fulfilment.definitions.find(
    ({ version }) => version === row.definitionVersion,
  );
  if (!saga || !definition) throw new Error(`saga ${row.sagaId} cannot be shown`);
  const view = toFulfilmentView(saga, row, definition);
  const shown = hash('sha1', JSON.stringify(view), 'hex').slice(0, SHOWN_LENGTH);
  return { view, etag: versionETag(stream.length, shown) };
}

async function requireRow(reads: ReadPool, orderId: string, customerId?: string) {
  const row = await readFulfilmentRow(reads, orderId, customerId);
  if (!row) throw new Problem(notFound);
  return row;
}
