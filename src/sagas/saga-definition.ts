import type { ReservationRow, Verdict } from '#src/event-store/event-store.ts';
import type { FulfilmentCommand } from '#src/orders/domain/order-commands.ts';
import type { Order } from '#src/orders/domain/order.ts';
import type { StepCall } from './saga-call.ts';
import type { Saga, SagaEvent } from './saga.ts';

/** Done by the commit that records it: nobody outside is called. */
export type LocalAction = Readonly<{
  kind: 'local';
  name: string;
  /** The verdict of the database that refuses the action. */
  refusal?: Readonly<{ verdict: Verdict; reason: string }>;
}>;

/** A call to somebody outside. The saga gives it up if its outcome is still open after `deadlineMs`. */
export type CallAction = Readonly<{
  kind: 'call';
  name: string;
  deadlineMs: number;
  /** The request, frozen in the intent. It holds everything that a repeated call needs. */
  request(saga: Saga, order: SagaOrder): unknown;
  /**
   * The result of a call that is not made, because there is nothing to do. Undefined if it must be made. The
   * result must not depend on the order once the call has been requested.
   */
  withoutCall?(saga: Saga, order: SagaOrder): unknown;
  /** The result of a call that an operator found done, from the provider's reference. */
  resultOf?(reference: string, saga: Saga): unknown;
}>;

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
  /**
   * Once this step is requested, no earlier step is undone until its outcome is known. No step that can fail may
   * follow: its failure would undo the earlier steps although this one is done.
   */
  pivot?: true;
}>;

/** The order that a saga works on. */
export type SagaOrder = Readonly<{
  /** The saga itself: an order may have several. */
  sagaId: string;
  view: Order;
  /** Why the order is to be cancelled, if it is. */
  cancellation: string | null;
}>;

/**
 * What a saga does, in order. All functions but the calls are pure. Change a definition only together with its
 * version: running sagas continue with the version that they were started with.
 */
export type SagaDefinition = Readonly<{
  /** Also the category of the saga's streams. */
  name: string;
  version: number;
  steps: readonly SagaStep[];
  /** The call of each action that is one, by its name. None if this process cannot run the saga. */
  calls: Readonly<Record<string, StepCall>>;
  /** What an event of the saga does to the order. `saga` is its state after the commit. */
  orderCommand(event: SagaEvent, order: SagaOrder, saga: Saga): FulfilmentCommand | null;
  /** What an event of the saga does to the stock. */
  reservations(event: SagaEvent, order: SagaOrder): readonly ReservationRow[];
  /** It goes on although the order is to be cancelled. Any other saga then undoes what it did. */
  ignoresCancellation?: true;
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
