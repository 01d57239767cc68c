import { isOutage } from './database/database-errors.ts';
import {
  ClockOff,
  CommandOverloaded,
  CommandUncertain,
  StoreUnavailable,
  VersionConflict,
} from './event-store/event-store.ts';
import { REFUND } from './fulfilment/refund-definition.ts';
import { refundState } from './fulfilment/refund-view.ts';
import { sagaProblemKind } from './fulfilment/saga-operation.ts';
import { isWeakOnly } from './http/entity-tags.ts';
import type { EntityTags } from './http/entity-tags.ts';
import { frameworkProblem, Problem, problemKind } from './http/problem.ts';
import { OrderRejected } from './orders/domain/order-commands.ts';
import { OutboxFull } from './orders/handle-order-command.ts';
import { orderProblemKind } from './orders/order-problems.ts';
import { CursorInvalid } from './orders/order-lists.ts';
import { SagaNotStuck, StepNotOpen } from './sagas/saga-operator.ts';

/** What is known of the request that failed. */
export type Circumstances = Readonly<{
  ifMatch?: EntityTags | undefined;
  /**
   * The order of a command whose outcome is unknown. Left out if the command has a key: the key may belong to
   * an earlier request, for an order with another id.
   */
  orderId?: string | undefined;
}>;

/** Where the body that places an order lacks something. */
const MISSING_AT: ReadonlyMap<string, string> = new Map([
  ['shipping_address_missing', '/shippingAddress'],
  ['payment_method_missing', '/payment'],
]);

/**
 * The problem that an error becomes, whether it comes from the rules of orders, the write path, a read, an
 * operator's request or Fastify. Undefined for an unexpected error.
 */
export function toProblem(
  error: unknown,
  { ifMatch, orderId }: Circumstances = {},
): Problem | undefined {
  if (error instanceof OrderRejected) {
    const { code, current, details: extra } = error;
    const isWeak = code === 'version_mismatch' && ifMatch !== undefined && isWeakOnly(ifMatch);
    const pointer = current === undefined ? MISSING_AT.get(code) : undefined;
    const errors = pointer && [{ pointer, message: 'is needed for an automatic fulfilment' }];
    const kind = isWeak ? problemKind('if_match_weak') : orderProblemKind(code);
    return new Problem(kind, { current, extra, ...(errors && { errors }) });
  }
  if (error instanceof CursorInvalid) {
    const errors = [{ pointer: 'query/cursor', message: error.message }];
    return new Problem(orderProblemKind('cursor_invalid'), { errors });
  }
  if (error instanceof SagaNotStuck) {
    const { definition, state } = error;
    return definition === REFUND
      ? new Problem(sagaProblemKind('refund_not_stuck'), { extra: { state: refundState(state) } })
      : new Problem(sagaProblemKind('fulfilment_not_stuck'), { extra: { state } });
  }
  if (error instanceof StepNotOpen) {
    return new Problem(sagaProblemKind('step_not_open'), { extra: { open: error.open } });
  }
  if (error instanceof VersionConflict) return new Problem(orderProblemKind('version_conflict'));
  if (error instanceof CommandOverloaded) return new Problem(problemKind('overloaded'));
  if (error instanceof OutboxFull) return new Problem(orderProblemKind('outbox_full'));
  if (error instanceof CommandUncertain) {
    const extra = orderId === undefined ? undefined : { orderId };
    return new Problem(orderProblemKind('outcome_unknown'), { extra, cause: error });
  }
  if (error instanceof ClockOff) return new Problem(orderProblemKind('clock_off'));
  if (error instanceof StoreUnavailable || isOutage(error)) {
    return new Problem(orderProblemKind('database_unavailable'), { cause: error });
  }
  return frameworkProblem(error);
}
