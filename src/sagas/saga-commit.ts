import type { DatabaseClock } from '#src/database/clock.ts';
import type {
  EventMetadata,
  Loaded,
  SagaWorkRow,
  StoredEvent,
  Unit,
  Verdict,
} from '#src/event-store/event-store.ts';
import type { Decision, GroupCommit } from '#src/event-store/group-commit.ts';
import { recordedAt } from '#src/event-store/event-store.ts';
import type { FulfilmentCommand } from '#src/orders/domain/order-commands.ts';
import type { OrderEvent } from '#src/orders/domain/order-events.ts';
import { decide } from '#src/orders/domain/order-commands.ts';
import { StreamDamaged, evolve, recordNext } from '#src/orders/domain/order.ts';
import type { Order } from '#src/orders/domain/order.ts';
import { foldOrder, toRecordedOrderEvent } from '#src/orders/order-stream.ts';
import { appendToOrder } from '#src/orders/order-units.ts';
import { advance } from './saga-decisions.ts';
import type { Advance, Situation } from './saga-decisions.ts';
import type { SagaDefinition } from './saga-definition.ts';
import { SagaStreamDamaged, foldSaga, toNewSagaEvent, toRecordedSagaEvent } from './saga.ts';
import type { RecordedSagaEvent, Saga, SagaEvent } from './saga.ts';

/** What every commit of a saga needs. */
export type SagaCommitContext = Readonly<{
  /** The process's own clock, for what is recorded. */
  now: () => Date;
  /** The database's clock, for what is due. */
  clock: Pick<DatabaseClock, 'now'>;
  /** Where messages about the order go. */
  topic: string;
}>;

/** One commit of a saga. */
export type SagaCommit = Readonly<{
  sagaId: string;
  subjectId: string;
  /**
   * The events to record on the saga at this version of its stream. Null if there is nothing to record any
   * more: nothing is written then.
   */
  newEvents(saga: Saga, situation: Situation, version: number): readonly SagaEvent[] | null;
  /** The queue row that belongs to what was decided. */
  work(advanced: Advance): SagaWorkRow;
  /** Who causes the commit. Left out, it is the saga itself. */
  metadata?: EventMetadata;
  /** True for the runner, which bounds its commits by the number of sagas that it works on. */
  hasReservedRoom?: boolean;
}>;

/** What was decided, and whether there was anything to write. */
export type SagaCommitted = Advance & Readonly<{ written: boolean }>;

/**
 * Records new events of a saga and everything that follows from them. It decides on the newest state of saga
 * and order, and decides again after each lost race. The order's version is checked even if the order gets
 * no new event, so that no decision is based on an order that has changed meanwhile.
 * @returns null if another owner has the saga now, or if there was nothing to record any more
 * @throws what `submit` of the group commit throws, except for a lost race
 */
export function commitSaga(
  commit: Pick<GroupCommit, 'submit'>,
  definition: SagaDefinition,
  context: SagaCommitContext,
  task: SagaCommit,
): Promise<SagaCommitted | null> {
  return commit.submit({
    loads: [task.sagaId, task.subjectId],
    attemptsMax: Infinity,
    hasReservedRoom: task.hasReservedRoom ?? false,
    decide: (loaded, refusedBy) => decideCommit(definition, context, task, loaded, refusedBy),
  });
}

/** The decision of `commitSaga`, for callers that write something else in the same unit. */
export function decideCommit(
  definition: SagaDefinition,
  context: SagaCommitContext,
  task: SagaCommit,
  loaded: Loaded,
  refusedBy: Verdict | undefined,
): Decision<SagaCommitted | null> {
  if (refusedBy === 'fenced') return { result: null };
  const refused: Situation['refused'] = definition.refusals[refusedBy ?? ''];
  const { sagaId, subjectId } = task;
  const stream = loaded.stream(sagaId);
  const orderStream = loaded.stream(subjectId);
  const saga = foldSaga(stream.map(toRecordedSagaEvent));
  const [first] = stream;
  if (saga === null || !first) throw new SagaStreamDamaged('nothing');
  const at = recordedAt(context.now(), stream.at(-1)?.recordedAt, orderStream.at(-1)?.recordedAt);
  const subject = foldSubject(orderStream);
  const situation = {
    sagaId,
    definition,
    order: subject,
    at,
    now: context.clock.now().toISOString(),
    ...(refused && { refused }),
  };
  const newEvents = task.newEvents(saga, situation, stream.length);
  if (newEvents === null) return { result: null };

  const advanced = advance(saga, newEvents, situation);
  const { events } = advanced;
  if (events.length === 0) return { result: { ...advanced, written: false } };
  const metadata = task.metadata ?? sagaMetadata(first.metadata, sagaId, definition.name);
  const order = orderUnit(events, subject, situation, { metadata, topic: context.topic });
  const append = {
    streamId: sagaId,
    category: definition.name,
    expectedVersion: stream.length,
    events: events.map((event) => toNewSagaEvent(event, metadata)),
  };
  return {
    unit: { ...order, appends: [append, ...order.appends], sagas: [task.work(advanced)] },
    result: { ...advanced, written: true },
  };
}

/** The order that a saga works on. */
type Subject = Situation['order'] & Readonly<{ view: Order }>;

function foldSubject(stream: readonly StoredEvent[]): Subject {
  const order = foldOrder(stream);
  if (order === null) throw new StreamDamaged(0);
  const stored = stream.find(({ type }) => type === 'CancellationRequested');
  const request = stored && toRecordedOrderEvent(stored);
  const cancellation = request?.type === 'CancellationRequested' ? request.data.reason : null;
  return { view: order, cancellation };
}

/**
 * What the events of a saga do to its order, to the stock and to Kafka. If the order gets no new event, its
 * version is still checked.
 */
function orderUnit(
  events: readonly RecordedSagaEvent[],
  subject: Subject,
  { sagaId, definition, at }: Situation,
  context: Readonly<{ metadata: EventMetadata; topic: string }>,
): Unit {
  const { view: order } = subject;
  const commands = events.flatMap((event) => definition.orderCommand(event, subject) ?? []);
  const newEvents = orderEvents(order, commands, at);
  const { unit } = appendToOrder(order.orderId, order, newEvents, { ...context, recordedAt: at });
  const reservations = events.flatMap((event) => definition.reservations(sagaId, event, subject));
  return { ...unit, reservations };
}

function orderEvents(
  order: Order,
  commands: readonly FulfilmentCommand[],
  recordedAt: string,
): OrderEvent[] {
  const events: OrderEvent[] = [];
  let current = order;
  for (const command of commands) {
    for (const event of decide(command, current)) {
      events.push(event);
      current = evolve(current, recordNext(current, event, recordedAt));
    }
  }
  return events;
}

/** What a saga does belongs to the request that started it. */
function sagaMetadata(
  { correlationId, traceparent }: EventMetadata,
  sagaId: string,
  actor: string,
): EventMetadata {
  return {
    correlationId,
    causationId: sagaId,
    actor,
    ...(traceparent !== undefined && { traceparent }),
  };
}
