import type { ReservationRow } from '#src/event-store/event-store.ts';
import type { FulfilmentCommand } from '#src/orders/domain/order-commands.ts';
import type { OrderView } from '#src/orders/domain/order.ts';
import type { Saga, SagaEvent } from './saga.ts';

/** Done by the commit that records it: nobody outside is called. */
export type LocalAction = Readonly<{ kind: 'local'; name: string }>;

/** A call to somebody outside. The saga gives it up if its outcome is still open after `deadlineMs`. */
export type CallAction = Readonly<{ kind: 'call'; name: string; deadlineMs: number }>;

/** Something that a saga does. Names are snake_case and unique within the definition. */
export type SagaAction = LocalAction | CallAction;

/** One step forward, and the ways back from it. */
export type SagaStep = Readonly<{
  action: SagaAction;
  /**
   * Closes the key of this step's call while its outcome is open: the call then has had its effect, or it
   * never will. A step without a cancel can only wait for an operator.
   */
  cancel?: CallAction;
  /** Undoes the step once it is done. */
  compensation?: SagaAction;
  /** Once this step is requested, no earlier step is undone until its outcome is known. */
  pivot?: true;
}>;

/** The order that a saga works on. */
export type SagaOrder = Readonly<{
  view: OrderView;
  /** Why the order is to be cancelled, if it is. */
  cancellation: string | null;
}>;

/**
 * What a saga does, in order. All functions are pure. Change a definition only together with its version:
 * running sagas continue with the version that they were started with.
 */
export type SagaDefinition = Readonly<{
  /** Also the category of the saga's streams. */
  name: string;
  version: number;
  steps: readonly SagaStep[];
  /** The request of a call, frozen in its intent. It holds everything that a repeated call needs. */
  request(action: string, saga: Saga, order: SagaOrder): unknown;
  /**
   * The result of a call that is done without being made, because there is nothing to do. Undefined if the
   * call must be made. The result must not depend on the order once the call has been requested.
   */
  withoutCall(action: string, saga: Saga, order: SagaOrder): unknown;
  /** The result of a step that an operator found done, from the provider's reference. */
  resultOf(action: string, reference: string, saga: Saga): unknown;
  /** What an event of the saga does to the order. */
  orderCommand(event: SagaEvent, order: SagaOrder): FulfilmentCommand | null;
  /** What an event of the saga does to the stock. */
  reservations(sagaId: string, event: SagaEvent, order: SagaOrder): readonly ReservationRow[];
  /** Verdicts of the database that refuse a local action. */
  refusals: Readonly<Record<string, Readonly<{ step: string; reason: string }>>>;
}>;

/** Every action of a definition, in the order in which they are shown. */
export function actionsOf({ steps }: Pick<SagaDefinition, 'steps'>): readonly SagaAction[] {
  return [
    ...steps.map(({ action }) => action),
    ...steps.toReversed().flatMap(({ cancel, compensation }) => [cancel ?? [], compensation ?? []]),
  ].flat();
}

/** The step whose call this action cancels, if it is a cancel. */
export function cancelledStep(
  { steps }: Pick<SagaDefinition, 'steps'>,
  action: string,
): SagaStep | undefined {
  return steps.find(({ cancel }) => cancel?.name === action);
}

/** What a call is made with. `request` is as the definition froze it. */
export type KeyedRequest = Readonly<{ key: string; request: unknown }>;

/**
 * The outcome of a call that has an effect outside: money moved, a parcel sent. Only an explicit statement
 * of the provider counts as `ok`, `refused` or `not_applied`; everything else is `unknown`.
 */
export type SendOutcome<Result = unknown> =
  | Readonly<{ outcome: 'ok'; result: Result }>
  /** Refused for good: this key never has an effect. This is the only reason to compensate. */
  | Readonly<{ outcome: 'refused'; reason: string }>
  /** This call had no effect. Earlier calls with the same key may have had one. Try again later. */
  | Readonly<{ outcome: 'not_applied'; reason: string; retryAfterMs?: number }>
  | UnknownOutcome<Result>;

/** The outcome of a look-up by key. */
export type LookUpOutcome<Result = unknown> =
  | Readonly<{ outcome: 'found'; result: Result }>
  /** Nothing has happened under this key so far. An earlier call with it may still take effect. */
  | Readonly<{ outcome: 'absent' }>
  | UnknownOutcome<Result>;

/** The outcome of a cancel by key. The first two are final: nothing more happens under the key. */
export type CancelOutcome<Result = unknown> =
  | Readonly<{ outcome: 'cancelled' }>
  /** Too late. `result` is what the provider stated, so that exactly that can be undone. */
  | Readonly<{ outcome: 'already_done'; result: Result }>
  | UnknownOutcome<Result>;

/**
 * The call may have had its effect or not: look it up, then send it again with the same key, or cancel the
 * key. `stated` is what the provider says it did, if that is not what was requested.
 */
export type UnknownOutcome<Result = unknown> = Readonly<{
  outcome: 'unknown';
  reason: string;
  retryAfterMs?: number;
  stated?: Result;
}>;

/** The outcome of one attempt at an action: a look-up, a call, or both. */
export type StepOutcome =
  | Readonly<{ outcome: 'ok'; result: unknown }>
  | Readonly<{ outcome: 'refused'; reason: string }>
  | Readonly<{ outcome: 'not_applied'; reason: string; retryAfterMs?: number }>
  /** `hopeless`: another attempt would get the same response. */
  | Readonly<{ outcome: 'unknown'; reason: string; retryAfterMs?: number; hopeless?: true }>
  /** Of a cancel: the cancelled call has had no effect, and never will. */
  | Readonly<{ outcome: 'cancelled' }>
  /** Of a cancel: the call has had its effect. */
  | Readonly<{ outcome: 'already_done'; result: unknown }>;

/**
 * No call was made, because too many are under way. This says nothing about the step and does not count as
 * an attempt. It is the only error that a call may throw.
 */
export class CallNotMade extends Error {
  constructor() {
    super('there was no place for the call');
    this.name = 'CallNotMade';
  }
}

/** A call with an effect, and the look-up that tells whether it had it. */
export type EffectCall = Readonly<{
  send(request: KeyedRequest, signal: AbortSignal): Promise<SendOutcome>;
  lookUp(request: KeyedRequest, signal: AbortSignal): Promise<LookUpOutcome>;
}>;

/** Closes the key of another call for good, while the provider still knows the key. */
export type CancelCall = Readonly<{
  cancel(request: KeyedRequest, signal: AbortSignal): Promise<CancelOutcome>;
}>;

export type StepCall = EffectCall | CancelCall;
