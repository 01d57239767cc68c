/**
 * What has happened to a saga. Stored for ever: a field may be added, never renamed or given another
 * meaning. `step` is the name of an action; `request` and `result` are JSON of its own. `at` is when, on
 * the database's clock (ISO 8601, UTC), for deadlines: `recordedAt` hangs on the clocks of all who wrote
 * before. It is absent where an earlier release wrote the event.
 */
export type SagaEvent =
  | Readonly<{
      type: 'SagaStarted';
      data: Readonly<{ definition: string; definitionVersion: number; subjectId: string }>;
    }>
  /** The intent: recorded before the call is made, with all that a repeat of it will say. */
  | Readonly<{
      type: 'StepRequested';
      data: Readonly<{ step: string; key: string; request: unknown; at?: string | undefined }>;
    }>
  /** A call that settled nothing. */
  | Readonly<{
      type: 'StepAttempted';
      data: Readonly<{
        step: string;
        outcome: 'not_applied' | 'unknown';
        reason: string;
        at?: string | undefined;
      }>;
    }>
  | Readonly<{ type: 'StepDone'; data: Readonly<{ step: string; result: unknown }> }>
  /** It has not happened under its key, and never will. */
  | Readonly<{ type: 'StepRefused'; data: Readonly<{ step: string; reason: string }> }>
  /** Settled by its key: it has not happened, and never will. */
  | Readonly<{ type: 'StepCancelled'; data: Readonly<{ step: string }> }>
  /** It is not tried again, and may have happened. */
  | Readonly<{ type: 'StepGivenUp'; data: Readonly<{ step: string; reason: string }> }>
  /** From here on all that was done is undone. */
  | Readonly<{ type: 'CompensationStarted'; data: Readonly<{ reason: string }> }>
  | Readonly<{ type: 'SagaCompleted'; data: Readonly<Record<string, never>> }>
  | Readonly<{ type: 'SagaCompensated'; data: Readonly<{ reason: string }> }>
  /** Nothing goes on without an operator. `open` is what is neither done nor undone, and why. */
  | Readonly<{
      type: 'SagaStuck';
      data: Readonly<{ open: readonly Readonly<{ step: string; reason: string }>[] }>;
    }>
  /** An operator had the saga try again. */
  | Readonly<{ type: 'RetryRequested'; data: Readonly<Record<string, never>> }>
  /** An operator found out what became of a step. */
  | Readonly<{
      type: 'StepResolved';
      data: Readonly<{
        step: string;
        outcome: 'done' | 'notDone';
        reference: string | null;
        reason: string;
      }>;
    }>
  /** Is tried again: under its key, or under a new one where the old can have no effect. */
  | Readonly<{
      type: 'StepReopened';
      data: Readonly<{ step: string; newKey: boolean; at?: string | undefined }>;
    }>;

export type SagaEventType = SagaEvent['type'];

/** An event of a saga with its time (ISO 8601, UTC). */
export type RecordedSagaEvent = SagaEvent & Readonly<{ recordedAt: string }>;
