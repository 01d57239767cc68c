import { cancelledStep } from './saga-definition.ts';
import type {
  CallAction,
  SagaAction,
  SagaDefinition,
  SagaOrder,
  SagaStep,
  StepOutcome,
} from './saga-definition.ts';
import type { RecordedSagaEvent, SagaEvent, Saga } from './saga.ts';
import { actionOf, evolveSaga, isLive } from './saga.ts';

/** What the decisions on a saga depend on beside its own events. */
export type Situation = Readonly<{
  sagaId: string;
  definition: SagaDefinition;
  order: SagaOrder;
  /** When what is decided now is recorded: never before what was recorded last. */
  at: string;
  /** What the database's clock says (ISO 8601, UTC): deadlines count on it alone. */
  now: string;
  /** A local action that the database has just refused. */
  refused?: Readonly<{ step: string; reason: string }>;
}>;

/** What a saga is to do once its events are committed. */
export type Todo =
  /** `fresh`: the intent is new, so that no call can have been made under its key. */
  | Readonly<{ kind: 'call'; action: CallAction; fresh: boolean }>
  | Readonly<{ kind: 'wait'; action: CallAction }>
  | Readonly<{ kind: 'rest' }>;

export type Advance = Readonly<{
  events: readonly RecordedSagaEvent[];
  saga: Saga;
  todo: Todo;
}>;

/** Records `news`, then all that follows from it without a call outside. */
export function advance(
  saga: Saga | null,
  news: readonly SagaEvent[],
  situation: Situation,
): Advance {
  const events: RecordedSagaEvent[] = [];
  let state = saga;
  const append = (event: SagaEvent) => {
    const recorded = { ...timed(event, situation.now), recordedAt: situation.at };
    events.push(recorded);
    state = evolveSaga(state, recorded);
    return state;
  };
  for (const event of news) append(event);
  if (state === null) throw new Error('a saga without events cannot be advanced');

  let current: Saga = state;
  let next = nextOf(current, situation);
  while ('event' in next) {
    current = append(next.event);
    next = nextOf(current, situation);
  }
  return { events, saga: current, todo: todoOf(current, next, events) };
}

/** What a deadline or the age of a key counts from keeps the database's time. */
function timed(event: SagaEvent, at: string): SagaEvent {
  if (event.type === 'StepRequested') return { ...event, data: { ...event.data, at } };
  if (event.type === 'StepAttempted') return { ...event, data: { ...event.data, at } };
  if (event.type === 'StepReopened') return { ...event, data: { ...event.data, at } };
  return event;
}

/** The events that tell what became of a call; none if that is known already. */
export function eventsOfOutcome(
  saga: Saga,
  { name: step, deadlineMs }: CallAction,
  outcome: StepOutcome,
  { definition, now }: Situation,
): SagaEvent[] {
  const { state, triedFrom } = actionOf(saga, step);
  if (state !== 'requested') return [];
  const settles = cancelledStep(definition, step)?.action.name;
  switch (outcome.outcome) {
    case 'ok':
      return [{ type: 'StepDone', data: { step, result: outcome.result } }];
    case 'refused':
      return [{ type: 'StepRefused', data: { step, reason: outcome.reason } }];
    case 'cancelled':
      return [
        { type: 'StepDone', data: { step, result: { outcome: 'cancelled' } } },
        ...(settles === undefined ? [] : [cancelled(settles)]),
      ];
    case 'already_done':
      return [
        { type: 'StepDone', data: { step, result: { outcome: 'already_done' } } },
        ...(settles === undefined ? [] : [done(settles, outcome.result)]),
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

/** What is neither done nor undone, and why: the list that a stuck saga shows. */
export function openSteps(
  saga: Saga,
  { steps }: SagaDefinition,
): { step: string; reason: string }[] {
  return steps.toReversed().flatMap((step) => {
    const { name } = step.action;
    const undo = saga.compensating ? compensationDue(saga, step) : undefined;
    const open = isOpen(saga, name) ? name : undo?.name;
    if (open === undefined) return [];
    const why = open === name ? (step.cancel?.name ?? name) : open;
    const { reason } = actionOf(saga, why);
    return [{ step: open, reason: reason ?? `${why} is not done` }];
  });
}

type Next =
  | Readonly<{ event: SagaEvent }>
  | Readonly<{ call: CallAction }>
  | Readonly<{ rest: true }>;

function nextOf(saga: Saga, situation: Situation): Next {
  if (!isLive(saga)) return { rest: true };
  return saga.compensating ? nextBack(saga, situation) : nextForward(saga, situation);
}

function nextForward(saga: Saga, situation: Situation): Next {
  const { definition, order } = situation;
  const step = definition.steps.find(({ action }) => actionOf(saga, action.name).state !== 'done');
  if (!step) return { event: { type: 'SagaCompleted', data: {} } };
  const { name } = step.action;
  const { state, reason } = actionOf(saga, name);
  if (state === 'refused') return turnBack(`${name} refused: ${reason}`);
  if (state === 'cancelled') return turnBack(`${name} given up: ${reason}`);
  const mayTurnBack = !step.pivot || state === 'pending';
  const { cancellation } = order;
  if (mayTurnBack && cancellation !== null) return turnBack(cancellation);
  if (state !== 'given_up') return perform(saga, step.action, situation);
  return mayTurnBack ? turnBack(`${name} given up: ${reason}`) : settle(saga, [step], situation);
}

function nextBack(saga: Saga, situation: Situation): Next {
  const open = situation.definition.steps
    .toReversed()
    .filter((step) => isOpen(saga, step.action.name) || compensationDue(saga, step));
  if (open.length > 0) return settle(saga, open, situation);
  const reason = saga.reason ?? 'undone';
  return { event: { type: 'SagaCompensated', data: { reason } } };
}

/** Tries what was tried least, in the order given: what fails does not keep the others waiting. */
function settle(saga: Saga, steps: readonly SagaStep[], situation: Situation): Next {
  const ways = steps.flatMap((step) => {
    const way = isOpen(saga, step.action.name) ? step.cancel : step.compensation;
    return way && mayGoOn(saga, way) ? [way] : [];
  });
  const [first, ...rest] = ways;
  if (!first) {
    return { event: { type: 'SagaStuck', data: { open: openSteps(saga, situation.definition) } } };
  }
  const tries = ({ name }: SagaAction) => actionOf(saga, name).attempts;
  const least = rest.reduce((sofar, way) => (tries(way) < tries(sofar) ? way : sofar), first);
  return perform(saga, least, situation);
}

function perform(saga: Saga, action: SagaAction, situation: Situation): Next {
  const { name: step } = action;
  const { state, round } = actionOf(saga, step);
  const { definition, sagaId, order, refused } = situation;
  if (action.kind === 'local') {
    return {
      event: refused?.step === step ? { type: 'StepRefused', data: refused } : done(step, {}),
    };
  }
  const result = definition.withoutCall(step, saga, order);
  if (result !== undefined) return { event: done(step, result) };
  if (state !== 'pending') return { call: action };
  const request = definition.request(step, saga, order);
  const key = `${sagaId}-${step}-${round}`;
  return { event: { type: 'StepRequested', data: { step, key, request } } };
}

/** After a failed try of one action only another that was tried less often goes on at once. */
function todoOf(saga: Saga, next: Next, events: readonly RecordedSagaEvent[]): Todo {
  if (!('call' in next)) return { kind: 'rest' };
  const { call: action } = next;
  const fresh = events.some(
    ({ type, data }) => type === 'StepRequested' && data.step === action.name,
  );
  const failed = events.find(({ type }) => type === 'StepAttempted');
  if (failed?.type !== 'StepAttempted') return { kind: 'call', action, fresh };
  const { attempts } = actionOf(saga, action.name);
  const goesOn = attempts < actionOf(saga, failed.data.step).attempts;
  return goesOn ? { kind: 'call', action, fresh } : { kind: 'wait', action };
}

/** It may have happened. */
function isOpen(saga: Saga, name: string): boolean {
  const { state } = actionOf(saga, name);
  return state === 'requested' || state === 'given_up';
}

function compensationDue(saga: Saga, { action, compensation }: SagaStep): SagaAction | undefined {
  if (actionOf(saga, action.name).state !== 'done' || !compensation) return undefined;
  return actionOf(saga, compensation.name).state === 'done' ? undefined : compensation;
}

function mayGoOn(saga: Saga, { name }: SagaAction): boolean {
  const { state } = actionOf(saga, name);
  return state === 'pending' || state === 'requested';
}

function turnBack(reason: string): Next {
  return { event: { type: 'CompensationStarted', data: { reason } } };
}

function done(step: string, result: unknown): SagaEvent {
  return { type: 'StepDone', data: { step, result } };
}

function cancelled(step: string): SagaEvent {
  return { type: 'StepCancelled', data: { step } };
}

function givenUp(step: string, reason: string): SagaEvent {
  return { type: 'StepGivenUp', data: { step, reason } };
}
