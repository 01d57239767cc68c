import { z } from 'zod';
import type { ReadPool } from '#src/database/database.ts';
import { instant, uuid } from '#src/http/fields.ts';
import type { FulfilmentState } from '#src/orders/domain/order.ts';
import type { SagaDefinition } from '#src/sagas/saga-definition.ts';
import type { Saga } from '#src/sagas/saga.ts';
import { FULFILMENT } from './fulfilment-definition.ts';
import { progressOf, sagaRows, sagaSteps } from './saga-view.ts';
import type { SagaRow } from './saga-view.ts';

/** A fulfilment as people see it. Unset fields are left out. */
export const fulfilmentResponse = z
  .object({
    sagaId: uuid,
    orderId: uuid,
    definitionVersion: z.int(),
    state: z.enum(['running', 'compensating', 'stuck', 'completed', 'compensated']),
    reason: z.string().optional(),
    ...sagaSteps,
    startedAt: instant,
    updatedAt: instant,
  })
  .meta({ id: 'Fulfilment' });

export type FulfilmentView = z.infer<typeof fulfilmentResponse>;

/** Shows the saga of a fulfilment with its place in the queue. */
export function toFulfilmentView(
  saga: Saga,
  row: SagaRow,
  definition: SagaDefinition,
): FulfilmentView {
  const { state, reason, steps, open } = progressOf(saga, row, definition);
  return {
    sagaId: row.sagaId,
    orderId: saga.orderId,
    definitionVersion: saga.definitionVersion,
    state,
    ...(reason !== null && { reason }),
    steps,
    open,
    startedAt: saga.startedAt,
    updatedAt: saga.lastAt,
  };
}

/** Null if the order has no fulfilment, or is not an order of the customer if one is given. */
export async function readFulfilmentRow(
  reads: ReadPool,
  orderId: string,
  customerId?: string,
): Promise<SagaRow | null> {
  const query = sagaRows(reads).where({ subject_id: orderId, definition: FULFILMENT });
  if (customerId !== undefined) {
    const owned = reads
      .knex('orders_summary')
      .where({ order_id: orderId, customer_id: customerId });
    query.whereExists(owned.select(reads.knex.raw('1')));
  }
  const [row] = await reads.rows<SagaRow>(query);
  return row ?? null;
}

/** The states of the fulfilments of these orders. An order without a fulfilment is left out. */
export async function readFulfilmentStates(
  reads: ReadPool,
  orderIds: readonly string[],
): Promise<ReadonlyMap<string, FulfilmentState>> {
  if (orderIds.length === 0) return new Map();
  const query = reads
    .knex('saga_work')
    .where('definition', FULFILMENT)
    .whereIn('subject_id', [...orderIds])
    .select({ orderId: 'subject_id', state: 'state' });
  const rows = await reads.rows<Readonly<{ orderId: string; state: FulfilmentState }>>(query);
  return new Map(rows.map(({ orderId, state }) => [orderId, state]));
}
