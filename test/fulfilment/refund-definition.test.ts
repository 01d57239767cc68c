import { describe, expect, test } from 'vitest';
import { refundDefinition } from '#src/fulfilment/refund-definition.ts';
import type { OrderEvent } from '#src/orders/domain/order-events.ts';
import { evolve, recordNext } from '#src/orders/domain/order.ts';
import type { Order } from '#src/orders/domain/order.ts';
import type { StepOutcome } from '#src/sagas/saga-call.ts';
import { advance, eventsOfOutcome } from '#src/sagas/saga-decisions.ts';
import type { Situation } from '#src/sagas/saga-decisions.ts';
import { actionsOf } from '#src/sagas/saga-definition.ts';
import { decideResolve, decideRetry } from '#src/sagas/saga-operator.ts';
import type { Resolution } from '#src/sagas/saga-operator.ts';
import { evolveSaga } from '#src/sagas/saga.ts';
import type { Saga, SagaEvent } from '#src/sagas/saga.ts';

const HOUR_MS = 3_600_000;
const definition = refundDefinition({ undoMs: HOUR_MS });
const [action] = actionsOf(definition);
const midnight = '2026-01-01T00:00:00.000Z';
const later = '2026-01-01T01:00:00.000Z';

const history: readonly OrderEvent[] = [
  {
    type: 'OrderPlaced',
    data: {
      orderId: 'order-1',
      customerId: 'c-1',
      currency: 'EUR',
      items: [{ lineId: '1', sku: 'book', quantity: 2, priceCents: 1250 }],
      totalCents: 2500,
    },
  },
  { type: 'FulfilmentStarted', data: { sagaId: 'saga-0' } },
  {
    type: 'PaymentCaptured',
    data: { paymentId: 'pay-1', amountCents: 2500, sagaId: 'saga-0' },
  },
  { type: 'OrderShipped', data: { trackingNumber: 'T-1', carrier: 'post' } },
  {
    type: 'RefundRequested',
    data: { refundId: 'ref-1', amountCents: 1000, paymentId: 'pay-1', sagaId: 'saga-1' },
  },
  {
    type: 'RefundRequested',
    data: { refundId: 'ref-2', amountCents: 300, paymentId: 'pay-1', sagaId: 'saga-2' },
  },
];
const view = history.reduce<Order | null>(
  (order, event) => evolve(order, recordNext(order, event, midnight)),
  null,
)!;

const asked = { orderId: 'order-1', paymentId: 'pay-1', amountCents: 1000, currency: 'EUR' };
const situation = (now = midnight, refusedBy?: 'conflict'): Situation => ({
  definition,
  order: { sagaId: 'saga-1', view, cancellation: null },
  at: now,
  now,
  refusedBy,
});
const fold = (events: readonly SagaEvent[]) =>
  events.reduce<Saga | null>(
    (saga, event) => evolveSaga(saga, { ...event, recordedAt: midnight }),
    null,
  )!;

const started: SagaEvent = {
  type: 'SagaStarted',
  data: { definition: 'refund', definitionVersion: 1, subjectId: 'order-1' },
};
const requested: SagaEvent = {
  type: 'StepRequested',
  data: { step: 'refund', key: 'saga-1-refund-1', request: asked, at: midnight },
};
const givenUp: SagaEvent = {
  type: 'StepGivenUp',
  data: { step: 'refund', reason: 'no response' },
};
const stuck: SagaEvent = {
  type: 'SagaStuck',
  data: { open: [{ step: 'refund', reason: 'no response' }] },
};
const isStuck = [started, requested, givenUp, stuck];

/** What follows, as types of the saga's events, and the commands that the order gets. */
function follow(
  given: readonly SagaEvent[],
  news: (saga: Saga) => readonly SagaEvent[],
  now?: string,
) {
  const saga = fold(given);
  const { events, todo } = advance(saga, news(saga), situation(now));
  const commands = events.flatMap(
    (event) => definition.orderCommand(event, situation(now).order, saga) ?? [],
  );
  return { types: events.map(({ type }) => type), events, commands, todo };
}

const outcome = (what: StepOutcome, now?: string) => (saga: Saga) =>
  action?.kind === 'call' ? eventsOfOutcome(saga, action, what, situation(now)) : [];
const resolve = (resolution: Omit<Resolution, 'step' | 'reason'>) => (saga: Saga) =>
  decideResolve(saga, { step: 'refund', reason: 'asked', ...resolution }, definition, false);

describe('the saga of a refund', () => {
  test('asks for its own refund, in the currency of the order, under one key', () => {
    const { events, commands, todo } = follow([started], () => []);
    expect(events).toEqual([{ ...requested, recordedAt: midnight }]);
    expect(commands).toEqual([]);
    expect(todo).toMatchObject({ kind: 'call', fresh: true });
  });

  test('records the refund on the order under the id that its caller gave it', () => {
    const result = { refundId: 're_9', ...asked };
    const { types, commands } = follow([started, requested], outcome({ outcome: 'ok', result }));
    expect(types).toEqual(['StepDone', 'SagaCompleted']);
    expect(commands).toEqual([
      { type: 'RecordRefund', refundId: 'ref-1', paymentId: 'pay-1', amountCents: 1000 },
    ]);
  });

  test('fails the refund if the provider refuses it', () => {
    const { types, commands } = follow(
      [started, requested],
      outcome({ outcome: 'refused', reason: 'too_old' }),
    );
    expect(types).toEqual(['StepRefused', 'CompensationStarted', 'SagaCompensated']);
    expect(commands).toEqual([{ type: 'FailRefund', refundId: 'ref-1', reason: 'too_old' }]);
  });

  test('tries again while the outcome is unknown, and is stuck at the deadline', () => {
    const lost: StepOutcome = { outcome: 'unknown', reason: 'no response' };
    const early = follow([started, requested], outcome(lost));
    expect([early.types, early.todo.kind]).toEqual([['StepAttempted'], 'wait']);
    const late = follow([started, requested], outcome(lost, later), later);
    expect(late.types).toEqual(['StepAttempted', 'StepGivenUp', 'SagaStuck']);
    expect(late.events.at(-1)?.data).toEqual(stuck.data);
    expect(late.commands).toEqual([]);
  });

  test('is stuck at once if the provider states another refund than was asked for', () => {
    const stated = { ...asked, amountCents: 999, refundId: 're_9' };
    const { types, commands } = follow(
      [started, requested],
      outcome({ outcome: 'unknown', reason: 'states 999 EUR', stated, hopeless: true }),
    );
    expect(types).toEqual(['StepAttempted', 'StepGivenUp', 'SagaStuck']);
    expect(commands).toEqual([]);
  });
});

describe('an operator with a stuck refund', () => {
  test('retries it under its old key', () => {
    const { types, events, todo } = follow(isStuck, (saga) => decideRetry(saga, definition, false));
    expect(types).toEqual(['RetryRequested', 'StepReopened']);
    expect(events.at(-1)?.data).toMatchObject({ step: 'refund', newKey: false });
    expect(todo).toMatchObject({ kind: 'call', fresh: false });
  });

  test('records that it was made', () => {
    const { types, commands } = follow(isStuck, resolve({ outcome: 'done', reference: 're_9' }));
    expect(types).toEqual(['StepResolved', 'StepDone', 'SagaCompleted']);
    expect(commands).toMatchObject([{ type: 'RecordRefund', refundId: 'ref-1' }]);
  });

  test('fails it if it was not made: no other key is ever used for it', () => {
    const { types, commands } = follow(isStuck, resolve({ outcome: 'notDone', reference: null }));
    expect(types).toEqual([
      'StepResolved',
      'StepRefused',
      'CompensationStarted',
      'SagaCompensated',
    ]);
    expect(commands).toEqual([
      { type: 'FailRefund', refundId: 'ref-1', reason: 'resolved: asked' },
    ]);
  });
});
