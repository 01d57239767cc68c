import { z } from 'zod';
import type { ReservationRow } from '#src/event-store/event-store.ts';
import type { FulfilmentCommand } from '#src/orders/domain/order-commands.ts';
import type { OrderItem } from '#src/orders/domain/order-events.ts';
import type { Order } from '#src/orders/domain/order.ts';
import type { CancelOutcome, LookUpOutcome, SendOutcome, StepCall } from '#src/sagas/saga-call.ts';
import type { CallAction, SagaDefinition, SagaOrder } from '#src/sagas/saga-definition.ts';
import { actionOf } from '#src/sagas/saga.ts';
import type { Saga, SagaEvent } from '#src/sagas/saga.ts';
import {
  capture as captured,
  captureRequest,
  refund as refunded,
  refundRequest,
  shipmentRequest,
  text,
} from './providers/providers.ts';
import type { Providers, Shipment } from './providers/providers.ts';

/** A carrier's name is needed, but an operator who found a parcel is not asked for it. */
const CARRIER_UNKNOWN = 'unknown';
/** In code points: half a character cannot be stored. */
const REASON_LENGTH_MAX = 500;

/** How long to try before a step is given up. */
export type FulfilmentDeadlines = Readonly<{ captureMs: number; shipMs: number; undoMs: number }>;

/** The request of a cancel. `openKey` is the key that is to be cancelled. */
export const cancelRequest = z.object({ orderId: z.string(), openKey: z.string() });

/** Reserve, capture, ship. Compensations run in reverse order. Without providers it can only be shown. */
export function fulfilmentDefinition(
  { captureMs, shipMs, undoMs }: FulfilmentDeadlines,
  providers?: Providers,
): SagaDefinition {
  return {
    name: 'fulfilment',
    version: 1,
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
      { action: ship(shipMs), cancel: cancel('cancel_shipment', 'ship', undoMs), pivot: true },
    ],
    calls: providers ? callsTo(providers) : {},
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

/** What is left to be paid: payments may have been reported by hand. */
function dueCents({ totalCents, capturedCents, refundedCents }: Order): number {
  return Math.max(0, totalCents - (capturedCents - refundedCents));
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

function ship(deadlineMs: number): CallAction {
  return {
    kind: 'call',
    name: 'ship',
    deadlineMs,
    request: (_, { view: { orderId, items } }) => ({
      orderId,
      items: items.map(({ sku, quantity }) => ({ sku, quantity })),
    }),
    resultOf: (trackingNumber) => ({ trackingNumber, carrier: CARRIER_UNKNOWN }),
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

/** What is stored of a shipment. A request without lines gets one parcel. */
const shipped = z.object({ trackingNumber: text, carrier: text });

type ShippingOutcome = SendOutcome<Shipment> | LookUpOutcome<Shipment> | CancelOutcome<Shipment>;

/** The outcome with its only parcel in place of the shipment. */
function asParcel<Outcome extends ShippingOutcome>(outcome: Outcome) {
  if (!('result' in outcome)) return outcome;
  return { ...outcome, result: shipped.parse(outcome.result.parcels[0]) };
}

/** The calls of the saga, by action. */
function callsTo({ payments, shipping }: Providers): Readonly<Record<string, StepCall>> {
  return {
    capture: {
      send: ({ key, request }, signal) =>
        payments.capture({ key, ...captureRequest.parse(request) }, signal),
      lookUp: ({ key, request }, signal) =>
        payments.lookUpCapture({ key, ...captureRequest.parse(request) }, signal),
    },
    cancel_capture: {
      cancel: ({ request }, signal) => {
        const { openKey: key, orderId } = cancelRequest.parse(request);
        return payments.cancelCapture({ key, orderId }, signal);
      },
    },
    refund: {
      send: ({ key, request }, signal) =>
        payments.refund({ key, ...refundRequest.parse(request) }, signal),
      lookUp: ({ key, request }, signal) =>
        payments.lookUpRefund({ key, ...refundRequest.parse(request) }, signal),
    },
    ship: {
      send: async ({ key, request }, signal) =>
        asParcel(await shipping.ship({ key, ...shipmentRequest.parse(request) }, signal)),
      lookUp: async ({ key, request }, signal) => {
        const { orderId } = shipmentRequest.parse(request);
        return asParcel(await shipping.lookUpShipment({ key, orderId }, signal));
      },
    },
    cancel_shipment: {
      cancel: async ({ request }, signal) => {
        const { openKey: key, orderId } = cancelRequest.parse(request);
        return asParcel(await shipping.cancelShipment({ key, orderId }, signal));
      },
    },
  };
}

function orderCommand(event: SagaEvent, { view }: SagaOrder): FulfilmentCommand | null {
  switch (event.type) {
    case 'StepRequested':
      return event.data.step === 'ship' ? { type: 'RequestShipment' } : null;
    case 'StepDone':
      return resultCommand(event.data.step, event.data.result, view);
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
function resultCommand(step: string, result: unknown, view: Order): FulfilmentCommand | null {
  switch (step) {
    case 'capture': {
      const { paymentId, amountCents, currency } = captured.parse(result);
      const pays = amountCents > 0 || (view.totalCents === 0 && view.status === 'pending');
      if (!pays || currency !== view.currency) return null;
      return { type: 'RecordPayment', paymentId, amountCents };
    }
    case 'refund': {
      const { refundId, paymentId, amountCents, currency } = refunded.parse(result);
      if (amountCents === 0 || currency !== view.currency) return null;
      return { type: 'RecordRefund', refundId, paymentId, amountCents };
    }
    case 'ship':
      return { type: 'RecordShipment', parcels: [shipped.parse(result)] };
    default:
      return null;
  }
}

function reservations(sagaId: string, event: SagaEvent, { view }: SagaOrder): ReservationRow[] {
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
