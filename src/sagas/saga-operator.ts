import { randomUUID } from 'node:crypto';
import type { FullResponse, KeyRef, StoredResponse } from '#src/event-store/event-store.ts';
import type { Decision, GroupCommit } from '#src/event-store/group-commit.ts';
import { decideCommit } from './saga-commit.ts';
import type { SagaCommit, SagaCommitContext } from './saga-commit.ts';
import { openSteps } from './saga-decisions.ts';
import { actionsOf } from './saga-definition.ts';
import type { SagaDefinition } from './saga-definition.ts';
import { actionOf } from './saga.ts';
import type { Saga, SagaEvent, SagaState } from './saga.ts';

/** What an operator found out about a step of a stuck saga. */
export type Resolution = Readonly<{
  step: string;
  outcome: 'done' | 'notDone';
  /** The provider's id of it. Needed if it was done. */
  reference: string | null;
  reason: string;
}>;

/** An operator can only change a stuck saga. */
export class SagaNotStuck extends Error {
  /** The name of the saga's definition. */
  readonly definition: string;
  readonly state: SagaState;

  constructor({ definition, state }: Pick<Saga, 'definition' | 'state'>) {
    super(`the saga is ${state}, not stuck`);
    this.name = 'SagaNotStuck';
    this.definition = definition;
    this.state = state;
  }
}

/** The saga is not stuck at this step. */
export class StepNotOpen extends Error {
  readonly open: readonly string[];

  constructor(step: string, open: readonly string[]) {
    super(`${step} is not open`);
    this.name = 'StepNotOpen';
    this.open = open;
  }
}

/** The saga that an operator changes, and who the operator is. `epoch` is that at which the operator read it. */
export type OperatedSaga = Readonly<
  Required<Pick<SagaCommit, 'sagaId' | 'orderId' | 'epoch' | 'metadata'>>
>;

/** What an operator does to a saga, and the response. */
export type Operation = Readonly<{
  /** The events to record, given the saga at this version of its stream. */
  decide(saga: Saga, definition: SagaDefinition, version: number): SagaEvent[];
  /** The response, given the saga after those events and the version of its stream. */
  respond(saga: Saga, version: number): FullResponse;
  /** The operator's idempotency key, stored with the response in the same transaction. */
  key?: KeyRef | undefined;
}>;

/** `replayed`: an earlier request with the same key took effect. The caller compares the hashes. */
export type Operated = Readonly<{ response: StoredResponse; replayed: boolean }>;

/**
 * Commits what an operator decides on a stuck saga, and makes the saga due. `definitionOf` may throw if this
 * process cannot run the saga. It is not called for a replay, which therefore works all the same.
 * @returns null if the saga has moved on since the operator read it: nothing was written
 * @throws what `definitionOf`, `decide` or `submit` of the group commit throws
 */
export function operateSaga(
  commit: Pick<GroupCommit, 'submit'>,
  definitionOf: () => SagaDefinition,
  context: SagaCommitContext,
  saga: OperatedSaga,
  { decide, respond, key }: Operation,
): Promise<Operated | null> {
  const { sagaId, orderId } = saga;
  const commandId = randomUUID();
  const sagaCommit: SagaCommit = {
    ...saga,
    holder: null,
    newEvents: (current, { definition }, version) => decide(current, definition, version),
  };
  return commit.submit({
    loads: [sagaId, orderId],
    ...(key && { key }),
    attemptsMax: Infinity,
    decide: (loaded, refusedBy): Decision<Operated | null> => {
      const earlier = key && loaded.response(key);
      if (earlier) return { result: { response: earlier, replayed: true } };
      const { unit, result } = decideCommit(definitionOf(), context, sagaCommit, loaded, refusedBy);
      if (!unit || !result) return { result: null };
      const version = loaded.stream(sagaId).length + result.events.length;
      const stored = respond(result.saga, version);
      const kept = key && { response: { ref: key, commandId, stored } };
      return { unit: { ...unit, ...kept }, result: { response: stored, replayed: false } };
    },
  });
}

/**
 * Reopens every cancel and compensation that was given up or refused, and every step without a cancel that was given
 * up. A refused one gets a new key, because the old one never has an effect. One that may have happened keeps its key
 * for ever. A saga that was set aside because its runs failed simply continues.
 * @throws SagaNotStuck
 */
export function decideRetry(
  saga: Saga,
  { steps }: SagaDefinition,
  isSetAside: boolean,
): SagaEvent[] {
  if (saga.state !== 'stuck' && !isSetAside) throw new SagaNotStuck(saga);
  const reopened = steps.flatMap(({ action, cancel, compensation }) => {
    const undoing = [cancel ?? [], compensation ?? []].flat();
    const mayBeOpen = cancel ? undoing : [action, ...undoing];
    return mayBeOpen.flatMap(({ name }): SagaEvent[] => {
      const { state } = actionOf(saga, name);
      const isRefused = state === 'refused' && name !== action.name;
      if (state !== 'given_up' && !isRefused) return [];
      return [{ type: 'StepReopened', data: { step: name, newKey: isRefused } }];
    });
  });
  return [{ type: 'RetryRequested', data: {} }, ...reopened];
}

/**
 * Records the outcome of a step as the operator states it. A compensation that was not done is tried again
 * under a new key: the operator has seen that the old one had no effect.
 * @throws SagaNotStuck
 * @throws StepNotOpen
 */
export function decideResolve(
  saga: Saga,
  resolution: Resolution,
  definition: SagaDefinition,
  isSetAside: boolean,
): SagaEvent[] {
  if (saga.state !== 'stuck' && !isSetAside) throw new SagaNotStuck(saga);
  const { step, outcome, reference, reason } = resolution;
  const open = isSetAside ? [] : openSteps(saga, definition).map(({ step }) => step);
  if (!open.includes(step)) throw new StepNotOpen(step, open);
  const resolved: SagaEvent = { type: 'StepResolved', data: resolution };
  if (outcome === 'done') {
    const action = actionsOf(definition).find(({ name }) => name === step);
    if (action?.kind !== 'call' || !action.resultOf) throw new Error(`${step} has no reference`);
    const result = action.resultOf(reference ?? '', saga);
    return [resolved, { type: 'StepDone', data: { step, result } }];
  }
  const isForward = definition.steps.some(({ action }) => action.name === step);
  return isForward
    ? [resolved, { type: 'StepRefused', data: { step, reason: `resolved: ${reason}` } }]
    : [resolved, { type: 'StepReopened', data: { step, newKey: true } }];
}
