import fc from 'fast-check';
import { cancelRequest } from '#src/fulfilment/fulfilment-calls.ts';
import { fulfilmentDefinition } from '#src/fulfilment/fulfilment-definition.ts';
import { refundDefinition } from '#src/fulfilment/refund-definition.ts';
import { advance, eventsOfOutcome } from '#src/sagas/saga-decisions.ts';
import type { Situation, Todo } from '#src/sagas/saga-decisions.ts';
import { attemptCall } from '#src/sagas/saga-call.ts';
import type { StepCall } from '#src/sagas/saga-call.ts';
import type { SagaOrder } from '#src/sagas/saga-definition.ts';
import { actionOf, foldSaga } from '#src/sagas/saga.ts';
import type { RecordedSagaEvent } from '#src/sagas/saga.ts';

const MINUTE_MS = 60_000;
const RESEND_MS_MAX = 20 * 60 * MINUTE_MS;
const DEADLINES = {
  captureMs: 15 * MINUTE_MS,
  shipMs: 24 * 60 * MINUTE_MS,
  undoMs: 24 * 60 * MINUTE_MS,
};
const definitions = {
  fulfilment: fulfilmentDefinition(DEADLINES),
  refund: refundDefinition(DEADLINES),
};
/** The order, which a refund of 1000 was requested of. */
const view: SagaOrder['view'] = {
  orderId: 'order-1',
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
  refunds: [
    {
      refundId: 'ref-1',
      amountCents: 1000,
      paymentId: 'pay-0',
      state: 'requested',
      sagaId: 'saga-1',
    },
  ],
  parcels: [],
  returns: [],
  shipmentRequested: false,
  hasShippingAddress: true,
  hasContact: false,
  hasPaymentMethod: true,
};

/** How one call goes; `late` takes effect some calls later. */
const faults = ['none', 'refuse', 'lost_before', 'lost_after', 'late', 'too_many'] as const;
const fault = fc.oneof(
  { weight: 3, arbitrary: fc.constant('none' as const) },
  { weight: 2, arbitrary: fc.constantFrom(...faults) },
);
type Fault = (typeof faults)[number];

/** One turn of a run: how its calls go, and where the process dies. */
const turn = fc.record({
  faults: fc.array(fault, { minLength: 2, maxLength: 2 }),
  crash: fc.constantFrom('no', 'no', 'no', 'before call', 'after call'),
  minutesLater: fc.constantFrom(0, 0, 1, 16, 60, 1500),
  cancels: fc.constantFrom(false, false, false, true),
  short: fc.constantFrom(false, false, false, true),
});
type Turn = typeof turn extends fc.Arbitrary<infer T> ? T : never;

const LOST = { outcome: 'unknown', reason: 'no response' } as const;

/** Both providers, honest about keys: the ledger of a key has one entry, for ever. */
function createProviderWorld(nextFault: () => Fault) {
  const settled = new Map<string, Readonly<{ effect: boolean; result: unknown }>>();
  const late: (() => void)[] = [];
  let number = 0;

  const settle = (key: string, effect: boolean, result: object) => {
    if (!settled.has(key)) settled.set(key, { effect, result });
    return settled.get(key)!;
  };

  const effect = (
    operation: string,
    stated: (request: object, id: string) => object,
  ): StepCall => ({
    send: async ({ key, request }) => {
      const chosen = nextFault();
      number += 1;
      const result = stated(Object(request), String(number));
      if (chosen === 'too_many') return { outcome: 'not_applied', reason: 'too_many' };
      if (chosen === 'lost_before') return LOST;
      if (chosen === 'late') {
        late.push(() => settle(`${operation} ${key}`, true, result));
        return LOST;
      }
      const entry = settle(`${operation} ${key}`, chosen !== 'refuse', result);
      if (chosen === 'lost_after') return LOST;
      return entry.effect
        ? { outcome: 'ok', result: entry.result }
        : { outcome: 'refused', reason: 'no' };
    },
    lookUp: async ({ key }) => {
      if (nextFault().startsWith('lost')) return LOST;
      const entry = settled.get(`${operation} ${key}`);
      return entry?.effect ? { outcome: 'found', result: entry.result } : { outcome: 'absent' };
    },
  });
  const cancel = (operation: string): StepCall => ({
    cancel: async ({ request }) => {
      const chosen = nextFault();
      if (chosen === 'lost_before') return LOST;
      const entry = settle(`${operation} ${cancelRequest.parse(request).openKey}`, false, {});
      if (chosen === 'lost_after') return LOST;
      return entry.effect
        ? { outcome: 'already_done', result: entry.result }
        : { outcome: 'cancelled' };
    },
  });

  const calls: Readonly<Record<string, StepCall>> = {
    capture: effect('capture', (request, id) => ({ ...request, paymentId: `pay-${id}` })),
    refund: effect('refund', (request, id) => ({ ...request, refundId: `ref-${id}` })),
    ship: effect('ship', (_, id) => ({ parcels: [{ trackingNumber: id, carrier: 'post' }] })),
    cancel_capture: cancel('capture'),
    cancel_shipment: cancel('ship'),
  };

  return {
    calls,
    /** Whatever was on its way lands. */
    land: () => late.splice(0).forEach((settleLate) => settleLate()),
    effects: (operation: string) =>
      [...settled].filter(([key, { effect }]) => effect && key.startsWith(operation)).length,
  };
}

/** Which saga, and whether a refund may be refused. */
type Walking = Readonly<{ saga?: keyof typeof definitions; mayRefuseRefunds?: boolean }>;

/** Carries a saga through the turns, then through an honest world to its end. */
export async function walk(
  turns: readonly Turn[],
  { saga: name = 'fulfilment', mayRefuseRefunds = true }: Walking = {},
) {
  const definition = definitions[name];
  let now = Date.parse('2026-01-01T00:00:00.000Z');
  let coming: Fault[] = [];
  let isRefund = false;
  const world = createProviderWorld(() => {
    const next = coming.shift() ?? 'none';
    return next === 'refuse' && isRefund && !mayRefuseRefunds ? 'none' : next;
  });
  const log: RecordedSagaEvent[] = [
    {
      type: 'SagaStarted',
      data: {
        definition: definition.name,
        definitionVersion: definition.version,
        subjectId: 'order-1',
      },
      recordedAt: new Date(now).toISOString(),
    },
  ];
  let cancellation: string | null = null;

  /** One commit; a process that is started anew knows only the log. */
  const commit = (
    news: (situation: Situation) => ReturnType<typeof eventsOfOutcome>,
    short: boolean,
  ): Todo => {
    const situation = {
      definition,
      order: {
        sagaId: 'saga-1',
        view,
        cancellation: definition.ignoresCancellation ? null : cancellation,
      },
      at: new Date(now).toISOString(),
      now: new Date(now).toISOString(),
      ...(short && { refusedBy: 'short' as const }),
    };
    const { events, todo } = advance(foldSaga(log)!, news(situation), situation);
    log.push(...events);
    return todo;
  };

  const honest: Turn = {
    faults: [],
    crash: 'no',
    minutesLater: 1,
    cancels: false,
    short: false,
  };
  const scheduled = [...turns];
  for (let turns = 0; turns < 200; turns += 1) {
    const chosen = scheduled.shift() ?? honest;
    if (chosen === honest) world.land();
    now += chosen.minutesLater * MINUTE_MS;
    coming = [...chosen.faults];
    const isAsked = log.some(({ type, data }) => type === 'StepRequested' && data.step === 'ship');
    if (chosen.cancels && !isAsked) cancellation ??= 'changed my mind';

    let todo = commit(() => [], chosen.short);
    if (todo.kind === 'rest') break;
    for (let calls = 0; todo.kind === 'call' && calls < 20; calls += 1) {
      if (chosen.crash === 'before call') break;
      const { action, fresh } = todo;
      const { key, request, requestedAt } = actionOf(foldSaga(log)!, action.name);
      isRefund = action.name === 'refund';
      const outcome = await attemptCall(
        world.calls[action.name]!,
        { key: key!, request },
        {
          fresh,
          mayResend: now - Date.parse(requestedAt!) < RESEND_MS_MAX,
          timeoutMs: 60_000,
          cutting: new AbortController().signal,
        },
      );
      if (chosen.crash === 'after call') break;
      todo = commit(
        (situation) => eventsOfOutcome(foldSaga(log)!, action, outcome, situation),
        false,
      );
    }
  }
  world.land();
  return { saga: foldSaga(log)!, log, world, cancellation };
}

export const turns = fc.array(turn, { maxLength: 30 });
