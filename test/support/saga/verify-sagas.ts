import type { LedgerEntry } from '#dev/provider-simulator/provider-books.ts';
import type { Order } from '../api-shapes.ts';
import { field, foldOrder } from '../order-fold.ts';
import type { FoldedOrder, SagaEffects, StoredEvent } from '../order-fold.ts';
import type { SagaWorld } from './world.ts';
import { aboutSummaries, historiesOf, readStored } from '../verify-database.ts';
import type { Stored } from '../verify-database.ts';

export type SagaExpectations = Readonly<{
  /** What was on hand at first, by sku. */
  stock: Readonly<Record<string, number>>;
  /** A relay takes messages away; without one, each event still has its own. */
  relay?: 'on';
  /** Whether this order's saga may be left to an operator. Without it, all must have ended. */
  mayBeStuck?: (orderId: string) => boolean;
}>;

type WorkRow = Readonly<{
  saga_id: string;
  subject_id: string;
  definition: string;
  state: string;
  reason: string | null;
  due_at: Date | null;
  lease_until: Date | null;
}>;
type Reservation = Readonly<{ reservation_id: string; sku: string; quantity: number }>;

/** An order with all that is known of it: here, and at the providers. */
type Whole = Readonly<{
  orderId: string;
  folded: FoldedOrder;
  order: Order;
  /** Null if no saga was started. */
  effects: SagaEffects | null;
  events: readonly StoredEvent[];
  work: WorkRow | undefined;
  /** The sagas of its refunds. */
  refunds: readonly Readonly<{ work: WorkRow; saga: readonly StoredEvent[] }>[];
  saga: readonly StoredEvent[];
  ledger: readonly LedgerEntry[];
  held: readonly Reservation[];
}>;

/**
 * What a fulfilment promises, held against the providers' ledger and every table, once all sagas rest.
 * @returns what does not hold, in words; empty if all does
 */
export async function verifySagas(
  world: Pick<SagaWorld, 'database' | 'simulator'>,
  expected: SagaExpectations,
): Promise<string[]> {
  const { database, simulator } = world;
  const stored = await readStored(database.url);
  const work = await database.query<WorkRow>('select * from saga_work');
  const held = await database.query<Reservation>('select * from reservations');
  const stock = await database.query<StockRow>('select sku, on_hand, reserved from stock');
  const byOrder = Map.groupBy(await simulator.ledger(), ({ orderId }) => orderId);
  const histories = historiesOf(stored.events);
  const isFulfilment = ({ definition }: WorkRow) => definition === 'fulfilment';
  const workOf = new Map(work.filter(isFulfilment).map((row) => [row.subject_id, row]));
  const refundsOf = Map.groupBy(
    work.filter((row) => !isFulfilment(row)),
    (row) => row.subject_id,
  );

  const found: string[] = [];
  const wholes: Whole[] = [];
  for (const [orderId, events] of histories) {
    if (events[0]?.type === 'SagaStarted') continue;
    const row = workOf.get(orderId);
    const sagaId = row?.saga_id ?? '';
    try {
      const folded = foldOrder(events);
      wholes.push({
        orderId,
        folded,
        order: folded.order,
        effects: folded.saga,
        events,
        work: row,
        refunds: (refundsOf.get(orderId) ?? []).map((refund) => ({
          work: refund,
          saga: histories.get(refund.saga_id) ?? [],
        })),
        saga: histories.get(sagaId) ?? [],
        ledger: byOrder.get(orderId) ?? [],
        held: held.filter(({ reservation_id: id }) => id === sagaId),
      });
    } catch (error) {
      found.push(`${orderId}: ${String(error)}`);
    }
  }
  for (const whole of wholes) {
    const wrong = [
      ...aboutMoney(whole),
      ...aboutEnd(whole, expected),
      ...[whole, ...whole.refunds].flatMap(aboutSaga),
      ...aboutRefunds(whole, expected),
      ...aboutParcels(whole),
    ];
    if (wrong.length > 0) found.push(`${whole.orderId}: ${wrong.join('; ')}\n${storyOf(whole)}`);
  }
  for (const [orderId] of byOrder) {
    if (!histories.has(orderId)) found.push(`${orderId}: the providers know an order that is none`);
  }
  return [
    ...found,
    ...aboutVersions(stored, expected),
    ...aboutSummaries(
      stored.summaries,
      new Map(wholes.map(({ orderId, folded }) => [orderId, folded])),
    ),
    ...aboutStock(stock, held, wholes, expected),
  ];
}

type Rules = Readonly<Record<string, boolean>>;

function broken(rules: Rules): string[] {
  return Object.entries(rules).flatMap(([rule, holds]) => (holds ? [] : [`not so: ${rule}`]));
}

/** In the words of the ledger: what happened outside happened once, and is where it belongs. */
function aboutMoney({ order, effects, ledger, saga, refunds: own }: Whole): string[] {
  const of = (effect: LedgerEntry['effect']) => ledger.filter((entry) => entry.effect === effect);
  const captures = of('capture');
  const refunds = of('refund');
  const shipments = of('shipment');
  const takenCents = sum(captures.map(({ amountCents = 0 }) => amountCents));
  const backCents = sum(refunds.map(({ amountCents = 0 }) => amountCents));
  const currencies = new Set([...captures, ...refunds].map(({ currency }) => currency));
  const told = currencies.size === 0 || currencies.has(order.currency);
  const closed = new Set(
    ledger.filter(({ effect }) => effect !== 'refund').map((entry) => keyOf(entry)),
  );
  const opened = saga.flatMap(({ type, data }) => {
    const step = field(data, 'step');
    const isCall = type === 'StepRequested' && (step === 'capture' || step === 'ship');
    return isCall ? [`${step} ${String(field(data, 'key'))}`] : [];
  });
  const { capturedCents = 0, refundedCents = 0 } = effects ?? {};
  const common: Rules = {
    'it was charged once at most': captures.length <= 1,
    'it was sent once at most': shipments.length <= 1,
    'no more was given back than taken': backCents <= takenCents,
  };
  const shipped: Rules = {
    'it was charged, unless it costs nothing':
      captures.length === (order.totalCents > 0 ? 1 : 0) && takenCents === order.totalCents && told,
    'only what was asked for was given back': refunds.every(({ key }) =>
      own.some(({ work }) => key === keyOfRefund(work)),
    ),
    'it was sent, as its tracking number says':
      shipments.length === 1 &&
      shipments[0]?.parcels?.at(-1)?.trackingNumber === order.trackingNumber,
    'the order says what was charged': capturedCents === takenCents,
    'the order says what the provider gave back':
      own.some(({ work }) => work.state === 'stuck') ||
      backCents === sum(providerRefunds(order).map(({ amountCents }) => amountCents)),
  };
  const cancelled: Rules = {
    'all that was taken was given back, as it was taken':
      backCents === takenCents && currencies.size <= 1,
    'it was not sent': shipments.length === 0,
    'the order says what was taken': capturedCents === (told ? takenCents : 0),
    'the order says what was given back': refundedCents === (told ? backCents : 0),
    'no call is left open that could still have an effect': opened.every((key) => closed.has(key)),
  };
  return broken({
    ...common,
    ...(order.status === 'shipped' && shipped),
    ...(order.status === 'cancelled' && cancelled),
  });
}

/** Not those that a caller made elsewhere and had recorded. */
function providerRefunds({ refunds }: Order): Order['refunds'] {
  return refunds.filter(({ state, sagaId }) => state === 'refunded' && sagaId !== undefined);
}

/** Operation and key of the call that an entry closes. */
function keyOf({ operation, key }: LedgerEntry): string {
  const step = operation.includes('capture') ? 'capture' : 'ship';
  return `${step} ${key}`;
}

function aboutEnd(
  { orderId, order, effects, work, held, saga }: Whole,
  expected: SagaExpectations,
) {
  if (!work) {
    return broken({ 'an order without a saga has not started one': effects === null });
  }
  const last = saga.at(-1);
  const ends: Record<string, string> = {
    completed: 'SagaCompleted',
    compensated: 'SagaCompensated',
    stuck: 'SagaStuck',
  };
  const statuses: Record<string, boolean> = {
    completed: order.status === 'shipped',
    compensated: order.status === 'cancelled',
    stuck: order.status === 'pending' || order.status === 'paid',
  };
  const open = field(last?.data, 'open');
  const reasons = Array.isArray(open) ? open.map((step) => field(step, 'reason')) : [];
  return broken({
    'it has ended, or may be stuck':
      work.state === 'completed' ||
      work.state === 'compensated' ||
      (work.state === 'stuck' && expected.mayBeStuck?.(orderId) === true),
    'the order is where its saga is': statuses[work.state] ?? false,
    'the saga ends with its end': last?.type === ends[work.state],
    'what is stuck says at what and why':
      work.state !== 'stuck' || (reasons.length > 0 && reasons.every(Boolean)),
    'nothing is due any more': work.due_at === null && work.lease_until === null,
    'what has ended holds no goods': work.state === 'stuck' || held.length === 0,
  });
}

function keyOfRefund({ saga_id: sagaId }: WorkRow): string {
  return `${sagaId}-refund-1`;
}

/** A refund was made once or never, as its saga and the order say. */
function aboutRefunds(whole: Whole, { mayBeStuck }: SagaExpectations): string[] {
  const { orderId, events, order, ledger, refunds } = whole;
  const states: Record<string, string> = {
    completed: 'refunded',
    compensated: 'failed',
    stuck: 'requested',
  };
  return refunds.flatMap(({ work, saga }) => {
    const request = events.find(
      ({ type, data }) => type === 'RefundRequested' && field(data, 'sagaId') === work.saga_id,
    );
    const refundId = field(request?.data, 'refundId');
    const asked = order.refunds.find((known) => known.refundId === refundId);
    const made = ledger.filter(
      ({ effect, key }) => effect === 'refund' && key === keyOfRefund(work),
    );
    const keys = saga
      .filter(({ type }) => type === 'StepRequested')
      .map(({ data }) => field(data, 'key'));
    const isMade = made.length === 1 && made[0]?.amountCents === asked?.amountCents;
    return broken({
      'its order asked for it': asked !== undefined,
      'a refund has ended, or may be stuck':
        work.state in states && (work.state !== 'stuck' || mayBeStuck?.(orderId) === true),
      'the order says what became of a refund': asked?.state === states[work.state],
      'a refund that was made is in the ledger once': work.state !== 'completed' || isMade,
      'a refund that failed is not in the ledger':
        work.state !== 'compensated' || made.length === 0,
      'a refund is made once at most': made.length <= 1,
      'a refund has one key for ever': keys.every((key) => key === keyOfRefund(work)),
      'a refund at rest is not due': work.due_at === null && work.lease_until === null,
    });
  });
}

/** What the carrier accepted is what the order says has left, parcel by parcel. */
function aboutParcels({ order, ledger, effects }: Whole): string[] {
  if (effects === null) return [];
  const accepted = ledger.flatMap(({ parcels = [] }) => parcels);
  // The carrier does not say what is in a parcel that has everything.
  const plain = (parcels: typeof accepted) =>
    JSON.stringify(
      parcels.map(({ trackingNumber, items = [] }) => [
        trackingNumber,
        accepted.length > 1 &&
          items.map(({ lineId, quantity }) => `${lineId} ${quantity}`).toSorted(),
      ]),
    );
  const isShipped = order.status === 'shipped';
  return broken({
    'its parcels are those that the carrier accepted':
      !isShipped || plain(order.parcels) === plain(accepted),
  });
}

/** One key a try at most is new, and what is done is done once. */
function aboutSaga({ saga }: Pick<Whole, 'saga'>): string[] {
  const of = (type: string) => saga.filter((event) => event.type === type);
  const steps = (type: string) => of(type).map(({ data }) => String(field(data, 'step')));
  const keys = of('StepRequested').map(({ data }) => String(field(data, 'key')));
  const refused = steps('StepReopened');
  const asked = steps('StepRequested').filter((step) => !refused.includes(step));
  return broken({
    'no key is asked for twice': new Set(keys).size === keys.length,
    'a step has one key, unless an operator reopened it': new Set(asked).size === asked.length,
    'a step is done once': new Set(steps('StepDone')).size === steps('StepDone').length,
    'it turns back once': of('CompensationStarted').length <= 1,
    'it ends once': of('SagaCompleted').length + of('SagaCompensated').length <= 1,
  });
}

/** Versions are 1..n everywhere, and the outbox has a message for each event of an order. */
function aboutVersions({ events, streams, outbox }: Stored, { relay }: SagaExpectations) {
  const heads = new Map(streams.map(({ stream_id: id, version }) => [id, version]));
  const sent = new Set(outbox.map(({ aggregate_id, stream_version: v }) => `${aggregate_id} ${v}`));
  return [...historiesOf(events)].flatMap(([id, history]) => {
    const wrong = broken({
      'versions have no gap': history.every(({ version }, index) => version === index + 1),
      'the head is the last version': heads.get(id) === history.length,
      'each event is in the outbox, and none of a saga':
        history[0]?.type === 'SagaStarted'
          ? !sent.has(`${id} 1`)
          : relay === 'on' || history.every(({ version }) => sent.has(`${id} ${version}`)),
    });
    return wrong.map((what) => `${id}: ${what}`);
  });
}

type StockRow = Readonly<{ sku: string; on_hand: number; reserved: number }>;

/** An order that is shipped by hand takes nothing from the stock. Whatever is returned may be put into it. */
function aboutStock(
  stock: readonly StockRow[],
  held: readonly Reservation[],
  wholes: readonly Whole[],
  expected: SagaExpectations,
): string[] {
  const shipped = wholes
    .filter(({ order, effects }) => order.status === 'shipped' && effects !== null)
    .flatMap(({ order }) => order.items);
  const restocked = wholes.flatMap(({ order }) =>
    order.returns
      .filter(({ restock }) => restock)
      .flatMap(({ items }) => items)
      .map(({ lineId, quantity }) => ({
        sku: order.items.find((line) => line.lineId === lineId)?.sku ?? '',
        quantity,
      })),
  );
  const of = (sku: string, rows: readonly Readonly<{ sku: string; quantity: number }>[]) =>
    sum(rows.filter((row) => row.sku === sku).map(({ quantity }) => quantity));
  const rows = new Map(stock.map((row) => [row.sku, row]));
  return Object.entries(expected.stock).flatMap(([sku, initial]) => {
    const { on_hand: onHand = 0, reserved = 0 } = rows.get(sku) ?? {};
    const left = initial - of(sku, shipped) + of(sku, restocked);
    const kept = of(sku, held);
    return broken({
      [`${sku}: ${onHand} on hand is ${initial} less what was shipped, and what came back`]:
        onHand === left,
      [`${sku}: ${reserved} reserved is what sagas hold, ${kept}`]: reserved === kept,
    });
  });
}

function sum(numbers: readonly number[]): number {
  return numbers.reduce((total, number) => total + number, 0);
}

/** All that is known of an order, for the eye. */
function storyOf({ order, work, saga, ledger }: Whole): string {
  const { status, capturedCents, refundedCents } = order;
  return [
    `  order: ${JSON.stringify({ status, capturedCents, refundedCents })}, saga: ${work?.state}`,
    ...saga.map(({ type, data }) => `  ${type} ${JSON.stringify(data)}`),
    ...ledger.map(({ operation, effect, key, attempt, amountCents, currency }) => {
      const money = amountCents === undefined ? '' : ` ${amountCents} ${currency}`;
      return `  ledger: ${operation} -> ${effect}${money} (${key}, attempt ${attempt})`;
    }),
  ].join('\n');
}
