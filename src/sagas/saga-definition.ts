import type { Saga } from './saga.ts';

/** Done by the very commit that records it: nothing outside is asked. */
export type LocalAction = Readonly<{ kind: 'local'; name: string }>;

/** A call outside. It is given up when it has not been settled `deadlineMs` after it was asked for. */
export type CallAction = Readonly<{ kind: 'call'; name: string; deadlineMs: number }>;

/** Something that a saga does. Names are snake_case and unique within the definition. */
export type SagaAction = LocalAction | CallAction;

/** One step forward, and the ways back from it. */
export type SagaStep = Readonly<{
  action: SagaAction;
  /**
   * Settles by key a call of this step that is still open: afterwards it has happened, or it never
   * will. A step without one can only wait for an operator.
   */
  cancel?: CallAction;
  /** Undoes the step once it is done. */
  compensation?: SagaAction;
  /** Once asked for, nothing before it is undone until it is settled. */
  pivot?: true;
}>;

/**
 * What a saga does, in order; pure. Change it only together with its version: sagas that are under way
 * go on by the version that they were started with.
 */
export type SagaDefinition<Subject> = Readonly<{
  name: string;
  version: number;
  steps: readonly SagaStep[];
  /** What a call is to say, frozen in its intent. It holds all that a repeat of the call needs. */
  request(action: string, saga: Saga, subject: Subject): unknown;
  /**
   * The result of a call for which there is nothing to do: it is done without being made. Undefined where
   * it is to be made. A call that is open already must not depend on a subject that changes.
   */
  withoutCall(action: string, saga: Saga, subject: Subject): unknown;
  /** The result of a step that an operator found done, told by its reference at the provider. */
  resultOf(action: string, reference: string, saga: Saga): unknown;
  /** Why the subject wants everything undone, if it does. */
  interruption(subject: Subject): string | null;
}>;

/** Every action of a definition, in the order in which they are shown. */
export function actionsOf({ steps }: Pick<SagaDefinition<never>, 'steps'>): readonly SagaAction[] {
  return [
    ...steps.map(({ action }) => action),
    ...steps.toReversed().flatMap(({ cancel, compensation }) => [cancel ?? [], compensation ?? []]),
  ].flat();
}

/** The step whose open call this action settles, if it is the cancel of one. */
export function cancelledStep(
  { steps }: Pick<SagaDefinition<never>, 'steps'>,
  action: string,
): SagaStep | undefined {
  return steps.find(({ cancel }) => cancel?.name === action);
}
