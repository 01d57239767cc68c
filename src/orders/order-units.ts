import type { EventMetadata, StreamAppend, Unit } from '#src/event-store/event-store.ts';
import type { WriteFunction } from '#src/event-store/postgres-unit-store.ts';
import type { OrderEvent } from './domain/order-events.ts';
import { ORDER_CATEGORY, orderEventCodec } from './order-event-codec.ts';
import { toMessageRow } from './order-messages.ts';
import type { OrderMessageRow } from './order-messages.ts';
import { evolveView } from './order-view.ts';
import type { FulfilmentState, OrderView, RecordedOrderEvent } from './order-view.ts';
import { toOrdersSummaryRow } from './orders-summary.ts';
import type { OrdersSummaryRow } from './orders-summary.ts';

/** The rows that a unit writes beside its events. */
export type OrderRows = Readonly<{
  summaries: readonly OrdersSummaryRow[];
  messages: readonly OrderMessageRow[];
  sagas?: readonly SagaWorkRow[];
  reservations?: readonly ReservationRow[];
}>;

/**
 * Stock that a saga takes, all or nothing (else the verdict is `short`), and what becomes of all that
 * it holds: it goes back on the shelf, or has left the house.
 */
export type ReservationRow =
  | Readonly<{ op: 'reserve'; reservation_id: string; sku: string; quantity: number }>
  | Readonly<{ op: 'release' | 'consume'; reservation_id: string }>;

/**
 * What a unit does to `saga_work`, named as its columns. Times are on the database's clock, so they are sent
 * as spans. Only the deadline is an instant: it follows from the saga's events.
 */
export type SagaWorkRow =
  | Readonly<{
      op: 'begin';
      saga_id: string;
      subject_id: string;
      definition: string;
      definition_version: number;
      owner: string | null;
      lease_ms: number | null;
      due_in_ms: number;
    }>
  | Readonly<{
      op: 'advance';
      saga_id: string;
      /** The fencing token: the row must be at this epoch. */
      epoch: number;
      state: FulfilmentState;
      step: string | null;
      attempt: number;
      reason: string | null;
      /** The owner keeps the saga, and its lease starts anew. Null gives it back, which ends the epoch. */
      owner: string | null;
      lease_ms: number | null;
      /** Null: there is nothing left to do. */
      due_in_ms: number | null;
      deadline_at: string | null;
    }>
  /** Makes the live saga of an order due at once, whoever holds it: the order is to be cancelled. */
  | Readonly<{ op: 'wake'; subject_id: string }>;

/** Calls `write_units` of the migrations; its arguments are in their order there. */
export const writeUnits: WriteFunction<OrderRows> = {
  name: 'write_units',
  arguments: (units) => [
    units.flatMap(({ rows }, unit) =>
      rows.summaries.map((columns) => ({ unit, order_id: columns.order_id, columns })),
    ),
    units.flatMap(({ rows }, unit) => rows.messages.map((row) => ({ unit, ...row }))),
    units.flatMap(({ rows }, unit) => rows.sagas?.map((row) => ({ unit, ...row })) ?? []),
    units.flatMap(({ rows }, unit) => rows.reservations?.map((row) => ({ unit, ...row })) ?? []),
  ],
};

/** An order at one version, as people see it; `view` is null before its first event. */
export type OrderAt = Readonly<{ orderId: string; view: OrderView | null }>;

/** What new events do to an order, and the unit that makes it so. */
export type OrderAppend = Readonly<{ view: OrderView; unit: Unit<OrderRows> }>;

/** Builds the unit that appends `events` (at least one) to an order, at `recordedAt`. */
export function appendToOrder(
  { orderId, view }: OrderAt,
  events: readonly [OrderEvent, ...OrderEvent[]],
  context: Readonly<{ recordedAt: string; metadata: EventMetadata; topic: string }>,
): OrderAppend {
  const { recordedAt, metadata, topic } = context;
  const expectedVersion = view?.version ?? 0;
  const record = (event: OrderEvent, index: number): RecordedOrderEvent => ({
    ...event,
    version: expectedVersion + 1 + index,
    recordedAt,
  });
  const recorded = events.map(record);
  const [first, ...rest] = events;
  const after = rest.reduce(
    (sofar, event, index) => evolveView(sofar, record(event, index + 1)),
    evolveView(view, record(first, 0)),
  );
  const append: StreamAppend = {
    streamId: orderId,
    category: ORDER_CATEGORY,
    expectedVersion,
    events: events.map(({ type, data }) => ({
      type,
      schemaVersion: orderEventCodec.schemaVersion(type),
      data,
      metadata,
      recordedAt,
    })),
  };
  return {
    view: after,
    unit: {
      appends: [append],
      rows: {
        summaries: [toOrdersSummaryRow(after)],
        messages: recorded.map((event) => toMessageRow(orderId, event, metadata, topic)),
      },
    },
  };
}
