import { z } from 'zod';
import type { ReadPool } from '#src/database/database.ts';
import { instant, uuid } from '#src/http/fields.ts';
import { orderView } from '#src/orders/domain/order-view.ts';
import type { Order } from '#src/orders/domain/order.ts';
import type { SagaDefinition } from '#src/sagas/saga-definition.ts';
import { actionOf } from '#src/sagas/saga.ts';
import type { Saga, SagaState } from '#src/sagas/saga.ts';
import { REFUND } from './refund-definition.ts';
import { progressOf, sagaRows, sagaSteps } from './saga-view.ts';
import type { SagaRow } from './saga-view.ts';

type OrderRefund = Order['refunds'][number];

const state = z
  .enum(['requested', 'stuck', 'refunded', 'failed'])
  .describe(
    'requested: the provider has not confirmed it yet. stuck: it waits for an operator. failed: the ' +
      'provider refused it.',
  );

/** A refund in a list. */
const refundSummary = orderView.shape.refunds.element.extend({
  state,
  attempts: z.int().optional().describe('While it is under way: attempts so far.'),
  stuckReason: z.string().optional(),
  nextTryAt: instant.optional(),
  deadlineAt: instant.optional(),
});

/** All refunds of an order. */
export const refundList = z.object({ data: z.array(refundSummary) }).meta({ id: 'RefundList' });

/** One refund as people see it. A refund that was made elsewhere and then recorded has no steps. */
export const refundResponse = orderView.shape.refunds.element
  .extend({ orderId: uuid, currency: z.string(), state, ...sagaSteps })
  .meta({ id: 'Refund' });

export type RefundView = z.infer<typeof refundResponse>;

/** Shows a refund that nobody asks the provider for. */
export function toRecordedRefund(order: Order, refund: OrderRefund): RefundView {
  const { orderId, currency } = order;
  return { ...refund, orderId, currency, steps: [], open: [] };
}

/** Shows a refund with its saga. What the saga records, it records on the order in the same commit. */
export function toRefundView(order: Order, refund: OrderRefund) {
  return (saga: Saga, row: SagaRow, definition: SagaDefinition): RefundView => {
    const { refundId, paymentId, amountCents, reason, returnId, sagaId, requestedAt } = refund;
    const { state: progress, steps, open } = progressOf(saga, row, definition);
    return {
      refundId,
      orderId: order.orderId,
      paymentId,
      amountCents,
      currency: order.currency,
      ...outcomeOf(saga, progress),
      ...(reason !== undefined && { reason }),
      ...(returnId !== undefined && { returnId }),
      ...(sagaId !== undefined && { sagaId }),
      ...(requestedAt !== undefined && { requestedAt }),
      steps,
      open,
    };
  };
}

/** How the state of a saga is called where it is a refund. */
export function refundState(state: SagaState): RefundView['state'] {
  switch (state) {
    case 'running':
    case 'compensating':
      return 'requested';
    case 'stuck':
      return 'stuck';
    case 'completed':
      return 'refunded';
    case 'compensated':
      return 'failed';
  }
}

function outcomeOf(
  saga: Saga,
  progress: SagaState,
): Pick<RefundView, 'state' | 'refundedAt' | 'failedAt' | 'failure'> {
  const state = refundState(progress);
  const { settledAt, reason } = actionOf(saga, REFUND);
  const at = settledAt ?? saga.lastAt;
  return {
    state,
    ...(state === 'refunded' && { refundedAt: at }),
    ...(state === 'failed' && { failedAt: at, failure: reason ?? 'refused' }),
  };
}

/** The row of a saga of a refund. Null if there is none. */
export async function readRefundRow(reads: ReadPool, sagaId: string): Promise<SagaRow | null> {
  const [row] = await reads.rows<SagaRow>(sagaRows(reads).where('saga_id', sagaId));
  return row ?? null;
}

/** The refunds of an order, those under way with what their sagas do next. */
export async function listRefunds(
  reads: ReadPool,
  { refunds }: Order,
): Promise<z.infer<typeof refundList>> {
  const open = refunds.flatMap(({ state, sagaId }) =>
    state === 'requested' && sagaId !== undefined ? [sagaId] : [],
  );
  const rows =
    open.length === 0 ? [] : await reads.rows<SagaRow>(sagaRows(reads).whereIn('saga_id', open));
  const rowOf = new Map(rows.map((row) => [row.sagaId, row]));
  const data = refunds.map((refund) => {
    const row = refund.state === 'requested' ? rowOf.get(refund.sagaId ?? '') : undefined;
    return row ? { ...refund, ...stateIn(row) } : refund;
  });
  return { data };
}

function stateIn({ state, reason, attempt, dueAt, deadlineAt }: SagaRow) {
  if (state === 'stuck') {
    return { state: 'stuck', ...(reason !== null && { stuckReason: reason }) } as const;
  }
  return {
    state: 'requested',
    attempts: attempt,
    ...(dueAt !== null && { nextTryAt: dueAt.toISOString() }),
    ...(deadlineAt !== null && { deadlineAt: deadlineAt.toISOString() }),
  } as const;
}
