import { hash } from 'node:crypto';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { z } from 'zod';
import type { ReadPool } from '#src/database/database.ts';
import { VersionConflict } from '#src/event-store/event-store.ts';
import type { EventStore } from '#src/event-store/event-store.ts';
import type { GroupCommit } from '#src/event-store/group-commit.ts';
import { requireMatch, versionETag } from '#src/http/entity-tags.ts';
import { safeText } from '#src/http/fields.ts';
import { requireSameRequest } from '#src/http/idempotency.ts';
import type { InFlight } from '#src/http/idempotency.ts';
import { Problem, problemKind } from '#src/http/problem.ts';
import type { ProblemKind } from '#src/http/problem.ts';
import { requestMetadata } from '#src/http/request-head.ts';
import { sendText } from '#src/http/responses.ts';
import { orderProblemKind, orderProblemKinds } from '#src/orders/order-problems.ts';
import type { SagaDefinition } from '#src/sagas/saga-definition.ts';
import { decideResolve, operateSaga } from '#src/sagas/saga-operator.ts';
import { foldSaga, toRecordedSagaEvent } from '#src/sagas/saga.ts';
import type { Saga, SagaEvent } from '#src/sagas/saga.ts';
import type { Fulfilment } from './fulfilment.ts';
import { isSetAside } from './saga-view.ts';
import type { SagaRow } from './saga-view.ts';

/** Hexadecimal digits of the hash in the ETag. */
const SHOWN_LENGTH = 12;
/** Nothing is stored without a key. */
const NO_HASH = new Uint8Array();

/** What it takes to read and to change the sagas of an order. */
export type SagaAccess = Readonly<{
  commit: Pick<GroupCommit, 'submit'>;
  inFlight: InFlight;
  fulfilment: Pick<Fulfilment, 'definitions' | 'runnable' | 'commitContext'>;
  eventStore: EventStore;
  reads: ReadPool;
}>;

/** An operator's word on the outcome of a step. */
export const resolveBody = z
  .strictObject({
    step: z.string().min(1).max(64),
    outcome: z.enum(['done', 'notDone']),
    reference: safeText(1, 100).optional().meta({
      description: 'The id that the provider gave it. Required if the outcome is `done`.',
    }),
    reason: safeText(1, 500).describe(
      'Published with a refund that was not made, so not for personal data.',
    ),
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

/** What the routes of sagas can fail with, besides what any command can. */
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
  refund_not_found: {
    status: 404,
    title: 'No such refund of this order',
    advice: 'The order does not exist, or has no refund with this id.',
  },
  refund_not_stuck: {
    status: 409,
    title: 'Refund is not stuck',
    advice:
      'The refund is still under way, has ended, or was recorded after it had been made elsewhere. Only ' +
      'a stuck refund accepts retry and resolve.',
  },
  step_not_open: {
    status: 409,
    title: 'Step is not open',
    advice:
      'Nothing is stuck at this step. `open` of this response lists the steps that wait for an operator.',
  },
} as const satisfies Record<string, Omit<ProblemKind, 'code'>>;

export type SagaProblemCode = keyof typeof kinds;

export function sagaProblemKind(code: SagaProblemCode): ProblemKind {
  return { code, ...kinds[code] };
}

/** Problems of every operator's request. */
export const operatorProblems = [
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

export const operatorAccess = { scope: 'fulfilment:operate', customers: false } as const;

/** The events that an operator's request leads to. */
export type OperatorDecision = (
  saga: Saga,
  definition: SagaDefinition,
  setAside: boolean,
) => SagaEvent[];

/** The decision of an operator who states the outcome of a step. */
export function resolvedAs(body: z.infer<typeof resolveBody>): OperatorDecision {
  const { reference = null, ...rest } = body;
  return (saga, definition, setAside) =>
    decideResolve(saga, { ...rest, reference }, definition, setAside);
}

/** The saga that a request is about, and how it is shown. */
export type ShownSaga = Readonly<{
  orderId: string;
  row: SagaRow;
  show(saga: Saga, row: SagaRow, definition: SagaDefinition): unknown;
}>;

/**
 * Records what an operator decided on a saga, which continues from there. The checks come in this order: replay by
 * key, If-Match, whether the saga is stuck.
 */
export async function operate(
  { commit, inFlight, fulfilment }: SagaAccess,
  find: () => Promise<ShownSaga>,
  request: FastifyRequest,
  reply: FastifyReply,
  decide: OperatorDecision,
): Promise<void> {
  const { keyed, ifMatch } = request;
  const result = await inFlight.run(keyed, async () => {
    const { orderId, row, show } = await find();
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
          return decide(saga, definition, isSetAside(row, saga));
        },
        respond: (saga, version) => ({
          requestHash: keyed?.hash ?? NO_HASH,
          status: 202,
          etag: versionETag(version),
          location: null,
          body: JSON.stringify(show(saga, idleRow(row, saga), runnableFor(fulfilment, row))),
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

/**
 * What a saga shows, and its ETag, which is the version of its stream, for If-Match, and a hash of everything that is
 * shown.
 */
export async function readSaga<View>(
  { eventStore, fulfilment }: SagaAccess,
  row: SagaRow,
  show: (saga: Saga, row: SagaRow, definition: SagaDefinition) => View,
): Promise<Readonly<{ view: View; etag: string }>> {
  const stream = await eventStore.readStream(row.sagaId);
  const saga = foldSaga(stream.map(toRecordedSagaEvent));
  const definition = definitionFor(fulfilment.definitions, row);
  if (!saga || !definition) throw new Error(`saga ${row.sagaId} cannot be shown`);
  const view = show(saga, row, definition);
  const shown = hash('sha1', JSON.stringify(view), 'hex').slice(0, SHOWN_LENGTH);
  return { view, etag: versionETag(stream.length, shown) };
}

/** @throws Problem `fulfilment_off` if this process cannot carry the saga out */
function runnableFor({ runnable }: SagaAccess['fulfilment'], row: SagaRow): SagaDefinition {
  const definition = definitionFor(runnable, row);
  if (!definition) throw new Problem(orderProblemKind('fulfilment_off'));
  return definition;
}

function definitionFor(
  definitions: readonly SagaDefinition[],
  row: SagaRow,
): SagaDefinition | undefined {
  return definitions.find(
    ({ name, version }) => name === row.definition && version === row.definitionVersion,
  );
}

/** The queue row after the commit: due, without an owner. */
function idleRow(row: SagaRow, { state }: Saga): SagaRow {
  return { ...row, state, reason: null, step: null, dueAt: null, deadlineAt: null };
}
