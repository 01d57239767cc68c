import type { Verdict } from '#src/event-store/event-store.ts';
import type { StepOutcome } from './saga-call.ts';
import { cancelledStep } from './saga-definition.ts';
import type {
  CallAction,
  SagaAction,
  SagaDefinition,
  SagaOrder,
  SagaStep,
} from './saga-definition.ts';
import { actionOf, evolveSaga, isLive } from './saga.ts';
import type { RecordedSagaEvent, Saga, SagaEvent } from './saga.ts';

/** What the decisions on a saga depend on, besides its own events. */
export type Situation = Readonly<{
  definition: SagaDefinition;
  order: SagaOrder;
  /** The time that new events are recorded with. It is never before that of the last event. */
  at: string;
  /** The database's time (ISO 8601, UTC). Deadlines depend on it alone. */
  now: string;
  /** Why the database did not write the commit before, if it did not. */
  refusedBy?: Verdict | undefined;
}>;

/** What to do once the events of a saga are committed: `rest` is nothing, for it has ended or is stuck. */
export type Todo =
  /** `fresh`: the intent is new, so no call can have been made under its key. */
  | Readonly<{ kind: 'call'; action: CallAction; fresh: boolean }>
  | Readonly<{ kind: 'wait'; action: CallAction }>
  | Readonly<{ kind: 'rest' }>;

export type Advance = Readonly<{
  events: readonly RecordedSagaEvent[];
  saga: Saga;
  todo: Todo;
}>;

/** Records new events, and then everything that follows from them without a call. */
export function advance(
  saga: Saga,
  newEvents: readonly SagaEvent[],
  situation: Situation,
): Advance {
  const events: RecordedSagaEvent[] = [];
  let current = saga;
  const append = (event: SagaEvent) => {
    const recorded = { ...withDatabaseTime(event, situation.now), recordedAt: situation.at };
    events.push(recorded);
    current = evolveSaga(current, recorded);
  };
  for (const event of newEvents) append(event);
  let next = nextOf(current, situation);
  while (next !== null && 'type' in next) {
    append(next);
    next = nextOf(current, situation);
  }
  return { events, saga: current, todo: todoOf(current, next, events) };
}

/** Adds the database's time to the events that deadlines and the age of keys count from. */
function withDatabaseTime(event: SagaEvent, at: string): SagaEvent {
  if (event.type === 'StepRequested') return { ...event, data: { ...event.data, at } };
  if (event.type === 'StepAttempted') return { ...event, data: { ...event.data, at } };
  if (event.type === 'StepReopened') return { ...event, data: { ...event.data, at } };
  return event;
}

/** The events that record the outcome of a call. There are none if the outcome is known already. */
export function eventsOfOutcome(
  saga: Saga,
  { name: step, deadlineMs }: CallAction,
  outcome: StepOutcome,
  { definition, now }: Situation,
): SagaEvent[] {
  const { state, triedFrom } = actionOf(saga, step);
  if (state !== 'requested') return [];
  const cancels = cancelledStep(definition, step)?.action.name;
  switch (outcome.outcome) {
    case 'ok':
      return [done(step, outcome.result)];
    case 'refused':
      return [refused(step, outcome.reason)];
    case 'cancelled':
      return [
        done(step, { outcome: 'cancelled' }),
        ...(cancels === undefined ? [] : [cancelled(cancels)]),
      ];
    case 'already_done':
      return [
        done(step, { outcome: 'already_done' }),
        ...(cancels === undefined ? [] : [done(cancels, outcome.result)]),
      ];
    case 'not_applied':
    case 'unknown': {
      const { reason } = outcome;
      const isLate = Date.parse(now) >= Date.parse(triedFrom ?? now) + deadlineMs;
      const givesUp = isLate || 'hopeless' in outcome;
      return [
        { type: 'StepAttempted', data: { step, outcome: outcome.outcome, reason } },
        ...(givesUp ? [givenUp(step, reason)] : []),
      ];
    }
  }
}

/** What is neither done nor undone, and why. A stuck saga shows this list. */
export function openSteps(
  saga: Saga,
  { steps }: SagaDefinition,
): { step: string; reason: string }[] {
  return steps.toReversed().flatMap((step) => {
    const { name } = step.action;
    const undo = saga.compensating ? compensationDue(saga, step) : undefined;
    const open = mayHaveHappened(saga, name) ? name : undo?.name;
    if (open === undefined) return [];
    const why = open === name ? (step.cancel?.name ?? name) : open;
    const { reason } = actionOf(saga, why);
    return [{ step: open, reason: reason ?? `${why} is not done` }];
  });
}

/** An event to record, a call to make, or nothing: the saga has ended or is stuck. */
type Next = SagaEvent | CallAction | null;

function nextOf(saga: Saga, situation: Situation): Next {
  if (!isLive(saga)) return null;
  return saga.compensating ? nextBackward(saga, situation) : nextForward(saga, situation);
}

function nextForward(saga: Saga, situation: Situation): Next {
  const { definition, order } = situation;
  const step = definition.steps.find(({ action }) => actionOf(saga, action.name).state !== 'done');
  if (!step) return { type: 'SagaCompleted', data: {} };
  const { name } = step.action;
  const { state, reason } = actionOf(saga, name);
  if (state === 'refused') return startCompensation(`${name} refused: ${reason}`);
  if (state === 'cancelled') return startCompensation(`${name} given up: ${reason}`);
  const mayCompensate = !step.pivot || state === 'pending';
  const { cancellation } = order;
  if (mayCompensate && cancellation !== null) return startCompensation(cancellation);
  if (state !== 'given_up') return perform(saga, step.action, situation);
  return mayCompensate
    ? startCompensation(`${name} given up: ${reason}`)
    : undoNext(saga, [step], situation);
}

function nextBackward(saga: Saga, situation: Situation): Next {
  const open = situation.definition.steps
    .toReversed()
    .filter((step) => mayHaveHappened(saga, step.action.name) || compensationDue(saga, step));
  if (open.length > 0) return undoNext(saga, open, situation);
  const reason = saga.reason ?? 'undone';
  return { type: 'SagaCompensated', data: { reason } };
}

/**
 * Cancels or compensates one of the steps, the one with the fewest attempts first: a step that fails does not
 * hold up the others.
 */
function undoNext(saga: Saga, steps: readonly SagaStep[], situation: Situation): Next {
  const actions = steps.flatMap((step) => {
    const action = mayHaveHappened(saga, step.action.name) ? step.cancel : step.compensation;
    return action && mayBeTried(saga, action) ? [action] : [];
  });
  const [first, ...rest] = actions;
  if (!first) return { type: 'SagaStuck', data: { open: openSteps(saga, situation.definition) } };
  const attempts = ({ name }: SagaAction) => actionOf(saga, name).attempts;
  const next = rest.reduce((least, one) => (attempts(one) < attempts(least) ? one : least), first);
  return perform(saga, next, situation);
}

function perform(saga: Saga, action: SagaAction, situation: Situation): Next {
  const { name: step } = action;
  const { state, round } = actionOf(saga, step);
  const { order, refusedBy } = situation;
  if (action.kind === 'local') {
    const { refusal } = action;
    const isRefused = refusal !== undefined && refusal.verdict === refusedBy;
    return isRefused ? refused(step, refusal.reason) : done(step, {});
  }
  const result = action.withoutCall?.(saga, order);
  if (result !== undefined) return done(step, result);
  if (state !== 'pending') return action;
  const request = action.request(saga, order);
  const key = `${order.sagaId}-${step}-${round}`;
  return { type: 'StepRequested', data: { step, key, request } };
}

/** After a failed attempt the saga waits, unless the next action is one with fewer attempts. */
function todoOf(saga: Saga, action: CallAction | null, events: readonly RecordedSagaEvent[]): Todo {
  if (action === null) return { kind: 'rest' };
  const fresh = events.some(
    ({ type, data }) => type === 'StepRequested' && data.step === action.name,
  );
  const failed = events.find(({ type }) => type === 'StepAttempted');
  if (failed?.type !== 'StepAttempted') return { kind: 'call', action, fresh };
  const { attempts } = actionOf(saga, action.name);
  const isNext = attempts < actionOf(saga, failed.data.step).attempts;
  return isNext ? { kind: 'call', action, fresh } : { kind: 'wait', action };
}

function mayHaveHappened(saga: Saga, name: string): boolean {
  const { state } = actionOf(saga, name);
  return state === 'requested' || state === 'given_up';
}

function compensationDue(saga: Saga, { action, compensation }: SagaStep): SagaAction | undefined {
  if (actionOf(saga, action.name).state !== 'done' || !compensation) return undefined;
  return actionOf(saga, compensation.name).state === 'done' ? undefined : compensation;
}

function mayBeTried(saga: Saga, { name }: SagaAction): boolean {
  const { state } = actionOf(saga, name);
  return state === 'pending' || state === 'requested';
}

function startCompensation(reason: string): SagaEvent {
  return { type: 'CompensationStarted', data: { reason } };
}

function done(step: string, result: unknown): SagaEvent {
  return { type: 'StepDone', data: { step, result } };
}

function refused(step: string, reason: string): SagaEvent {
  return { type: 'StepRefused', data: { step, reason } };
}

function cancelled(step: string): SagaEvent {
  return { type: 'StepCancelled', data: { step } };
}

function givenUp(step: string, reason: string): SagaEvent {
  return { type: 'StepGivenUp', data: { step, reason } };
}
