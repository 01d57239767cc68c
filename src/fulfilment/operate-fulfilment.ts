import { isOutage } from '#src/database/is-outage.ts';
import type { Reads } from '#src/database/reads.ts';
import type { EventStore } from '#src/event-store/event-store.ts';
import type { GroupCommit } from '#src/event-store/group-commit.ts';
import { CommandUncertain } from '#src/event-store/group-commit-errors.ts';
import type { RouteRequest } from '#src/http/route.ts';
import { orderProblem, orderProblemKinds, toOrderProblem } from '#src/orders/order-problems.ts';
import type { OrderRows } from '#src/orders/order-units.ts';
import type { SagaDefinition } from '#src/sagas/saga-definition.ts';
import { toRecordedSagaEvent } from '#src/sagas/saga-event-codec.ts';
import type { SagaEvent } from '#src/sagas/saga-events.ts';
import { SagaNotStuck, StepNotOpen, operateSaga } from '#src/sagas/saga-operator.ts';
import { foldSaga, isLive } from '#src/sagas/saga.ts';
import type { Saga } from '#src/sagas/saga.ts';
import type { FulfilledOrder } from './fulfilment-definition.ts';
import type { Fulfilment } from './fulfilment.ts';
import { fulfilmentProblemKinds } from './fulfilment-problems.ts';
import { readFulfilmentRow } from './fulfilment-queries.ts';
import { toFulfilmentView } from './fulfilment-view.ts';
import type { FulfilmentView } from './fulfilment-view.ts';

/** Nobody signs in yet. */
const OPERATOR = 'operator';

/** Where fulfilments are, and what it takes to change one. */
export type FulfilmentAccess = Readonly<{
  commit: Pick<GroupCommit<OrderRows>, 'submit'>;
  fulfilment: Pick<Fulfilment, 'definitions' | 'kinds'>;
  eventStore: EventStore;
  reads: Reads;
  now: () => Date;
}>;

/** What an operator's word comes to. */
export type OperatorDecision = (
  saga: Saga,
  definition: SagaDefinition<FulfilledOrder>,
  isSetAside: boolean,
) => SagaEvent[];

const { notFound, notStuck, stepNotOpen } = fulfilmentProblemKinds;
const { fulfilmentOff, versionConflict } = orderProblemKinds;

/**
 * Records what an operator says of a fulfilment, which goes on from there.
 * @throws Problem
 */
export async function operateFulfilment(
  access: FulfilmentAccess,
  orderId: string,
  { requestId, traceparent }: Pick<RouteRequest<0, 0, 0, 0>, 'requestId' | 'traceparent'>,
  decide: OperatorDecision,
): Promise<FulfilmentView> {
  const { commit, reads, fulfilment, now } = access;
  return asProblems(async () => {
    const { sagaId, definitionVersion, epoch, state } = await find(reads, orderId);
    const metadata = {
      correlationId: requestId,
      actor: OPERATOR,
      ...(traceparent !== undefined && { traceparent }),
    };
    const saga = { sagaId, subjectId: orderId, epoch, metadata };
    const kind = fulfilment.kinds.find(
      ({ definition }) => definition.version === definitionVersion,
    );
    if (!kind) throw orderProblem(fulfilmentOff);
    const isWritten = await operateSaga(commit, kind, now, saga, (current, definition) =>
      decide(current, definition, state === 'stuck' && isLive(current)),
    );
    if (!isWritten) throw orderProblem(versionConflict);
    return read(access, orderId).catch((error: unknown) => {
      throw isOutage(error) ? new CommandUncertain(error) : error;
    });
  });
}

/** @throws Problem */
export function readFulfilment(access: FulfilmentAccess, orderId: string): Promise<FulfilmentView> {
  return asProblems(() => read(access, orderId));
}

async function read(
  { reads, eventStore, fulfilment }: FulfilmentAccess,
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
