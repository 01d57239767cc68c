import { v7 as uuidv7 } from 'uuid';
import type { UnitStore } from '#src/event-store/event-store.ts';
import type { OrderCommand } from '#src/orders/domain/order-commands.ts';
import { decide, OrderRejected } from '#src/orders/domain/order-commands.ts';
import type { OrderEvent } from '#src/orders/domain/order-events.ts';
import type { Order } from '#src/orders/domain/order.ts';
import { appendToOrder } from '#src/orders/order-stream.ts';
import type { Random } from './random.ts';

const SKUS = ['book', 'pen', 'lamp', 'chair'];
const CUSTOMERS = ['c-1', 'c-2', 'c-3'];
const REFERENCES = ['r-1', 'r-2', undefined, undefined];
/** So few that many orders are placed at the same time. */
const INSTANTS = 40;
/** Most of them are refused, or do nothing. */
const COMMANDS = 12;

const context = { metadata: { correlationId: 'test', actor: 'test' }, topic: 'orders' };

/** Writes orders with random histories, as commands make them. Each write gives an order one more command. */
export async function writeRandomOrders(
  store: UnitStore,
  random: Random,
  count: number,
): Promise<void> {
  let orders: readonly Placed[] = await write(
    store,
    Array.from({ length: count }, () => {
      const orderId = uuidv7();
      const at = Date.UTC(2026, 0, 1) + random.below(INSTANTS) * 60_000;
      return { orderId, order: null, events: decide(place(orderId, random), null), at };
    }),
  );
  for (let command = 0; command < COMMANDS; command += 1) {
    const next = orders.map(({ orderId, order, at }) => {
      return { orderId, order, events: eventsOf(order, random), at: at + 1 };
    });
    orders = await write(store, next);
  }
}

type Placed = Readonly<{ orderId: string; order: Order; at: number }>;
type Next = Readonly<{
  orderId: string;
  order: Order | null;
  events: readonly OrderEvent[];
  at: number;
}>;

async function write(store: UnitStore, all: readonly Next[]): Promise<Placed[]> {
  const appended = all.map(({ orderId, order, events, at }) => ({
    orderId,
    at,
    ...appendToOrder(orderId, order, events, {
      ...context,
      recordedAt: new Date(at).toISOString(),
    }),
  }));
  const verdicts = await store.write(appended.map(({ unit }) => unit));
  const refused = verdicts.find((verdict) => verdict !== 'ok');
  if (refused !== undefined) throw new Error(`an order was not written: ${refused}`);
  return appended;
}

function place(orderId: string, random: Random): OrderCommand {
  const pick = <T>(list: readonly T[]) => list[random.below(list.length)]!;
  const externalReference = pick(REFERENCES);
  return {
    type: 'PlaceOrder',
    orderId,
    customerId: pick(CUSTOMERS),
    currency: 'EUR',
    items: Array.from({ length: 1 + random.below(3) }, () => ({
      sku: pick(SKUS),
      quantity: 1 + random.below(2),
      priceCents: 100,
    })),
    ...(externalReference !== undefined && { externalReference }),
  };
}

/** What a random command causes. None if the rules refuse it. */
function eventsOf(order: Order, random: Random): OrderEvent[] {
  if (random.below(2) === 0) return [];
  const { lineId } = order.items[random.below(order.items.length)]!;
  const some = [{ lineId, quantity: 1 }];
  const id = uuidv7();
  const commands: OrderCommand[] = [
    { type: 'PayOrder', paymentId: id, amountCents: 50 + random.below(1_000) },
    { type: 'PayOrder', paymentId: id, amountCents: order.totalCents },
    { type: 'ShipOrder', trackingNumber: id, carrier: 'post' },
    { type: 'ShipOrder', trackingNumber: id, carrier: 'post', items: some },
    ...order.parcels.map(({ trackingNumber }) => ({
      type: 'DeliverParcel' as const,
      trackingNumber,
    })),
    { type: 'ReturnItems', returnId: id, items: some, reason: 'too small', restock: false },
    ...order.payments.flatMap(({ paymentId, amountCents }) =>
      [amountCents, 1 + random.below(amountCents)].map((cents) => ({
        type: 'RefundOrder' as const,
        refundId: id,
        paymentId,
        amountCents: cents,
        sagaId: id,
      })),
    ),
    { type: 'CancelOrder', reason: 'changed my mind' },
  ];
  try {
    return decide(commands[random.below(commands.length)]!, order);
  } catch (error) {
    if (error instanceof OrderRejected) return [];
    throw error;
  }
}
