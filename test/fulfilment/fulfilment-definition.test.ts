import { describe, expect, test } from 'vitest';
import { fulfilmentDefinition } from '#src/fulfilment/fulfilment-definition.ts';
import type { Order } from '#src/orders/domain/order.ts';
import { advance, eventsOfOutcome } from '#src/sagas/saga-decisions.ts';
import type { Situation } from '#src/sagas/saga-decisions.ts';
import type { StepOutcome } from '#src/sagas/saga-call.ts';
import { actionsOf } from '#src/sagas/saga-definition.ts';
import { SagaNotStuck, StepNotOpen, decideResolve, decideRetry } from '#src/sagas/saga-operator.ts';
import type { Resolution } from '#src/sagas/saga-operator.ts';
import { actionOf, evolveSaga } from '#src/sagas/saga.ts';
import type { Saga, SagaEvent } from '#src/sagas/saga.ts';
import { specFor } from '#test/support/spec.ts';

const sagaId = 'saga-1';
const orderId = 'order-1';
const HOUR_MS = 3_600_000;
const definition = fulfilmentDefinition({ captureMs: 900_000, shipMs: HOUR_MS, undoMs: HOUR_MS });
const view: Order = {
  orderId,
  customerId: 'c-1',
  status: 'pending',
  currency: 'EUR',
  paymentStatus: 'unpaid',
  shipmentStatus: 'unshipped',
  items: [
    {
      lineId: '1',
      sku: 'book',
      quantity: 2,
      priceCents: 1250,
      shippedQuantity: 0,
      returnedQuantity: 0,
    },
  ],
  itemCount: 1,
  shippingCents: 0,
  taxCents: 0,
  discountCents: 0,
  totalCents: 2500,
  version: 2,
  placedAt: '2026-01-01T00:00:00.000Z',
  capturedCents: 0,
  refundedCents: 0,
  owedCents: 0,
  allowanceCents: 0,
  payments: [],
  refunds: [],
  parcels: [],
  returns: [],
  shipmentRequested: false,
  hasShippingAddress: true,
  hasContact: false,
  hasPaymentMethod: true,
};

type Command = Readonly<{
  step?: string;
  outcome?: StepOutcome;
  retry?: true;
  resolve?: Resolution;
  cancellation?: string;
  /** What the order costs, where it is not 2500. */
  totalCents?: number;
  short?: true | undefined;
  hoursLater?: number;
}>;

/** History is recorded at midnight, commands are decided `hoursLater`. */
const midnight = Date.parse('2026-01-01T00:00:00.000Z');

function decide(command: Command, saga: Saga | null): SagaEvent[] {
  const at = new Date(midnight + (command.hoursLater ?? 0) * HOUR_MS).toISOString();
  const situation: Situation = {
    definition,
    order: {
      sagaId,
      view: { ...view, totalCents: command.totalCents ?? view.totalCents },
      cancellation: command.cancellation ?? null,
    },
    at,
    now: at,
    refusedBy: command.short && 'short',
  };
  const { events } = advance(saga!, newsOf(command, saga!, situation), situation);
  return events.map(({ recordedAt, ...event }) => {
    expect(recordedAt).toBe(at);
    return untimed(event, at);
  });
}

/** What counts for a deadline says when it was, and nothing else does; the rest is the story. */
function untimed(event: SagaEvent, now: string): SagaEvent {
  const isTimed = ['StepRequested', 'StepAttempted', 'StepReopened'].includes(event.type);
  expect('at' in event.data ? event.data.at : undefined).toBe(isTimed ? now : undefined);
  const data = Object.fromEntries(Object.entries(event.data).filter(([name]) => name !== 'at'));
  return Object.assign({ ...event }, { data });
}

function newsOf(command: Command, saga: Saga, situation: Situation): SagaEvent[] {
  if (command.retry) return decideRetry(saga, definition, false);
  if (command.resolve) return decideResolve(saga, command.resolve, definition, false);
  const action = actionsOf(definition).find(({ name }) => name === command.step);
  if (action?.kind !== 'call') return [];
  return eventsOfOutcome(saga, action, command.outcome!, situation);
}

const given = specFor<Saga | null, Command, SagaEvent>({
  initial: null,
  evolve: (saga, event) =>
    evolveSaga(saga, { ...event, recordedAt: new Date(midnight).toISOString() }),
  decide,
});

const done = (step: string, result: unknown = {}): SagaEvent => ({
  type: 'StepDone',
  data: { step, result },
});
const requested = (step: string, request: unknown, round = 1): SagaEvent => ({
  type: 'StepRequested',
  data: { step, key: `${sagaId}-${step}-${round}`, request },
});
const refused = (step: string, reason: string): SagaEvent => ({
  type: 'StepRefused',
  data: { step, reason },
});
const tried = (step: string, reason = 'no response'): SagaEvent => ({
  type: 'StepAttempted',
  data: { step, outcome: 'unknown', reason },
});
const givenUp = (step: string, reason = 'no response'): SagaEvent => ({
  type: 'StepGivenUp',
  data: { step, reason },
});
const back = (reason: string): SagaEvent => ({ type: 'CompensationStarted', data: { reason } });
const compensated = (reason: string): SagaEvent => ({ type: 'SagaCompensated', data: { reason } });
const stuck = (...open: [string, string][]): SagaEvent => ({
  type: 'SagaStuck',
  data: { open: open.map(([step, reason]) => ({ step, reason })) },
});
const cancelled = (step: string): SagaEvent => ({ type: 'StepCancelled', data: { step } });
const reopened = (step: string, newKey: boolean): SagaEvent => ({
  type: 'StepReopened',
  data: { step, newKey },
});
const completed: SagaEvent = { type: 'SagaCompleted', data: {} };
const retried: SagaEvent = { type: 'RetryRequested', data: {} };
const resolved = (resolution: Resolution): SagaEvent => ({
  type: 'StepResolved',
  data: resolution,
});

const ok = (result: unknown): StepOutcome => ({ outcome: 'ok', result });
const no = (reason: string): StepOutcome => ({ outcome: 'refused', reason });
const unknown: StepOutcome = { outcome: 'unknown', reason: 'no response' };
const notApplied: StepOutcome = { outcome: 'not_applied', reason: 'too_many_requests' };

const money = { amountCents: 2500, currency: 'EUR' };
const capture = { paymentId: 'pay-1', ...money };
const lines = [{ lineId: '1', sku: 'book', quantity: 2 }];
const shipment = { parcels: [{ trackingNumber: 'T-1', carrier: 'post' }] };
const captureIntent = requested('capture', { orderId, ...money });
const shipIntent = requested('ship', { orderId, items: lines });
const cancelIntent = requested('cancel_capture', { orderId, openKey: 'saga-1-capture-1' });
const cancelShipIntent = requested('cancel_shipment', {
  orderId,
  openKey: 'saga-1-ship-1',
  items: lines,
});
const refundIntent = requested('refund', { orderId, ...capture });
const refund = { refundId: 'ref-1', ...capture };

const started: SagaEvent = {
  type: 'SagaStarted',
  data: { definition: 'fulfilment', definitionVersion: 2, subjectId: orderId },
};
const capturing = [started, done('reserve'), captureIntent];
const shipping = [...capturing, done('capture', capture), shipIntent];
const refunding = [...shipping, refused('ship', 'too heavy'), back('x'), refundIntent];
const settling = [...capturing, back('changed my mind'), cancelIntent];
const unshipping = [...shipping, tried('ship'), givenUp('ship'), cancelShipIntent];

describe('the steps of a fulfilment', () => {
  test('end with the shipment: the failure of a later step would refund a parcel that has left', () => {
    expect(definition.steps.findIndex(({ pivot }) => pivot)).toBe(definition.steps.length - 1);
  });
});

describe('a fulfilment without failures', () => {
  test('reserves the stock and requests the capture', () => {
    given(started).when({}).emits(done('reserve'), captureIntent);
  });

  test('requests the shipment once the money is captured', () => {
    given(...capturing)
      .when({ step: 'capture', outcome: ok(capture) })
      .emits(done('capture', capture), shipIntent);
  });

  test('is complete once the parcel is shipped', () => {
    given(...shipping)
      .when({ step: 'ship', outcome: ok(shipment) })
      .emits(done('ship', shipment), completed);
  });
});

describe('an order that costs nothing', () => {
  const nothing = { amountCents: 0, currency: 'EUR' };
  const free = done('capture', { paymentId: `none-${orderId}`, ...nothing });
  const kept = done('refund', {
    paymentId: `none-${orderId}`,
    ...nothing,
    refundId: `none-${orderId}`,
  });
  const asked = requested('capture', { orderId, ...nothing });

  test('is captured without a call, even if an earlier release has requested the capture', () => {
    given(started).when({ totalCents: 0 }).emits(done('reserve'), free, shipIntent);
    given(started, done('reserve'), asked).when({ totalCents: 0 }).emits(free, shipIntent);
  });

  test('is undone without a refund call, even if an earlier release has requested the refund', () => {
    const history = [started, done('reserve'), free, shipIntent];
    const reason = 'ship refused: too heavy';
    given(...history)
      .when({ step: 'ship', outcome: no('too heavy'), totalCents: 0 })
      .emits(
        refused('ship', 'too heavy'),
        back(reason),
        kept,
        done('release'),
        compensated(reason),
      );
    const refundAsked = requested('refund', {
      orderId,
      paymentId: `none-${orderId}`,
      ...nothing,
    });
    given(...history, refused('ship', 'too heavy'), back(reason), refundAsked, done('release'))
      .when({ totalCents: 0 })
      .emits(kept, compensated(reason));
    given(
      ...history,
      refused('ship', 'too heavy'),
      back(reason),
      refundAsked,
      done('release'),
      refused('refund', 'payment_not_found'),
      stuck(['refund', 'payment_not_found']),
    )
      .when({ retry: true, totalCents: 0 })
      .emits(retried, reopened('refund', true), kept, compensated(reason));
  });

  test('has nothing to refund if the provider states that it took nothing', () => {
    const taken = { paymentId: 'pay-1', ...nothing };
    given(...settling)
      .when({ step: 'cancel_capture', outcome: { outcome: 'already_done', result: taken } })
      .emits(
        done('cancel_capture', { outcome: 'already_done' }),
        done('capture', taken),
        done('refund', { ...taken, refundId: `none-${orderId}` }),
        done('release'),
        compensated('changed my mind'),
      );
  });
});

describe('a refusal', () => {
  test('of the reservation ends the saga with nothing to undo', () => {
    const reason = 'reserve refused: out of stock';
    given(started)
      .when({ short: true })
      .emits(refused('reserve', 'out of stock'), back(reason), compensated(reason));
  });

  test('of the capture releases the stock', () => {
    const reason = 'capture refused: card_declined';
    given(...capturing)
      .when({ step: 'capture', outcome: no('card_declined') })
      .emits(
        refused('capture', 'card_declined'),
        back(reason),
        done('release'),
        compensated(reason),
      );
  });

  test('of the shipment refunds exactly what the provider stated that it took', () => {
    given(...shipping)
      .when({ step: 'ship', outcome: no('too heavy') })
      .emits(refused('ship', 'too heavy'), back('ship refused: too heavy'), refundIntent);
  });
});

describe('a call without a known outcome', () => {
  test.each([
    ['capture', capturing],
    ['ship', shipping],
    ['refund', [...refunding, done('release')]],
  ])('is recorded and tried again: %s', (step, history) => {
    given(...history)
      .when({ step, outcome: unknown })
      .emits(tried(step));
    given(...history)
      .when({ step, outcome: notApplied })
      .emits({
        type: 'StepAttempted',
        data: { step, outcome: 'not_applied', reason: 'too_many_requests' },
      });
  });

  test('is recorded once', () => {
    given(...capturing, done('capture', capture), shipIntent)
      .when({ step: 'capture', outcome: unknown })
      .emitsNothing();
  });

  test('gives the capture up at its deadline, and cancels its key', () => {
    given(...capturing)
      .when({ step: 'capture', outcome: unknown, hoursLater: 0.249 })
      .emits(tried('capture'));
    given(...capturing)
      .when({ step: 'capture', outcome: unknown, hoursLater: 0.25 })
      .emits(
        tried('capture'),
        givenUp('capture'),
        back('capture given up: no response'),
        cancelIntent,
      );
  });

  test('gives the capture up if the provider states another amount', () => {
    given(...capturing)
      .when({ step: 'capture', outcome: { ...unknown, hopeless: true } })
      .emits(
        tried('capture'),
        givenUp('capture'),
        back('capture given up: no response'),
        cancelIntent,
      );
  });

  test('never refunds the money while the parcel may be on its way', () => {
    given(...shipping)
      .when({ step: 'ship', outcome: unknown, hoursLater: 1 })
      .emits(tried('ship'), givenUp('ship'), cancelShipIntent);
  });

  test('does not hold up the other compensations', () => {
    given(...refunding)
      .when({ step: 'refund', outcome: unknown })
      .emits(tried('refund'), done('release'));
    given(...settling)
      .when({ step: 'cancel_capture', outcome: unknown })
      .emits(tried('cancel_capture'), done('release'));
  });
});

describe('a cancellation', () => {
  const cancellation = 'changed my mind';

  test('before the first step ends the saga', () => {
    given(started).when({ cancellation }).emits(back(cancellation), compensated(cancellation));
  });

  test('while the capture is open cancels its key', () => {
    given(...capturing)
      .when({ step: 'capture', outcome: unknown, cancellation })
      .emits(tried('capture'), back(cancellation), cancelIntent);
  });

  test('after the capture refunds the money', () => {
    given(...capturing)
      .when({ step: 'capture', outcome: ok(capture), cancellation })
      .emits(done('capture', capture), back(cancellation), refundIntent);
  });

  test('has no effect once the shipment is requested', () => {
    given(...shipping)
      .when({ step: 'ship', outcome: unknown, cancellation })
      .emits(tried('ship'));
    given(...shipping)
      .when({ step: 'ship', outcome: ok(shipment), cancellation })
      .emits(done('ship', shipment), completed);
  });
});

describe('cancelling the key of an open call', () => {
  test('releases the stock if nothing was taken', () => {
    given(...settling)
      .when({ step: 'cancel_capture', outcome: { outcome: 'cancelled' } })
      .emits(
        done('cancel_capture', { outcome: 'cancelled' }),
        cancelled('capture'),
        done('release'),
        compensated('changed my mind'),
      );
  });

  test('refunds a capture that took effect late, whatever its amount', () => {
    const other = { paymentId: 'pay-9', amountCents: 99, currency: 'USD' };
    given(...settling)
      .when({ step: 'cancel_capture', outcome: { outcome: 'already_done', result: other } })
      .emits(
        done('cancel_capture', { outcome: 'already_done' }),
        done('capture', other),
        requested('refund', { orderId, ...other }),
      );
  });

  test('completes the saga if the parcel was on its way', () => {
    given(...unshipping)
      .when({ step: 'cancel_shipment', outcome: { outcome: 'already_done', result: shipment } })
      .emits(
        done('cancel_shipment', { outcome: 'already_done' }),
        done('ship', shipment),
        completed,
      );
  });

  test('refunds the money once the parcel is stopped, not before', () => {
    given(...unshipping)
      .when({ step: 'cancel_shipment', outcome: { outcome: 'cancelled' } })
      .emits(
        done('cancel_shipment', { outcome: 'cancelled' }),
        cancelled('ship'),
        back('ship given up: no response'),
        refundIntent,
      );
  });
});

describe('undoing', () => {
  test('ends once everything is undone', () => {
    given(...refunding)
      .when({ step: 'refund', outcome: ok(refund) })
      .emits(done('refund', refund), done('release'), compensated('x'));
  });

  test('is stuck if the refund is refused, with everything else undone', () => {
    given(...refunding)
      .when({ step: 'refund', outcome: no('payment_not_found') })
      .emits(
        refused('refund', 'payment_not_found'),
        done('release'),
        stuck(['refund', 'payment_not_found']),
      );
  });

  test('is stuck if there is no response until the deadline', () => {
    given(...refunding, tried('refund'), done('release'))
      .when({ step: 'refund', outcome: unknown, hoursLater: 1 })
      .emits(tried('refund'), givenUp('refund'), stuck(['refund', 'no response']));
    given(...settling, tried('cancel_capture'), done('release'))
      .when({ step: 'cancel_capture', outcome: unknown, hoursLater: 1 })
      .emits(tried('cancel_capture'), givenUp('cancel_capture'), stuck(['capture', 'no response']));
    given(...unshipping)
      .when({ step: 'cancel_shipment', outcome: unknown, hoursLater: 1 })
      .emits(tried('cancel_shipment'), givenUp('cancel_shipment'), stuck(['ship', 'no response']));
  });
});

describe('an operator', () => {
  const word = { reference: null, reason: 'asked the provider' } as const;
  const refundRefused = [
    ...refunding,
    refused('refund', 'r'),
    done('release'),
    stuck(['refund', 'r']),
  ];
  const refundUnknown = [
    ...refunding,
    givenUp('refund'),
    done('release'),
    stuck(['refund', 'no response']),
  ];
  const captureUnknown = [
    ...settling,
    givenUp('cancel_capture'),
    done('release'),
    stuck(['capture', 'no response']),
  ];
  const shipUnknown = [...unshipping, givenUp('cancel_shipment'), stuck(['ship', 'no response'])];

  test('makes a refused refund again, under a new key', () => {
    given(...refundRefused)
      .when({ retry: true })
      .emits(retried, reopened('refund', true), requested('refund', { orderId, ...capture }, 2));
  });

  test('tries a refund that may have happened again under its old key', () => {
    given(...refundUnknown)
      .when({ retry: true })
      .emits(retried, reopened('refund', false));
  });

  test('tries a cancel that was given up again', () => {
    given(...captureUnknown)
      .when({ retry: true })
      .emits(retried, reopened('cancel_capture', false));
    given(...shipUnknown)
      .when({ retry: true })
      .emits(retried, reopened('cancel_shipment', false));
  });

  test('records that the refund was made', () => {
    const resolution = { ...word, step: 'refund', outcome: 'done', reference: 'ref-1' } as const;
    given(...refundUnknown)
      .when({ resolve: resolution })
      .emits(resolved(resolution), done('refund', refund), compensated('x'));
  });

  test('makes a refund that was not made, under a new key', () => {
    const resolution = { ...word, step: 'refund', outcome: 'notDone' } as const;
    given(...refundUnknown)
      .when({ resolve: resolution })
      .emits(
        resolved(resolution),
        reopened('refund', true),
        requested('refund', { orderId, ...capture }, 2),
      );
  });

  test('refunds money that was taken', () => {
    const resolution = { ...word, step: 'capture', outcome: 'done', reference: 'pay-1' } as const;
    given(...captureUnknown)
      .when({ resolve: resolution })
      .emits(resolved(resolution), done('capture', capture), refundIntent);
  });

  test('has nothing more to undo if the money was not taken', () => {
    const resolution = { ...word, step: 'capture', outcome: 'notDone' } as const;
    given(...captureUnknown)
      .when({ resolve: resolution })
      .emits(
        resolved(resolution),
        refused('capture', 'resolved: asked the provider'),
        compensated('changed my mind'),
      );
  });

  test('ships the order if the parcel has left', () => {
    const resolution = { ...word, step: 'ship', outcome: 'done', reference: 'T-1' } as const;
    given(...shipUnknown)
      .when({ resolve: resolution })
      .emits(
        resolved(resolution),
        done('ship', { parcels: [{ trackingNumber: 'T-1', carrier: 'unknown' }] }),
        completed,
      );
  });

  test('refunds the money if the parcel has not left', () => {
    const resolution = { ...word, step: 'ship', outcome: 'notDone' } as const;
    const reason = 'resolved: asked the provider';
    given(...shipUnknown)
      .when({ resolve: resolution })
      .emits(
        resolved(resolution),
        refused('ship', reason),
        back(`ship refused: ${reason}`),
        refundIntent,
      );
  });

  test('is refused while the saga runs, and for a step that is not open', () => {
    const resolve = { ...word, step: 'reserve', outcome: 'notDone' } as const;
    const saga = [...refundUnknown].reduce<Saga | null>(
      (sofar, event) => evolveSaga(sofar, { ...event, recordedAt: '2026-01-01T00:00:00.000Z' }),
      null,
    );
    expect(() => decide({ resolve }, saga)).toThrow(StepNotOpen);
    const live = { ...saga!, state: 'compensating' } as const;
    expect(() => decide({ resolve }, live)).toThrow(SagaNotStuck);
    expect(() => decide({ retry: true }, live)).toThrow(SagaNotStuck);
  });

  test('is needed again if the next attempt fails too', () => {
    const again = [...refundUnknown, retried, reopened('refund', false)];
    given(...again)
      .when({ step: 'refund', outcome: unknown, hoursLater: 1 })
      .emits(tried('refund'), givenUp('refund'), stuck(['refund', 'no response']));
  });
});

describe('a deadline', () => {
  const later = (hours: number) => new Date(midnight + hours * HOUR_MS).toISOString();
  const MONTH = 30 * 24;
  /** Decided at the hour, whatever the last event says it was recorded at. */
  const decidedAt = (hour: number): Situation => ({
    definition,
    order: { sagaId, view, cancellation: null },
    at: later(MONTH),
    now: later(hour),
  });
  const capturing = actionsOf(definition).find(({ name }) => name === 'capture');
  if (capturing?.kind !== 'call') throw new Error('a capture is a call');

  /** The types of what a failed capture leads to at the hour. */
  const failedAt = (saga: Saga, hour: number) => {
    const situation = decidedAt(hour);
    const { events } = advance(
      saga,
      eventsOfOutcome(saga, capturing, unknown, situation),
      situation,
    );
    return events.map(({ type }) => type);
  };
  const startedIn = (hours: number): Saga =>
    evolveSaga(null, { ...started, recordedAt: later(hours) });

  test('counts from the request, even if events were recorded a month ahead', () => {
    const { saga } = advance(startedIn(MONTH), [], decidedAt(0));
    expect(saga.lastAt).toBe(later(MONTH));
    expect(actionOf(saga, 'capture')).toMatchObject({
      requestedAt: later(0),
      triedFrom: later(0),
    });
    expect(failedAt(saga, 0.24)).toEqual(['StepAttempted']);
    expect(failedAt(saga, 0.25)).toContain('StepGivenUp');
  });

  test('of an earlier release that was a month ahead counts from the first attempt since', () => {
    const asked = [done('reserve'), captureIntent].reduce(
      (saga, event) => evolveSaga(saga, { ...event, recordedAt: later(MONTH) }),
      startedIn(0),
    );
    expect(failedAt(asked, 1)).toEqual(['StepAttempted']);
    const news = eventsOfOutcome(asked, capturing, unknown, decidedAt(1));
    const { saga } = advance(asked, news, decidedAt(1));
    expect(actionOf(saga, 'capture').requestedAt).toBe(later(1));
    expect(failedAt(saga, 1.24)).toEqual(['StepAttempted']);
    expect(failedAt(saga, 1.25)).toContain('StepGivenUp');
  });
});
