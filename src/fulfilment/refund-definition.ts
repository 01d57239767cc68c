import type { FulfilmentCommand } from '#src/orders/domain/order-commands.ts';
import type { Order } from '#src/orders/domain/order.ts';
import type { CallAction, SagaDefinition, SagaOrder } from '#src/sagas/saga-definition.ts';
import { actionOf } from '#src/sagas/saga.ts';
import type { SagaEvent } from '#src/sagas/saga.ts';
import { refundCall } from './fulfilment-calls.ts';
import { refund as refunded, refundRequest } from './providers/providers.ts';
import type { PaymentProvider } from './providers/providers.ts';

/** The name of its definitions, whatever their version. */
export const REFUND = 'refund';

/**
 * One refund of a payment that the fulfilment captured. It asks the provider under one key for ever. A refund that
 * cannot be found out waits for an operator: to ask under another key could give the money back twice.
 */
export function refundDefinition(
  { undoMs }: Readonly<{ undoMs: number }>,
  payments?: PaymentProvider,
): SagaDefinition {
  return {
    name: REFUND,
    version: 1,
    steps: [{ action: refund(undoMs), pivot: true }],
    calls: payments ? { refund: refundCall(payments) } : {},
    orderCommand,
    reservations: () => [],
    ignoresCancellation: true,
  };
}

function refund(deadlineMs: number): CallAction {
  return {
    kind: 'call',
    name: 'refund',
    deadlineMs,
    request: (_, order) => {
      const { paymentId, amountCents } = refundOf(order);
      const { orderId, currency } = order.view;
      return refundRequest.parse({ orderId, paymentId, amountCents, currency });
    },
    resultOf: (refundId, saga) =>
      refunded.parse({ ...refundRequest.parse(actionOf(saga, 'refund').request), refundId }),
  };
}

/**
 * The order's refund keeps the id that its caller gave it. The result, with the provider's id, is in the saga.
 */
function orderCommand(event: SagaEvent, order: SagaOrder): FulfilmentCommand | null {
  if (event.type === 'StepDone') {
    const { refundId, paymentId, amountCents } = refundOf(order);
    return { type: 'RecordRefund', refundId, paymentId, amountCents };
  }
  if (event.type === 'StepRefused') {
    const { refundId } = refundOf(order);
    return { type: 'FailRefund', refundId, reason: event.data.reason };
  }
  return null;
}

/** The refund that the saga was started for. */
function refundOf({ sagaId, view }: SagaOrder): Order['refunds'][number] {
  const refund = view.refunds.find((known) => known.sagaId === sagaId);
  if (!refund) throw new Error(`order ${view.orderId} has no refund of saga ${sagaId}`);
  return refund;
}
