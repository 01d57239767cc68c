import type { DatabaseClock } from '#src/database/clock.ts';
import { recordedAt } from '#src/event-store/event-store.ts';
import type {
  EventMetadata,
  Loaded,
  SagaWorkRow,
  StoredEvent,
  StreamAppend,
  Unit,
  Verdict,
} from '#src/event-store/event-store.ts';
import type { Decision } from '#src/event-store/group-commit.ts';
import { decide } from '#src/orders/domain/order-commands.ts';
import type { FulfilmentCommand } from '#src/orders/domain/order-commands.ts';
import type { OrderEvent } from '#src/orders/domain/order-events.ts';
import { StreamDamaged, evolve, recordNext } from '#src/orders/domain/order.ts';
import type { Order } from '#src/orders/domain/order.ts';
import { appendToOrder, foldOrder, toRecordedOrderEvent } from '#src/orders/order-stream.ts';
import { fullJitterMs } from '#src/workers/worker.ts';
import type { Backoff } from '#src/workers/worker.ts';
import { advance } from './saga-decisions.ts';
import type { Advance, Situation } from './saga-decisions.ts';
import type { SagaDefinition } from './saga-definition.ts';
import {
  SagaStreamDamaged,
  actionOf,
  foldSaga,
  reasonOf,
  toNewSagaEvent,
  toRecordedSagaEvent,
} from './saga.ts';
import type { Saga, SagaEvent } from './saga.ts';

/** What every commit of a saga needs. */
export type SagaCommitContext = Readonly<{
  /** The process's own clock, for what is recorded. */
  now: () => Date;
  /** The database's clock, for what is due. */
  clock: Pick<DatabaseClock, 'now'>;
  /** Where messages about the order go. */
  topic: string;
  limits: Readonly<{
    /** Between the attempts of a step. */
    retry: Backoff;
  }>;
}>;

/** A process that keeps sagas by leases. */
export type SagaHolder = Readonly<{ owner: string; leaseMs: number }>;

/** A saga to start, at the time of the commit that starts it. */
export type SagaStart = Readonly<{
  sagaId: string;
  orderId: string;
  metadata: EventMetadata;
  at: string;
}>;

/** What the unit that starts a saga must contain. */
export type BegunSaga = Readonly<{ append: StreamAppend; work: SagaWorkRow }>;

/** A saga without a holder is due at once, for anybody. */
export function beginSaga(
  { name, version }: SagaDefinition,
  { sagaId, orderId, metadata, at }: SagaStart,
  holder: SagaHolder | null,
): BegunSaga {
  const data = { definition: name, definitionVersion: version, subjectId: orderId };
  const started = { type: 'SagaStarted', data, recordedAt: at } as const;
  return {
    append: {
      streamId: sagaId,
      category: name,
      expectedVersion: 0,
      events: [toNewSagaEvent(started, metadata)],
    },
    work: {
      op: 'begin',
      saga_id: sagaId,
      subject_id: orderId,
      definition: name,
      definition_version: version,
      owner: holder?.owner ?? null,
      lease_ms: holder?.leaseMs ?? null,
      due_in_ms: holder?.leaseMs ?? 0,
    },
  };
}

/** One commit of a saga. */
export type SagaCommit = Readonly<{
  sagaId: string;
  orderId: string;
  /** The fencing token: the saga's row must be at this epoch. */
  epoch: number;
  /** Who keeps the saga for a call that follows. Null makes it due at once, for anybody. */
  holder: SagaHolder | null;
  /** How long the provider asks to wait before the next attempt. */
  retryAfterMs?: number | undefined;
  /**
   * The events to record on the saga at this version of its stream. Null if there is nothing to record any
   * more: nothing is written then.
   */
  newEvents(saga: Saga, situation: Situation, version: number): readonly SagaEvent[] | null;
  /** Who causes the commit. Left out, it is the saga itself. */
  metadata?: EventMetadata;
}>;

/** What was decided, and whether there was anything to write. */
export type SagaCommitted = Advance & Readonly<{ written: boolean }>;

/**
 * Decides one commit of a saga on the newest state of the saga and its order: the new events, everything that
 * follows from them, what that does to the order and to the stock, and the queue row. The order's version is
 * checked even if the order gets no new event, so that no decision is based on an order that has changed.
 * @returns the result null, and nothing to write, if another owner has the saga now, or if there is nothing to
 *   record any more
 */
export function decideCommit(
  definition: SagaDefinition,
  context: SagaCommitContext,
  commit: SagaCommit,
  loaded: Loaded,
  refusedBy: Verdict | undefined,
): Decision<SagaCommitted | null> {
  if (refusedBy === 'fenced') return { result: null };
  const { sagaId, orderId } = commit;
  const stream = loaded.stream(sagaId);
  const orderStream = loaded.stream(orderId);
  const saga = foldSaga(stream.map(toRecordedSagaEvent));
  const order = foldOrder(orderStream);
  const [first] = stream;
  if (saga === null || !first) throw new SagaStreamDamaged('nothing');
  if (order === null) throw new StreamDamaged(0);
  const at = recordedAt(context.now(), stream.at(-1)?.recordedAt, orderStream.at(-1)?.recordedAt);
  const situation = {
    definition,
    order: {
      sagaId,
      view: order,
      cancellation: definition.ignoresCancellation ? null : cancellationIn(orderStream),
    },
    at,
    now: context.clock.now().toISOString(),
    refusedBy,
  };
  const newEvents = commit.newEvents(saga, situation, stream.length);
  if (newEvents === null) return { result: null };

  const advanced = advance(saga, newEvents, situation);
  const { events } = advanced;
  if (events.length === 0) return { result: { ...advanced, written: false } };
  const metadata = commit.metadata ?? sagaMetadata(first.metadata, sagaId, definition.name);
  const append = {
    streamId: sagaId,
    category: definition.name,
    expectedVersion: stream.length,
    events: events.map((event) => toNewSagaEvent(event, metadata)),
  };
  const unit = orderUnit(advanced, situation, { metadata, topic: context.topic });
  return {
    unit: {
      ...unit,
      appends: [append, ...unit.appends],
      sagas: [workRow(commit, advanced, context)],
    },
    result: { ...advanced, written: true },
  };
}

/** Why the order is to be cancelled, if it is. */
function cancellationIn(stream: readonly StoredEvent[]): string | null {
  const stored = stream.find(({ type }) => type === 'CancellationRequested');
  const request = stored && toRecordedOrderEvent(stored);
  return request?.type === 'CancellationRequested' ? request.data.reason : null;
}

/** What the events of a saga do to its order, to the stock and to Kafka. */
function orderUnit(
  { events, saga }: Advance,
  { definition, order, at }: Situation,
  context: Readonly<{ metadata: EventMetadata; topic: string }>,
): Unit {
  const { view } = order;
  const commands = events.flatMap((event) => definition.orderCommand(event, order, saga) ?? []);
  const newEvents = orderEvents(view, commands, at);
  const { unit } = appendToOrder(view.orderId, view, newEvents, { ...context, recordedAt: at });
  const reservations = events.flatMap((event) => definition.reservations(event, order));
  return { ...unit, reservations: [...(unit.reservations ?? []), ...reservations] };
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

/** The saga's place in the queue: kept for the call that follows, due later, or at rest. */
function workRow(
  { sagaId, epoch, holder, retryAfterMs = 0 }: SagaCommit,
  { saga, todo }: Advance,
  { clock, limits }: SagaCommitContext,
): SagaWorkRow {
  const row = { op: 'advance', saga_id: sagaId, epoch, state: saga.state } as const;
  const reason = reasonOf(saga);
  const free = { owner: null, lease_ms: null };
  if (todo.kind === 'rest') {
    return { ...row, ...free, step: null, attempt: 0, reason, deadline_at: null, due_in_ms: null };
  }
  const { name, deadlineMs } = todo.action;
  const { attempts: attempt, triedFrom } = actionOf(saga, name);
  const deadline = triedFrom === null ? null : new Date(Date.parse(triedFrom) + deadlineMs);
  const step = { step: name, attempt, reason, deadline_at: deadline?.toISOString() ?? null };
  if (todo.kind === 'call') {
    if (holder === null) return { ...row, ...free, ...step, due_in_ms: 0 };
    const { owner, leaseMs } = holder;
    return { ...row, ...step, owner, lease_ms: leaseMs, due_in_ms: leaseMs };
  }
  const waitMs = Math.max(fullJitterMs(attempt, limits.retry), retryAfterMs);
  const nowMs = clock.now().getTime();
  const leftMs = Math.max(0, (deadline?.getTime() ?? nowMs + deadlineMs) - nowMs);
  return { ...row, ...free, ...step, due_in_ms: Math.ceil(Math.min(waitMs, leftMs)) };
}
