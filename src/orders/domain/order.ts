import { z } from 'zod';
import type { OrderEvent, OrderEventData, RecordedOrderEvent } from './order-events.ts';

const id = z.string().meta({ format: 'uuid', examples: ['01999e5c-7c1f-7d3a-9f52-3b6f0c9d2a11'] });
const instant = z.string().meta({ format: 'date-time', examples: ['2026-01-31T12:00:00.000Z'] });
const cents = z.int().min(0).max(Number.MAX_SAFE_INTEGER);

/**
 * An order as callers see it: the body of every response that shows one. Fields that are not set are absent.
 * Times are ISO 8601 in UTC, amounts in the minor unit of the currency.
 */
export const orderView = z.object({
  orderId: id,
  customerId: z.string(),
  status: z.enum(['pending', 'paid', 'shipped', 'cancelled']),
  currency: z.string(),
  items: z.array(z.object({ sku: z.string(), quantity: z.int().min(1), priceCents: cents })),
  itemCount: z.int().min(1).describe('Number of entries in items.'),
  totalCents: cents,
  version: z.int().min(1).describe('Number of the last event of the order.'),
  placedAt: instant,
  paidAt: instant.optional().describe('When the payments covered the total.'),
  paymentId: z.string().optional().describe('The payment that covered the total.'),
  shippedAt: instant.optional(),
  trackingNumber: z.string().optional(),
  carrier: z.string().optional(),
  cancelledAt: instant.optional(),
  reason: z.string().optional().describe('Why the order was cancelled.'),
  refundAmountCents: cents.optional().describe('Captured before the order was cancelled.'),
  capturedCents: cents.describe('All payments together.'),
  refundedCents: cents.describe('All refunds together.'),
  owedCents: cents.describe('What must still be paid back to the customer.'),
  fulfilment: z
    .enum(['running', 'compensating', 'completed', 'compensated', 'stuck'])
    .optional()
    .describe('State of the automatic fulfilment. Absent if the order is fulfilled by hand.'),
  cancellationRequestedAt: instant.optional(),
});

/** An order, folded from its events: what callers see, and what only the rules need. */
export type Order = Readonly<z.infer<typeof orderView>> &
  Readonly<{
    payments: readonly OrderEventData<'PaymentCaptured'>[];
    refunds: readonly OrderEventData<'PaymentRefunded'>[];
    shipmentRequested: boolean;
  }>;

/** `stuck` is known to the saga only. The other states follow from the order's own events. */
export type FulfilmentState = NonNullable<Order['fulfilment']>;

/** The stream of an order does not start with `OrderPlaced`. */
export class StreamDamaged extends Error {
  constructor(version: number) {
    super(`an order's stream starts with version ${version} before OrderPlaced`);
    this.name = 'StreamDamaged';
  }
}

/**
 * Applies one event to the order, which is null before its first event. Whatever follows `OrderPlaced` is
 * applied, because history cannot be rejected.
 * @throws StreamDamaged if another event comes first
 */
export function evolve(order: Order | null, event: RecordedOrderEvent): Order {
  if (event.type === 'OrderPlaced') return placed(event);
  if (order === null) throw new StreamDamaged(event.version);
  const after = { ...order, ...changes(order, event), version: event.version };
  after.owedCents = owedCents(after);
  return after;
}

type Recorded<Type> = Extract<RecordedOrderEvent, { type: Type }>;

function placed({ data, version, recordedAt }: Recorded<'OrderPlaced'>): Order {
  const { orderId, customerId, currency, items, totalCents } = data;
  return {
    orderId,
    customerId,
    status: 'pending',
    currency,
    items,
    itemCount: items.length,
    totalCents,
    version,
    placedAt: recordedAt,
    capturedCents: 0,
    refundedCents: 0,
    owedCents: 0,
    payments: [],
    refunds: [],
    shipmentRequested: false,
  };
}

function changes(
  order: Order,
  event: Exclude<RecordedOrderEvent, { type: 'OrderPlaced' }>,
): Partial<Order> {
  const { recordedAt } = event;
  switch (event.type) {
    case 'PaymentCaptured':
      return captured(order, event);
    case 'OrderShipped': {
      const fields = { status: 'shipped', shippedAt: recordedAt } as const;
      return { ...event.data, ...end(order, fields, 'completed') };
    }
    case 'OrderCancelled': {
      const fields = { ...event.data, status: 'cancelled', cancelledAt: recordedAt } as const;
      return end(order, fields, 'compensated');
    }
    case 'PaymentRefunded': {
      const refundedCents = order.refundedCents + event.data.amountCents;
      return { refundedCents, refunds: [...order.refunds, event.data] };
    }
    case 'FulfilmentStarted':
      return { fulfilment: 'running' };
    case 'CancellationRequested':
      return { fulfilment: 'compensating', cancellationRequestedAt: recordedAt };
    case 'ShipmentRequested':
      return { shipmentRequested: true };
  }
}

/**
 * A pending order is paid when its payments cover the total. Once a saga runs, its first payment makes it
 * paid, whatever the amount: the saga itself judges what it captured.
 */
function captured(order: Order, { data, recordedAt }: Recorded<'PaymentCaptured'>): Partial<Order> {
  const capturedCents = order.capturedCents + data.amountCents;
  const money = { capturedCents, payments: [...order.payments, data] };
  const isCovered = order.fulfilment !== undefined || capturedCents >= order.totalCents;
  if (order.status !== 'pending' || !isCovered) return money;
  return { ...money, status: 'paid', paidAt: recordedAt, paymentId: data.paymentId };
}

/** An order ends once: what arrives after its end does not end it again. */
function end(order: Order, fields: Partial<Order>, fulfilment: FulfilmentState): Partial<Order> {
  if (isOver(order)) return {};
  return order.fulfilment === undefined ? fields : { ...fields, fulfilment };
}

/** Whether the order has ended: shipped or cancelled. */
export function isOver({ status }: Order): boolean {
  return status === 'shipped' || status === 'cancelled';
}

/**
 * What the order owes its customer, never below 0: all that was captured if it is cancelled, else what
 * exceeds its total; less what was refunded.
 */
export function owedCents(
  order: Pick<Order, 'status' | 'totalCents' | 'capturedCents' | 'refundedCents'>,
): number {
  const earnedCents = order.status === 'cancelled' ? 0 : order.totalCents;
  return Math.max(0, order.capturedCents - order.refundedCents - earnedCents);
}

/** The order as callers see it (`orderView`), as JSON text. */
export function toJson(order: Order): string {
  // JSON leaves out what is undefined. To spread is faster than to copy all other fields.
  return JSON.stringify({
    ...order,
    payments: undefined,
    refunds: undefined,
    shipmentRequested: undefined,
  });
}

/** The event as it is recorded next on the order. `recordedAt` is ISO 8601 in UTC. */
export function recordNext(
  order: Order | null,
  event: OrderEvent,
  recordedAt: string,
): RecordedOrderEvent {
  return { ...event, version: (order?.version ?? 0) + 1, recordedAt };
}
