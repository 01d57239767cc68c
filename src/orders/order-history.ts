import type { StoredEvent } from '#src/event-store/event-store.ts';
import { evolve, initialOrder } from './domain/order.ts';
import type { Order } from './domain/order.ts';
import { toRecordedOrderEvent } from './order-stream.ts';
import { evolveView } from './order-view.ts';
import type { OrderView } from './order-view.ts';

/** An order folded from its stream: for the rules, and for people. `view` is null before any event. */
export type OrderHistory = Readonly<{
  order: Order;
  view: OrderView | null;
  lastAt: string | null;
}>;

/** @throws EventUnreadable */
export function foldOrder(stream: readonly StoredEvent[]): OrderHistory {
  return stream.map(toRecordedOrderEvent).reduce<OrderHistory>(
    ({ order, view }, event) => ({
      order: evolve(order, event),
      view: evolveView(view, event),
      lastAt: event.recordedAt,
    }),
    { order: initialOrder, view: null, lastAt: null },
  );
}
