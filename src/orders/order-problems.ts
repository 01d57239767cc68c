import { isOutage } from '#src/database/is-outage.ts';
import {
  ClockOff,
  CommandOverloaded,
  CommandUncertain,
  StoreUnavailable,
  VersionConflict,
} from '#src/event-store/group-commit-errors.ts';
import { isWeakOnly } from '#src/http/entity-tags.ts';
import type { EntityTags } from '#src/http/entity-tags.ts';
import { problemKinds } from '#src/http/problem-kinds.ts';
import { Problem } from '#src/http/problem.ts';
import type { ProblemDetails, ProblemKind } from '#src/http/problem.ts';
import { OrderRequestRefused, OutboxFull } from './handle-order-command.ts';
import { CursorInvalid } from './orders-summary-queries.ts';

/** The status of each refusal: a code without one does not compile. */
const refusals: Readonly<Record<OrderRequestRefused['code'], Omit<ProblemKind, 'code'>>> = {
  order_not_found: {
    status: 404,
    title: 'No such order',
    advice: 'Check the order id: nothing was ever placed under it.',
  },
  order_already_placed: {
    status: 409,
    title: 'Order already placed',
    advice: 'There is an order under this id. Read it.',
  },
  order_already_paid: {
    status: 409,
    title: 'Order already paid',
    advice: 'It is paid and handled by hand: ship or cancel it instead.',
  },
  order_not_paid: {
    status: 409,
    title: 'Order not paid',
    advice: 'Pay the order first.',
  },
  order_already_shipped: {
    status: 409,
    title: 'Order already shipped',
    advice: 'The parcel has left: the order can no longer be shipped, cancelled or fulfilled.',
  },
  order_cancelled: {
    status: 409,
    title: 'Order cancelled',
    advice: 'A cancelled order stays so. Place a new one.',
  },
  order_not_cancelled: {
    status: 409,
    title: 'Order not cancelled',
    advice:
      'It owes nothing: only payments above its total are given back before it is cancelled. Cancel ' +
      'it first.',
  },
  total_too_large: {
    status: 400,
    title: 'Total too large',
    advice: 'The sum of quantity times price is above 2^53-1. Split the order.',
  },
  payment_amount_mismatch: {
    status: 422,
    title: 'Amount cannot be a payment',
    advice:
      'Nothing was recorded. A payment of 0 is one only of a pending order whose total is 0, and all ' +
      'payments of an order together are 2^53-1 at most.',
  },
  payment_id_taken: {
    status: 409,
    title: 'Payment id taken',
    advice:
      'This paymentId stands for another amount already. Nothing was recorded. Compare both with the ' +
      'payment provider; report a second payment under its own id.',
  },
  too_many_payments: {
    status: 409,
    title: 'Too many payments',
    advice:
      'An order takes 100 payments at most. Nothing was recorded: give this one back outside of this ' +
      'service.',
  },
  refund_exceeds_owed: {
    status: 422,
    title: 'Refund above what is owed',
    advice:
      'Refund at most owedCents of the order, and of a payment that you name at most what is left of it.',
  },
  refund_id_taken: {
    status: 409,
    title: 'Refund id taken',
    advice:
      'This refundId stands for another amount or payment already. Nothing was recorded. Report ' +
      'another refund under its own id.',
  },
  too_many_refunds: {
    status: 409,
    title: 'Too many refunds',
    advice:
      'An order is refunded in 100 parts at most. Give back the rest outside of this service.',
  },
  fulfilment_running: {
    status: 409,
    title: 'Fulfilment running',
    advice:
      'The saga of this order ships it and refunds what it captured. Follow its fulfilment, or cancel.',
  },
  cancellation_requested: {
    status: 409,
    title: 'Cancellation requested',
    advice: 'The order is being undone. Wait until it is cancelled.',
  },
  shipment_requested: {
    status: 409,
    title: 'Shipment requested',
    advice: 'The carrier has been asked: the order can no longer be cancelled.',
  },
  version_conflict: {
    status: 409,
    title: 'Too many writers at once',
    advice: 'Others changed the order at every attempt. Nothing was written; try again.',
  },
  version_mismatch: {
    status: 412,
    title: 'Order has changed',
    advice:
      'The order is not at the version of If-Match. Read it, decide again, send its new ETag.',
  },
};

/** The problem that a refusal is answered with. */
export function refusalKind(code: OrderRequestRefused['code']): ProblemKind {
  return { code, ...refusals[code] };
}

/** What else a route of orders can answer. */
export const orderProblemKinds = {
  versionNotFound: {
    code: 'order_version_not_found',
    status: 404,
    title: 'No such version of the order',
    advice: 'The order exists, but not at this version or instant. Leave the parameter out.',
  },
  cursorInvalid: {
    code: 'cursor_invalid',
    status: 400,
    title: 'Cursor not valid',
    advice: 'Send nextCursor as it was answered, with the same filters; or start without a cursor.',
  },
  versionConflict: refusalKind('version_conflict'),
  fulfilmentOff: {
    code: 'fulfilment_off',
    status: 409,
    title: 'Fulfilment is switched off',
    advice:
      'This installation has no providers (PAYMENT_URL, SHIPPING_URL): pay and ship by hand instead.',
  },
  overloaded: problemKinds.overloaded,
  outboxFull: {
    code: 'outbox_full',
    status: 503,
    title: 'Outbox full',
    advice:
      'Events wait for Kafka up to OUTBOX_MAX_ROWS. Nothing was written. Try again after ' +
      'Retry-After seconds; an operator should look at the relay.',
  },
  clockOff: {
    code: 'clock_off',
    status: 503,
    title: 'Clock off',
    advice:
      'The clock of this replica is more than 30 s off that of the database, so it records nothing. ' +
      'Nothing was written. Try again after Retry-After seconds; an operator should mend the clock.',
  },
  databaseUnavailable: {
    code: 'database_unavailable',
    status: 503,
    title: 'Database unavailable',
    advice: 'Nothing was written. Try again after Retry-After seconds.',
  },
  outcomeUnknown: {
    code: 'outcome_unknown',
    status: 503,
    title: 'Outcome unknown',
    advice:
      'The database did not answer in time: the command may have taken effect. Repeat it with the ' +
      'same Idempotency-Key, or read what it was to change before you try again.',
  },
} as const satisfies Record<string, ProblemKind>;

const RETRY_AFTER_SECONDS = 1;

/** Answers with `kind` in the words of its own advice. */
export function orderProblem(
  kind: ProblemKind,
  details: Omit<ProblemDetails, 'detail'> = {},
): Problem {
  const retryAfterSeconds = kind.status === 503 ? RETRY_AFTER_SECONDS : undefined;
  return new Problem(kind, { detail: kind.advice, retryAfterSeconds, ...details });
}

/** What is known of a request beside its error. */
type Circumstances = Readonly<{
  ifMatch?: EntityTags | undefined;
  /**
   * The order that a command of unknown outcome is about. Left out where it came with a key: the key may
   * stand for an earlier try, which had another id.
   */
  orderId?: string;
}>;

/**
 * What an error of the write path or of a read is answered with; what is not one of theirs is returned
 * as it is.
 */
export function toOrderProblem(error: unknown, { ifMatch, orderId }: Circumstances = {}): unknown {
  const kinds = orderProblemKinds;
  const extra = orderId === undefined ? undefined : { orderId };
  if (error instanceof OrderRequestRefused) {
    const { code, current } = error;
    const isWeak = code === 'version_mismatch' && ifMatch !== undefined && isWeakOnly(ifMatch);
    return orderProblem(isWeak ? problemKinds.ifMatchWeak : refusalKind(code), { current });
  }
  if (error instanceof CursorInvalid) {
    const errors = [{ pointer: 'query/cursor', message: error.message }];
    return orderProblem(kinds.cursorInvalid, { errors });
  }
  if (error instanceof VersionConflict) return orderProblem(kinds.versionConflict);
  if (error instanceof CommandOverloaded) return orderProblem(kinds.overloaded);
  if (error instanceof OutboxFull) return orderProblem(kinds.outboxFull);
  if (error instanceof CommandUncertain) {
    return orderProblem(kinds.outcomeUnknown, { extra, cause: error });
  }
  if (error instanceof ClockOff) return orderProblem(kinds.clockOff);
  if (error instanceof StoreUnavailable || isOutage(error)) {
    return orderProblem(kinds.databaseUnavailable, { cause: error });
  }
  return error;
}
