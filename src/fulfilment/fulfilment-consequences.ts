import type { FulfilmentCommand } from '#src/orders/domain/order-commands.ts';
import type { OrderItem } from '#src/orders/domain/order-events.ts';
import type { OrderView } from '#src/orders/order-view.ts';
import type { ReservationRow } from '#src/orders/order-units.ts';
import type { SagaEvent } from '#src/sagas/saga.ts';
import type { FulfilledOrder } from './fulfilment-definition.ts';
import { captured, refunded, shipped } from './fulfilment-facts.ts';

/** In code points: half a character cannot be stored. */
const REASON_LENGTH_MAX = 500;

/** What an event of the saga is for the order. */
export function orderCommandOf(
  event: SagaEvent,
  { view }: FulfilledOrder,
): FulfilmentCommand | null {
  switch (event.type) {
    case 'StepRequested':
      return event.data.step === 'ship' ? { type: 'RequestShipment' } : null;
    case 'StepDone':
      return factOf(event.data.step, event.data.result, view);
    case 'SagaCompensated':
      return {
        type: 'FinishCancellation',
        reason: Array.from(event.data.reason).slice(0, REASON_LENGTH_MAX).join(''),
      };
    case 'SagaStarted':
    case 'StepAttempted':
    case 'StepRefused':
    case 'StepCancelled':
    case 'StepGivenUp':
    case 'CompensationStarted':
    case 'SagaCompleted':
    case 'SagaStuck':
    case 'RetryRequested':
    case 'StepResolved':
    case 'StepReopened':
      return null;
  }
}

/**
 * Money in another currency than the order's is told by the saga alone: the order's own amounts could
 * not say it. Nor is 0 a payment or a refund, but that it pays an order that costs nothing.
 */
function factOf(step: string, result: unknown, view: OrderView): FulfilmentCommand | null {
  switch (step) {
    case 'capture': {
      const { paymentId, amountCents, currency } = captured.parse(result);
      const pays = amountCents > 0 || (view.totalCents === 0 && view.status === 'pending');
      const fact = { type: 'RecordPayment', paymentId, amountCents } as const;
      return pays && currency === view.currency ? fact : null;
    }
    case 'refund': {
      const { refundId, paymentId, amountCents, currency } = refunded.parse(result);
      const fact = { type: 'RecordRefund', refundId, paymentId, amountCents } as const;
      return amountCents > 0 && currency === view.currency ? fact : null;
    }
    case 'ship':
      return { type: 'RecordShipment', ...shipped.parse(result) };
    default:
      return null;
  }
}

/** What an event of the saga moves in the stock. */
export function reservationsOf(
  sagaId: string,
  event: SagaEvent,
  { view }: FulfilledOrder,
): ReservationRow[] {
  if (event.type !== 'StepDone') return [];
  switch (event.data.step) {
    case 'reserve':
      return quantities(view.items).map(([sku, quantity]) => ({
        op: 'reserve',
        reservation_id: sagaId,
        sku,
        quantity,
      }));
    case 'release':
      return [{ op: 'release', reservation_id: sagaId }];
    case 'ship':
      return [{ op: 'consume', reservation_id: sagaId }];
    default:
      return [];
  }
}

/** A sku may stand in several lines. */
function quantities(items: readonly OrderItem[]): [string, number][] {
  const bySku = new Map<string, number>();
  for (const { sku, quantity } of items) bySku.set(sku, (bySku.get(sku) ?? 0) + quantity);
  return [...bySku];
}
