import type { ReservationRow } from '#src/event-store/event-store.ts';
import type { FulfilmentCommand } from '#src/orders/domain/order-commands.ts';
import type { OrderItem } from '#src/orders/domain/order-events.ts';
import { dueCents } from '#src/orders/domain/order.ts';
import type { Order } from '#src/orders/domain/order.ts';
import type { StepCall } from '#src/sagas/saga-call.ts';
import type { CallAction, SagaDefinition, SagaOrder } from '#src/sagas/saga-definition.ts';
import { actionOf } from '#src/sagas/saga.ts';
import type { Saga, SagaEvent } from '#src/sagas/saga.ts';
import { callsTo, callsWithoutPersonalData, cancelRequest } from './fulfilment-calls.ts';
import type { ReadPersonalData } from './fulfilment-calls.ts';
import {
  capture as captured,
  captureRequest,
  refund as refunded,
  refundRequest,
  shipment as shipped,
  shipmentRequest,
} from './providers/providers.ts';
import type { Providers, ShipmentItem } from './providers/providers.ts';

/** A carrier's name is needed, but an operator who found a parcel is not asked for it. */
const CARRIER_UNKNOWN = 'unknown';
/** The name of its definitions, whatever their version. */
export const FULFILMENT = 'fulfilment';
/** In code points: half a character cannot be stored. */
const REASON_LENGTH_MAX = 500;

/** How long to try before a step is given up. */
export type FulfilmentDeadlines = Readonly<{ captureMs: number; shipMs: number; undoMs: number }>;

/** What a fulfilment calls, and what the calls need beside what the saga has recorded. */
export type Outside = Readonly<{ providers: Providers; readPersonalData: ReadPersonalData }>;

/** Reserve, capture, ship. Compensations run in reverse order. Without `outside` it can only be shown. */
export function fulfilmentDefinition(
  deadlines: FulfilmentDeadlines,
  outside?: Outside,
): SagaDefinition {
  return defineFulfilment(deadlines, {
    version: 2,
    shipItem: ({ lineId, sku, name, quantity }) => ({
      lineId,
      sku,
      ...(name !== undefined && { name }),
      quantity,
    }),
    calls: outside ? callsTo(outside.providers, outside.readPersonalData) : {},
  });
}

/**
 * Version 1, for fulfilments that an earlier release has started: it ships without lines, so in one parcel, and passes
 * no personal data on.
 */
export function fulfilmentDefinition1(
  deadlines: FulfilmentDeadlines,
  outside?: Outside,
): SagaDefinition {
  return defineFulfilment(deadlines, {
    version: 1,
    shipItem: ({ sku, quantity }) => ({ sku, quantity }),
    calls: outside ? callsWithoutPersonalData(outside.providers) : {},
  });
}

/** What its versions differ in. */
type FulfilmentVersion = Readonly<{
  version: number;
  /** A line of the order, as the intent to ship it records it. */
  shipItem(item: OrderItem): ShipmentItem;
  calls: Readonly<Record<string, StepCall>>;
}>;

function defineFulfilment(
  { captureMs, shipMs, undoMs }: FulfilmentDeadlines,
  { version, shipItem, calls }: FulfilmentVersion,
): SagaDefinition {
  return {
    name: FULFILMENT,
    version,
    steps: [
      {
        action: {
          kind: 'local',
          name: 'reserve',
          refusal: { verdict: 'short', reason: 'out of stock' },
        },
        compensation: { kind: 'local', name: 'release' },
      },
      {
        action: capture(captureMs),
        cancel: cancel('cancel_capture', 'capture', undoMs),
        compensation: refund(undoMs),
      },
      { action: ship(shipMs, shipItem), cancel: cancelShipment(undoMs), pivot: true },
    ],
    calls,
    orderCommand,
    reservations,
  };
}

function capture(deadlineMs: number): CallAction {
  return {
    kind: 'call',
    name: 'capture',
    deadlineMs,
    request: (_, { view }) => {
      const { orderId, currency } = view;
      return captureRequest.parse({ orderId, amountCents: dueCents(view), currency });
    },
    withoutCall: (saga, { view }) => {
      const { request } = actionOf(saga, 'capture');
      const amountCents =
        request === null ? dueCents(view) : captureRequest.parse(request).amountCents;
      if (amountCents > 0) return undefined;
      return { paymentId: noneOf(view), amountCents: 0, currency: view.currency };
    },
    resultOf: (paymentId, saga) =>
      captured.parse({ ...captureRequest.parse(actionOf(saga, 'capture').request), paymentId }),
  };
}

/** The reference of an amount of 0, which is not sent to a provider, because it may refuse it. */
function noneOf({ orderId }: Order): string {
  return `none-${orderId}`;
}

/** The money that is given back: exactly what the provider stated that it took. */
function taken(saga: Saga) {
  return captured.parse(actionOf(saga, 'capture').result);
}

function refund(deadlineMs: number): CallAction {
  return {
    kind: 'call',
    name: 'refund',
    deadlineMs,
    request: (saga, { view }) => refundRequest.parse({ orderId: view.orderId, ...taken(saga) }),
    withoutCall: (saga, { view }) =>
      taken(saga).amountCents === 0 ? { ...taken(saga), refundId: noneOf(view) } : undefined,
    resultOf: (refundId, saga) =>
      refunded.parse({ ...refundRequest.parse(actionOf(saga, 'refund').request), refundId }),
  };
}

function ship(deadlineMs: number, shipItem: FulfilmentVersion['shipItem']): CallAction {
  return {
    kind: 'call',
    name: 'ship',
    deadlineMs,
    request: (_, { view: { orderId, items } }) => ({ orderId, items: items.map(shipItem) }),
    resultOf: (trackingNumber) => ({ parcels: [{ trackingNumber, carrier: CARRIER_UNKNOWN }] }),
  };
}

function cancel(name: string, cancelled: string, deadlineMs: number): CallAction {
  return {
    kind: 'call',
    name,
    deadlineMs,
    request: (saga, { view }) =>
      cancelRequest.parse({ orderId: view.orderId, openKey: actionOf(saga, cancelled).key }),
  };
}

/** It carries the lines, because a shipment that has left all the same is judged by them. */
function cancelShipment(deadlineMs: number): CallAction {
  const plain = cancel('cancel_shipment', 'ship', deadlineMs);
  return {
    ...plain,
    request: (saga, order) => {
      const { items } = shipmentRequest.parse(actionOf(saga, 'ship').request);
      return cancelRequest.parse({ ...cancelRequest.parse(plain.request(saga, order)), items });
    },
  };
}

function orderCommand(event: SagaEvent, order: SagaOrder, saga: Saga): FulfilmentCommand | null {
  switch (event.type) {
    case 'StepRequested':
      if (event.data.step !== 'ship') return null;
      return { type: 'RequestShipment', capturedPaymentId: taken(saga).paymentId };
    case 'StepDone':
      return resultCommand(event.data.step, event.data.result, order);
    case 'SagaCompensated':
      return {
        type: 'FinishCancellation',
        reason: Array.from(event.data.reason).slice(0, REASON_LENGTH_MAX).join(''),
      };
    case 'SagaStarted':
    case 'StepAttempted':
    case 'StepRefused':
    case 'StepCancelled':
    case 'StepGivenUp':
    case 'CompensationStarted':
    case 'SagaCompleted':
    case 'SagaStuck':
    case 'RetryRequested':
    case 'StepResolved':
    case 'StepReopened':
      return null;
  }
}

/**
 * Only the saga's events show money in another currency than the order's, because the order's amounts are in
 * its own currency. An amount of 0 is no payment and no refund, unless it pays an order that costs nothing.
 */
function resultCommand(
  step: string,
  result: unknown,
  { sagaId, view }: SagaOrder,
): FulfilmentCommand | null {
  switch (step) {
    case 'capture': {
      const { paymentId, amountCents, currency } = captured.parse(result);
      const pays = amountCents > 0 || (view.totalCents === 0 && view.status === 'pending');
      if (!pays || currency !== view.currency) return null;
      return { type: 'RecordPayment', paymentId, amountCents, sagaId };
    }
    case 'refund': {
      const { refundId, paymentId, amountCents, currency } = refunded.parse(result);
      if (amountCents === 0 || currency !== view.currency) return null;
      return { type: 'RecordRefund', refundId, paymentId, amountCents };
    }
    case 'ship':
      return { type: 'RecordShipment', ...shipped.parse(result) };
    default:
      return null;
  }
}

function reservations(event: SagaEvent, { sagaId, view }: SagaOrder): ReservationRow[] {
  if (event.type !== 'StepDone') return [];
  switch (event.data.step) {
    case 'reserve':
      return [...quantities(view.items)].map(([sku, quantity]) => ({
        op: 'reserve',
        reservation_id: sagaId,
        sku,
        quantity,
      }));
    case 'release':
      return [{ op: 'release', reservation_id: sagaId }];
    case 'ship':
      return [{ op: 'consume', reservation_id: sagaId }];
    default:
      return [];
  }
}

/** Quantities by sku: several lines of an order may have the same one. */
function quantities(items: readonly OrderItem[]): ReadonlyMap<string, number> {
  const bySku = new Map<string, number>();
  for (const { sku, quantity } of items) bySku.set(sku, (bySku.get(sku) ?? 0) + quantity);
  return bySku;
}
