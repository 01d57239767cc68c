import type { OrderItem, RecordedOrderEvent } from './domain/order-events.ts';
import { isPaid, owedCents } from './domain/order-money.ts';

/** An order as people see it: the body of every answer that shows one. Unset fields are left out. */
export type OrderView = Readonly<{
  orderId: string;
  customerId: string;
  status: 'pending' | 'paid' | 'shipped' | 'cancelled';
  currency: string;
  items: readonly OrderItem[];
  itemCount: number;
  totalCents: number;
  version: number;
  placedAt: string;
  paidAt?: string;
  paymentId?: string;
  shippedAt?: string;
  trackingNumber?: string;
  carrier?: string;
  cancelledAt?: string;
  reason?: string;
  refundAmountCents?: number;
  capturedCents: number;
  refundedCents: number;
  /** What it owes its customer now: all that is left of a cancelled order's payments, else the excess. */
  owedCents: number;
  /** How far its saga is, as far as the order itself knows; absent where it is handled by hand. */
  fulfilment?: FulfilmentState;
  cancellationRequestedAt?: string;
}>;

/** `stuck` is known to the saga only; the others follow from the order's own events. */
export type FulfilmentState = 'running' | 'compensating' | 'completed' | 'compensated' | 'stuck';

/** An event came for an order whose first event is not `OrderPlaced`: the stream is damaged. */
export class StreamDamaged extends Error {
  constructor(version: number) {
    super(`an order's stream starts with version ${version} before OrderPlaced`);
    this.name = 'StreamDamaged';
  }
}

/** Folds one more event into the view; `null` is an order that has no event yet. */
export function evolveView(view: OrderView | null, event: RecordedOrderEvent): OrderView {
  const after = evolved(view, event);
  return { ...after, owedCents: owedCents(after) };
}

function evolved(view: OrderView | null, event: RecordedOrderEvent): OrderView {
  if (event.type === 'OrderPlaced') return placed(event);
  if (view === null) throw new StreamDamaged(event.version);
  const { version, recordedAt } = event;
  switch (event.type) {
    case 'PaymentCaptured': {
      const { amountCents, paymentId } = event.data;
      const after = { ...view, version, capturedCents: view.capturedCents + amountCents };
      const pays = view.status === 'pending' && isPaid(after, view.fulfilment !== undefined);
      return pays ? { ...after, status: 'paid', paidAt: recordedAt, paymentId } : after;
    }
    case 'OrderShipped':
      return {
        ...view,
        version,
        ...event.data,
        ...ended(view, { status: 'shipped', shippedAt: recordedAt, fulfilment: 'completed' }),
      };
    case 'OrderCancelled':
      return {
        ...view,
        version,
        ...ended(view, {
          ...event.data,
          status: 'cancelled',
          cancelledAt: recordedAt,
          fulfilment: 'compensated',
        }),
      };
    case 'PaymentRefunded':
      return { ...view, version, refundedCents: view.refundedCents + event.data.amountCents };
    case 'FulfilmentStarted':
      return { ...view, version, fulfilment: 'running' };
    case 'CancellationRequested':
      return { ...view, version, fulfilment: 'compensating', cancellationRequestedAt: recordedAt };
    case 'ShipmentRequested':
      return { ...view, version };
  }
}

function placed(event: Extract<RecordedOrderEvent, { type: 'OrderPlaced' }>): OrderView {
  const { orderId, customerId, currency, items, totalCents } = event.data;
  return {
    orderId,
    customerId,
    status: 'pending',
    currency,
    items,
    itemCount: items.length,
    totalCents,
    version: event.version,
    placedAt: event.recordedAt,
    capturedCents: 0,
    refundedCents: 0,
    owedCents: 0,
  };
}

type End = Partial<OrderView> & Readonly<{ status: 'shipped' | 'cancelled' }>;

function ended(view: OrderView, { fulfilment, ...end }: End): Partial<OrderView> {
  if (view.status === 'shipped' || view.status === 'cancelled') return {};
  return view.fulfilment && fulfilment ? { ...end, fulfilment } : end;
}
