import { z } from 'zod';
import { createEventCodec } from '#src/event-store/event-codec.ts';
import type { StoredEvent } from '#src/event-store/event-store.ts';
import type { RecordedSagaEvent, SagaEvent } from './saga-events.ts';

const step = z.string();
const reason = z.string();
const at = z.string().optional();
const event = <const Type extends string, Data extends z.ZodType>(type: Type, data: Data) =>
  z.object({ type: z.literal(type), data });

const sagaEvent: z.ZodType<SagaEvent> = z.discriminatedUnion('type', [
  event(
    'SagaStarted',
    z.object({ definition: z.string(), definitionVersion: z.int(), subjectId: z.string() }),
  ),
  event('StepRequested', z.object({ step, key: z.string(), request: z.unknown(), at })),
  event(
    'StepAttempted',
    z.object({ step, outcome: z.enum(['not_applied', 'unknown']), reason, at }),
  ),
  event('StepDone', z.object({ step, result: z.unknown() })),
  event('StepRefused', z.object({ step, reason })),
  event('StepCancelled', z.object({ step })),
  event('StepGivenUp', z.object({ step, reason })),
  event('CompensationStarted', z.object({ reason })),
  event('SagaCompleted', z.object({})),
  event('SagaCompensated', z.object({ reason })),
  event('SagaStuck', z.object({ open: z.array(z.object({ step, reason })) })),
  event('RetryRequested', z.object({})),
  event(
    'StepResolved',
    z.object({
      step,
      outcome: z.enum(['done', 'notDone']),
      reference: z.string().nullable(),
      reason,
    }),
  ),
  event('StepReopened', z.object({ step, newKey: z.boolean(), at })),
]);

/** Reads stored events of sagas. */
export const sagaEventCodec = createEventCodec(sagaEvent, {
  SagaStarted: [],
  StepRequested: [],
  StepAttempted: [],
  StepDone: [],
  StepRefused: [],
  StepCancelled: [],
  StepGivenUp: [],
  CompensationStarted: [],
  SagaCompleted: [],
  SagaCompensated: [],
  SagaStuck: [],
  RetryRequested: [],
  StepResolved: [],
  StepReopened: [],
});

/** @throws EventUnreadable */
export function toRecordedSagaEvent(stored: StoredEvent): RecordedSagaEvent {
  return { ...sagaEventCodec.decode(stored), recordedAt: stored.recordedAt };
}
