import { z } from 'zod';
import type { ReadPool } from '#src/database/database.ts';
import { instant, uuid } from '#src/http/fields.ts';
import type { FulfilmentState } from '#src/orders/domain/order.ts';
import { openSteps } from '#src/sagas/saga-decisions.ts';
import { actionsOf } from '#src/sagas/saga-definition.ts';
import type { SagaDefinition } from '#src/sagas/saga-definition.ts';
import { actionOf, isLive, reasonOf } from '#src/sagas/saga.ts';
import type { Saga } from '#src/sagas/saga.ts';

/** A fulfilment as people see it. Unset fields are left out. */
export const fulfilmentResponse = z
  .object({
    sagaId: uuid,
    orderId: uuid,
    definitionVersion: z.int(),
    state: z.enum(['running', 'compensating', 'stuck', 'completed', 'compensated']),
    reason: z.string().optional(),
    steps: z.array(
      z.object({
        step: z.string(),
        state: z.enum(['pending', 'requested', 'done', 'refused', 'cancelled', 'given_up']),
        attempts: z.int(),
        key: z.string().optional(),
        outcome: z.enum(['ok', 'refused', 'not_applied', 'unknown']).optional(),
        reason: z.string().optional(),
        result: z.record(z.string(), z.unknown()).optional(),
        requestedAt: instant.optional(),
        settledAt: instant.optional(),
        nextTryAt: instant.optional(),
        deadlineAt: instant.optional(),
      }),
    ),
    open: z.array(z.object({ step: z.string(), reason: z.string() })),
    startedAt: instant,
    updatedAt: instant,
  })
  .meta({ id: 'Fulfilment' });

export type FulfilmentView = z.infer<typeof fulfilmentResponse>;
type StepView = FulfilmentView['steps'][number];

const resultObject = z.record(z.string(), z.unknown());

/**
 * Shows a saga with its place in the queue. Forward steps are always shown, cancels and compensations only
 * once they are needed.
 */
export function toFulfilmentView(
  saga: Saga,
  row: FulfilmentRow,
  definition: SagaDefinition,
): FulfilmentView {
  const forward = new Set(definition.steps.map(({ action }) => action.name));
  const shown = actionsOf(definition).filter(
    ({ name }) => forward.has(name) || actionOf(saga, name).state !== 'pending',
  );
  const isSetAside = row.state === 'stuck' && isLive(saga);
  const reason = isSetAside ? row.reason : reasonOf(saga);
  return {
    sagaId: row.sagaId,
    orderId: saga.orderId,
    definitionVersion: saga.definitionVersion,
    state: isSetAside ? 'stuck' : saga.state,
    ...(reason !== null && { reason }),
    steps: shown.map(({ name }) => stepView(name, saga, row)),
    open: saga.state === 'stuck' ? openSteps(saga, definition) : [],
    startedAt: saga.startedAt,
    updatedAt: saga.lastAt,
  };
}

function stepView(step: string, saga: Saga, row: FulfilmentRow): StepView {
  const { state, attempts, key, outcome, reason, result, requestedAt, settledAt } = actionOf(
    saga,
    step,
  );
  const details = resultObject.safeParse(result).data;
  const isNext = row.step === step && state === 'requested';
  return {
    step,
    state,
    attempts,
    ...(key !== null && { key }),
    ...(outcome !== null && { outcome }),
    ...(reason !== null && { reason }),
    ...(details && Object.keys(details).length > 0 && { result: details }),
    ...(requestedAt !== null && { requestedAt }),
    ...(settledAt !== null && { settledAt }),
    ...(isNext && row.dueAt !== null && { nextTryAt: row.dueAt.toISOString() }),
    ...(isNext && row.deadlineAt !== null && { deadlineAt: row.deadlineAt.toISOString() }),
  };
}

/** The fulfilment of an order in the queue. */
export type FulfilmentRow = Readonly<{
  sagaId: string;
  state: FulfilmentState;
  reason: string | null;
  definitionVersion: number;
  /** Grows with every change of owner. */
  epoch: number;
  step: string | null;
  /** When it is tried next. Null while it is being tried. */
  dueAt: Date | null;
  deadlineAt: Date | null;
}>;

const fulfilments = ({ knex }: ReadPool) => knex('saga_work').where('definition', 'fulfilment');

/** Null if the order has no fulfilment, or is not an order of the customer if one is given. */
export async function readFulfilmentRow(
  reads: ReadPool,
  orderId: string,
  customerId?: string,
): Promise<FulfilmentRow | null> {
  const query = fulfilments(reads)
    .where('subject_id', orderId)
    .select({
      sagaId: 'saga_id',
      state: 'state',
      reason: 'reason',
      definitionVersion: 'definition_version',
      epoch: 'epoch',
      step: 'step',
      dueAt: reads.knex.raw('case when owner is null then due_at end'),
      deadlineAt: 'deadline_at',
    });
  if (customerId !== undefined) {
    const owned = reads
      .knex('orders_summary')
      .where({ order_id: orderId, customer_id: customerId });
    query.whereExists(owned.select(reads.knex.raw('1')));
  }
  const [row] = await reads.rows<FulfilmentRow>(query);
  return row ?? null;
}

/** The states of the fulfilments of these orders. An order without a fulfilment is left out. */
export async function readFulfilmentStates(
  reads: ReadPool,
  orderIds: readonly string[],
): Promise<ReadonlyMap<string, FulfilmentState>> {
  if (orderIds.length === 0) return new Map();
  const query = fulfilments(reads)
    .whereIn('subject_id', [...orderIds])
    .select({ orderId: 'subject_id', state: 'state' });
  const rows = await reads.rows<Readonly<{ orderId: string; state: FulfilmentState }>>(query);
  return new Map(rows.map(({ orderId, state }) => [orderId, state]));
}
