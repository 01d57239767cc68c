import { z } from 'zod';
import type { ReadPool } from '#src/database/database.ts';
import { instant } from '#src/http/fields.ts';
import { openSteps } from '#src/sagas/saga-decisions.ts';
import { actionsOf } from '#src/sagas/saga-definition.ts';
import type { SagaDefinition } from '#src/sagas/saga-definition.ts';
import { actionOf, isLive, reasonOf } from '#src/sagas/saga.ts';
import type { Saga, SagaState } from '#src/sagas/saga.ts';

/** The steps of a saga as people see them, and where it is stuck. Unset fields are left out. */
export const sagaSteps = {
  steps: z.array(
    z.object({
      step: z.string(),
      state: z.enum(['pending', 'requested', 'done', 'refused', 'cancelled', 'given_up']),
      attempts: z.int(),
      skipped: z
        .literal(true)
        .optional()
        .describe('It is done without a call, because there was nothing to do.'),
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
};

const stepsSchema = z.object(sagaSteps);
export type SagaSteps = z.infer<typeof stepsSchema>;
type StepView = SagaSteps['steps'][number];

/** What a saga has come to. */
export type SagaProgress = Readonly<{ state: SagaState; reason: string | null }> & SagaSteps;

const resultObject = z.record(z.string(), z.unknown());

/**
 * A saga with its place in the queue. Forward steps are always shown, cancels and compensations only once they are
 * needed.
 */
export function progressOf(saga: Saga, row: SagaRow, definition: SagaDefinition): SagaProgress {
  const forward = new Set(definition.steps.map(({ action }) => action.name));
  const shown = actionsOf(definition).filter(
    ({ name }) => forward.has(name) || actionOf(saga, name).state !== 'pending',
  );
  const setAside = isSetAside(row, saga);
  return {
    state: setAside ? 'stuck' : saga.state,
    reason: setAside ? row.reason : reasonOf(saga),
    steps: shown.map(({ name, kind }) => stepView(name, kind === 'call', saga, row)),
    open: saga.state === 'stuck' ? openSteps(saga, definition) : [],
  };
}

/** Its runs failed too often, so that it waits for an operator although its events do not say so. */
export function isSetAside(row: Pick<SagaRow, 'state'>, saga: Saga): boolean {
  return row.state === 'stuck' && isLive(saga);
}

function stepView(step: string, isCall: boolean, saga: Saga, row: SagaRow): StepView {
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
    ...(isCall && state === 'done' && key === null && { skipped: true }),
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

/** A saga in the queue, or among those that have ended. */
export type SagaRow = Readonly<{
  sagaId: string;
  state: SagaState;
  reason: string | null;
  definition: string;
  definitionVersion: number;
  /** Grows with every change of owner. */
  epoch: number;
  step: string | null;
  attempt: number;
  /** When it is tried next. Null while it is being tried. */
  dueAt: Date | null;
  deadlineAt: Date | null;
}>;

/** Builds a query of rows of sagas, for a condition to be added. */
export function sagaRows({ knex }: ReadPool) {
  return knex('saga_work').select({
    sagaId: 'saga_id',
    state: 'state',
    reason: 'reason',
    definition: 'definition',
    definitionVersion: 'definition_version',
    epoch: 'epoch',
    step: 'step',
    attempt: 'attempt',
    dueAt: knex.raw('case when owner is null then due_at end'),
    deadlineAt: 'deadline_at',
  });
}
