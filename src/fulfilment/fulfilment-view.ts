import { z } from 'zod';
import { instant, uuid } from '#src/http/fields.ts';
import { openSteps } from '#src/sagas/saga-decisions.ts';
import { actionsOf } from '#src/sagas/saga-definition.ts';
import type { SagaDefinition } from '#src/sagas/saga-definition.ts';
import { actionOf, isLive, reasonOf } from '#src/sagas/saga.ts';
import type { Saga } from '#src/sagas/saga.ts';
import type { FulfilmentRow } from './fulfilment-queries.ts';

/** A fulfilment as people see it. Unset fields are left out. */
export const fulfilmentAnswer = z
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

export type FulfilmentView = z.infer<typeof fulfilmentAnswer>;
type StepView = FulfilmentView['steps'][number];

const resultObject = z.record(z.string(), z.unknown());

/**
 * Shows a saga with its place in the queue. Steps forward are always there; what undoes them is once it
 * is needed.
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
    orderId: saga.subjectId,
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
    ...(isNext && row.dueAt !== null && { nextTryAt: row.dueAt }),
    ...(isNext && row.deadlineAt !== null && { deadlineAt: row.deadlineAt }),
  };
}
