import type { StoredEvent, Unit } from '#src/event-store/event-store.ts';
import { decide, evolve } from '#src/orders/domain/order.ts';
import type { Order } from '#src/orders/domain/order.ts';
import type { FulfilmentCommand } from '#src/orders/domain/order-commands.ts';
import type { OrderEvent } from '#src/orders/domain/order-events.ts';
import { ORDER_CATEGORY, toRecordedOrderEvent } from '#src/orders/order-event-codec.ts';
import { foldOrder } from '#src/orders/order-history.ts';
import { appendToOrder } from '#src/orders/order-units.ts';
import type { OrderRows } from '#src/orders/order-units.ts';
import { StreamDamaged } from '#src/orders/order-view.ts';
import type { SagaChange, SagaKind } from '#src/sagas/saga-kind.ts';
import { fulfilmentCalls } from './fulfilment-calls.ts';
import type { Providers } from './fulfilment-calls.ts';
import { orderCommandOf, reservationsOf } from './fulfilment-consequences.ts';
import { fulfilmentDefinition } from './fulfilment-definition.ts';
import type { FulfilledOrder, FulfilmentDeadlines } from './fulfilment-definition.ts';

const FULFILMENT_CATEGORY = 'fulfilment';

type Subject = FulfilledOrder & Readonly<{ order: Order }>;

/** The saga of an order, ready to be carried out. */
export type FulfilmentKind = SagaKind<Subject, OrderRows>;

/** Ties the definition to the order's rules, to the stock and to the providers. */
export function fulfilmentKind(
  providers: Providers,
  deadlines: FulfilmentDeadlines,
  topic: string,
): FulfilmentKind {
  return {
    definition: fulfilmentDefinition(deadlines),
    category: FULFILMENT_CATEGORY,
    foldSubject,
    refusals: { short: { step: 'reserve', reason: 'out of stock' } },
    calls: fulfilmentCalls(providers),
    unitOf: (change) => unitOf(change, topic),
  };
}

function foldSubject(stream: readonly StoredEvent[]): Subject {
  const { order, view } = foldOrder(stream);
  if (view === null) throw new StreamDamaged(0);
  const asked = stream.find(({ type }) => type === 'CancellationRequested');
  const request = asked && toRecordedOrderEvent(asked);
  const cancellation = request?.type === 'CancellationRequested' ? request.data.reason : null;
  return { order, view, cancellation };
}

/**
 * The events of the saga, with what they mean for the order, the stock and Kafka. Where they mean
 * nothing for the order its version is still checked.
 */
function unitOf(change: SagaChange<Subject>, topic: string): Unit<OrderRows> {
  const { sagaId, subject, events, append, work, metadata, at } = change;
  const { order, view } = subject;
  const { orderId, version } = view;
  const commands = events.flatMap((event) => orderCommandOf(event, subject) ?? []);
  const [first, ...rest] = factsOf(order, commands);
  const { appends, rows } = first
    ? appendToOrder({ orderId, view }, [first, ...rest], { recordedAt: at, metadata, topic }).unit
    : {
        appends: [
          { streamId: orderId, category: ORDER_CATEGORY, expectedVersion: version, events: [] },
        ],
        rows: { summaries: [], messages: [] },
      };
  return {
    appends: [append, ...appends],
    rows: {
      ...rows,
      sagas: [work],
      reservations: events.flatMap((event) => reservationsOf(sagaId, event, subject)),
    },
  };
}

function factsOf(order: Order, commands: readonly FulfilmentCommand[]): OrderEvent[] {
  const facts: OrderEvent[] = [];
  let current = order;
  for (const command of commands) {
    for (const event of decide(command, current)) {
      facts.push(event);
      current = evolve(current, event);
    }
  }
  return facts;
}
