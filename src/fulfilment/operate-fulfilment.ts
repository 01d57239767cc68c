import { hash } from 'node:crypto';
import type { Reads } from '#src/database/reads.ts';
import type { EventStore } from '#src/event-store/event-store.ts';
import type { GroupCommit } from '#src/event-store/group-commit.ts';
import { versionETag } from '#src/http/entity-tags.ts';
import type { EntityTags } from '#src/http/entity-tags.ts';
import { requireSameRequest } from '#src/http/idempotency.ts';
import type { InFlight } from '#src/http/idempotency.ts';
import { requireMatch } from '#src/http/preconditions.ts';
import type { ReadyAnswer, RouteRequest } from '#src/http/route.ts';
import { orderProblem, orderProblemKinds, toOrderProblem } from '#src/orders/order-problems.ts';
import type { OrderRows } from '#src/orders/order-units.ts';
import type { SagaDefinition } from '#src/sagas/saga-definition.ts';
import { toRecordedSagaEvent, foldSaga, isLive } from '#src/sagas/saga.ts';
import type { SagaEvent, Saga } from '#src/sagas/saga.ts';
import { SagaNotStuck, StepNotOpen, operateSaga } from '#src/sagas/saga-operator.ts';
import type { Operated } from '#src/sagas/saga-operator.ts';
import type { Fulfilment } from './fulfilment.ts';
import { fulfilmentProblemKinds } from './fulfilment-problems.ts';
import { readFulfilmentRow } from './fulfilment-queries.ts';
import type { FulfilmentRow } from './fulfilment-queries.ts';
import { toFulfilmentView } from './fulfilment-view.ts';
import type { FulfilmentView } from './fulfilment-view.ts';

/** Nobody signs in yet. */
const OPERATOR = 'operator';
/** Of the word in the ETag, in hexadecimal digits. */
const SHOWN_LENGTH = 12;

/** Where fulfilments are, and what it takes to change one. */
export type FulfilmentAccess = Readonly<{
  commit: Pick<GroupCommit<OrderRows>, 'submit'>;
  inFlight: InFlight;
  fulfilment: Pick<Fulfilment, 'definitions' | 'runnable' | 'commitContext'>;
  eventStore: EventStore;
  reads: Reads;
}>;

/** What an operator's word comes to. */
export type OperatorDecision = (
  saga: Saga,
  definition: SagaDefinition,
  isSetAside: boolean,
) => SagaEvent[];

type OperatorRequest = Pick<
  RouteRequest<unknown, unknown, Readonly<{ 'if-match'?: EntityTags | undefined }>, unknown>,
  'headers' | 'keyed' | 'requestId' | 'traceparent'
>;

const { notFound, notStuck, stepNotOpen } = fulfilmentProblemKinds;
const { fulfilmentOff, versionConflict } = orderProblemKinds;

/**
 * Records what an operator says of a fulfilment, which goes on from there: replay by key, then If-Match,
 * then whether it waits for an operator, in this order.
 * @throws Problem
 */
export function operateFulfilment(
  access: FulfilmentAccess,
  orderId: string,
  { headers, keyed, requestId, traceparent }: OperatorRequest,
  decide: OperatorDecision,
): Promise<ReadyAnswer> {
  const { commit, reads, fulfilment } = access;
  const ifMatch = headers['if-match'];
  const operate = () =>
    asProblems(async () => {
      const row = await find(reads, orderId);
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
            requestHash: keyed?.hashes[0] ?? NO_HASH,
            status: 202,
            etag: versionETag(version),
            location: null,
            body: JSON.stringify(
              toFulfilmentView(saga, idle(row, saga), runnableFor(fulfilment, row)),
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

/** Nothing is stored without a key. */
const NO_HASH = new Uint8Array();

/** The place in the queue as the operator leaves it: due, and nobody's. */
function idle(row: FulfilmentRow, { state }: Saga): FulfilmentRow {
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
 * The fulfilment and its ETag: the version of its stream, which If-Match asks for, and a word for what
 * else is shown.
 * @throws Problem
 */
export function readFulfilment(
  { reads, eventStore, fulfilment }: FulfilmentAccess,
  orderId: string,
): Promise<Readonly<{ view: FulfilmentView; etag: string }>> {
  return asProblems(async () => {
    const row = await find(reads, orderId);
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

async function find(reads: Reads, orderId: string) {
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
