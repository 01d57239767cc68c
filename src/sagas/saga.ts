import { z } from 'zod';
import { createEventCodec } from '#src/event-store/event-codec.ts';
import type { EventMetadata, NewEvent, StoredEvent } from '#src/event-store/event-store.ts';

const step = z.string();
const reason = z.string();
/**
 * The database's time (ISO 8601, UTC). Deadlines count from it, because `recordedAt` depends on the clocks
 * of all processes that wrote before. Events of earlier releases do not have it.
 */
const at = z.string().optional();
const event = <const Type extends string, Data extends z.ZodType>(type: Type, data: Data) => ({
  schema: z.object({ type: z.literal(type), data }),
  upcasts: [],
  downcasts: [],
});

/**
 * What has happened to a saga. Events are stored for ever: a field may be added, but it is never renamed and
 * its meaning never changes. `step` is the name of an action. `request` and `result` are JSON that only the
 * definition understands.
 */
const sagaEvents = {
  SagaStarted: event(
    'SagaStarted',
    z.object({ definition: z.string(), definitionVersion: z.int(), subjectId: z.string() }),
  ),
  /** The intent. It is stored before the call is made, with everything that a repeated call will send. */
  StepRequested: event(
    'StepRequested',
    z.object({ step, key: z.string(), request: z.unknown(), at }),
  ),
  /** A call was made, but it is still open whether the step has happened. */
  StepAttempted: event(
    'StepAttempted',
    z.object({ step, outcome: z.enum(['not_applied', 'unknown']), reason, at }),
  ),
  StepDone: event('StepDone', z.object({ step, result: z.unknown() })),
  /** The step has not happened under its key, and never will. */
  StepRefused: event('StepRefused', z.object({ step, reason })),
  /** The key was cancelled: the step has not happened, and never will. */
  StepCancelled: event('StepCancelled', z.object({ step })),
  /** The step may have happened, but it is not tried again. */
  StepGivenUp: event('StepGivenUp', z.object({ step, reason })),
  /** From here on everything that was done is undone. */
  CompensationStarted: event('CompensationStarted', z.object({ reason })),
  SagaCompleted: event('SagaCompleted', z.object({})),
  SagaCompensated: event('SagaCompensated', z.object({ reason })),
  /** The saga waits for an operator. `open` lists what is neither done nor undone, and why. */
  SagaStuck: event('SagaStuck', z.object({ open: z.array(z.object({ step, reason })) })),
  /** An operator told the saga to try again. */
  RetryRequested: event('RetryRequested', z.object({})),
  /** An operator stated whether a step was done. */
  StepResolved: event(
    'StepResolved',
    z.object({
      step,
      outcome: z.enum(['done', 'notDone']),
      reference: z.string().nullable(),
      reason,
    }),
  ),
  /** The step is tried again. It gets a new key only if the old one can have no effect. */
  StepReopened: event('StepReopened', z.object({ step, newKey: z.boolean(), at })),
};

export type SagaEvent = z.infer<(typeof sagaEvents)[keyof typeof sagaEvents]['schema']>;

/** An event of a saga with its time (ISO 8601, UTC). */
export type RecordedSagaEvent = SagaEvent & Readonly<{ recordedAt: string }>;

/** Reads stored events of sagas. */
export const sagaEventCodec = createEventCodec<SagaEvent>(sagaEvents);

/** @throws EventUnreadable */
export function toRecordedSagaEvent(stored: StoredEvent): RecordedSagaEvent {
  return { ...sagaEventCodec.decode(stored), recordedAt: stored.recordedAt };
}

/** How events of a saga are stored. */
export function toNewSagaEvent(
  { type, data, recordedAt }: RecordedSagaEvent,
  metadata: EventMetadata,
): NewEvent {
  return { type, schemaVersion: sagaEventCodec.schemaVersion(type), data, metadata, recordedAt };
}

/** A `stuck` saga waits for an operator. The last two states are final. */
export type SagaState = 'running' | 'compensating' | 'stuck' | 'completed' | 'compensated';

/**
 * requested: it may have happened. given_up: the same, but it is not tried any more. refused and cancelled:
 * it has not happened under its key, and never will.
 */
export type ActionState = 'pending' | 'requested' | 'done' | 'refused' | 'cancelled' | 'given_up';

/** The state of one action. */
export type ActionRecord = Readonly<{
  state: ActionState;
  /** The number of its key, from 1. It gets a new key only if the old one can have no effect. */
  round: number;
  /** Attempts since it was requested or reopened. */
  attempts: number;
  key: string | null;
  request: unknown;
  result: unknown;
  /** Of the last call. */
  outcome: 'ok' | 'refused' | 'not_applied' | 'unknown' | null;
  reason: string | null;
  /** When its key was first recorded: the database's time, or `recordedAt` if that is not known. */
  requestedAt: string | null;
  /** When it was requested or reopened, on the same clock. Its deadline counts from here. */
  triedFrom: string | null;
  /** When it reached its state. Null while it is pending or requested. */
  settledAt: string | null;
}>;

/** A saga, folded from its stream. */
export type Saga = Readonly<{
  definition: string;
  definitionVersion: number;
  orderId: string;
  state: SagaState;
  /** What was done is to be undone. This stays true when the saga is stuck. */
  compensating: boolean;
  /** Why it is compensating. */
  reason: string | null;
  /** What it was last stuck at, and why. */
  stuckReason: string | null;
  actions: Readonly<Record<string, ActionRecord>>;
  startedAt: string;
  lastAt: string;
}>;

const pending: ActionRecord = {
  state: 'pending',
  round: 1,
  attempts: 0,
  key: null,
  request: null,
  result: null,
  outcome: null,
  reason: null,
  requestedAt: null,
  triedFrom: null,
  settledAt: null,
};

/** The first event of a saga is not `SagaStarted`: the stream is damaged. */
export class SagaStreamDamaged extends Error {
  constructor(type: string) {
    super(`a saga's stream has ${type} before SagaStarted`);
    this.name = 'SagaStreamDamaged';
  }
}

export function actionOf({ actions }: Pick<Saga, 'actions'>, name: string): ActionRecord {
  return actions[name] ?? pending;
}

/** What the saga is stuck at, and why it is compensating. */
export function reasonOf({ state, stuckReason, reason }: Saga): string | null {
  if (state !== 'stuck' || stuckReason === null) return reason;
  return reason === null ? stuckReason : `${stuckReason}, after ${reason}`;
}

/** A saga that is not live has ended, or waits for an operator. */
export function isLive({ state }: Pick<Saga, 'state'>): boolean {
  return state === 'running' || state === 'compensating';
}

/** Folds a whole stream. Null if it is empty. */
export function foldSaga(events: readonly RecordedSagaEvent[]): Saga | null {
  return events.reduce<Saga | null>(evolveSaga, null);
}

/** Applies one event. Null is a saga that has none yet. */
export function evolveSaga(saga: Saga | null, event: RecordedSagaEvent): Saga {
  if (event.type === 'SagaStarted') return started(event);
  if (saga === null) throw new SagaStreamDamaged(event.type);
  const { recordedAt: at } = event;
  const before = { ...saga, lastAt: at };
  switch (event.type) {
    case 'StepRequested': {
      const { step, key, request, at: askedAt = at } = event.data;
      const asked = { key, request, requestedAt: askedAt, triedFrom: askedAt };
      return change(before, step, { state: 'requested', ...asked });
    }
    case 'StepAttempted': {
      const { step, outcome, reason, at: triedAt } = event.data;
      const { attempts, requestedAt, triedFrom } = actionOf(saga, step);
      return change(before, step, {
        attempts: attempts + 1,
        outcome,
        reason,
        requestedAt: earlier(requestedAt, triedAt),
        triedFrom: earlier(triedFrom, triedAt),
      });
    }
    case 'StepDone': {
      const { step, result } = event.data;
      const settled = { result, outcome: 'ok', reason: null, settledAt: at } as const;
      const attempts = actionOf(saga, step).attempts + 1;
      return change(before, step, { state: 'done', attempts, ...settled });
    }
    case 'StepRefused': {
      const { step, reason } = event.data;
      const settled = { outcome: 'refused', reason, settledAt: at } as const;
      const attempts = actionOf(saga, step).attempts + 1;
      return change(before, step, { state: 'refused', attempts, ...settled });
    }
    case 'StepCancelled':
      return change(before, event.data.step, { state: 'cancelled', settledAt: at });
    case 'StepGivenUp': {
      const { step, reason } = event.data;
      return change(before, step, { state: 'given_up', reason, settledAt: at });
    }
    case 'StepReopened':
      return reopen(before, event.data, at);
    case 'CompensationStarted': {
      const { reason } = event.data;
      return { ...before, state: 'compensating', compensating: true, reason };
    }
    case 'SagaCompleted':
      return { ...before, state: 'completed' };
    case 'SagaCompensated':
      return { ...before, state: 'compensated', reason: event.data.reason };
    case 'SagaStuck': {
      const open = event.data.open.map(({ step, reason }) => `${step}: ${reason}`);
      return { ...before, state: 'stuck', stuckReason: open.join('; ') };
    }
    case 'RetryRequested':
    case 'StepResolved':
      return { ...before, state: saga.compensating ? 'compensating' : 'running' };
  }
}

type Recorded<Type> = Extract<RecordedSagaEvent, { type: Type }>;

function started({ data, recordedAt }: Recorded<'SagaStarted'>): Saga {
  const { definition, definitionVersion, subjectId: orderId } = data;
  return {
    definition,
    definitionVersion,
    orderId,
    state: 'running',
    compensating: false,
    reason: null,
    stuckReason: null,
    actions: {},
    startedAt: recordedAt,
    lastAt: recordedAt,
  };
}

function change(saga: Saga, step: string, changes: Partial<ActionRecord>): Saga {
  return {
    ...saga,
    actions: { ...saga.actions, [step]: { ...actionOf(saga, step), ...changes } },
  };
}

function reopen(
  saga: Saga,
  { step, newKey, at: reopenedAt }: Recorded<'StepReopened'>['data'],
  at: string,
): Saga {
  const { round } = actionOf(saga, step);
  const triedFrom = reopenedAt ?? at;
  return newKey
    ? { ...saga, actions: { ...saga.actions, [step]: { ...pending, round: round + 1 } } }
    : change(saga, step, { state: 'requested', attempts: 0, triedFrom, settledAt: null });
}

/** A request cannot be later than its attempt. An earlier release with a wrong clock may have stored that. */
function earlier(began: string | null, triedAt: string | undefined): string | null {
  return began !== null && triedAt !== undefined && triedAt < began ? triedAt : began;
}
