import type { ReservationRow } from '#src/event-store/event-store.ts';
import { z } from 'zod';
import type { FulfilmentCommand } from '#src/orders/domain/order-commands.ts';
import type { OrderItem } from '#src/orders/domain/order-events.ts';
import type { OrderView } from '#src/orders/domain/order.ts';
import type {
  CallAction,
  SagaDefinition,
  SagaOrder,
  StepCall,
} from '#src/sagas/saga-definition.ts';
import { actionOf } from '#src/sagas/saga.ts';
import type { Saga, SagaEvent } from '#src/sagas/saga.ts';
import type { PaymentProvider, ShippingProvider } from './providers/providers.ts';

/** A carrier's name is needed, but an operator who found a parcel is not asked for it. */
const CARRIER_UNKNOWN = 'unknown';
/** In code points: half a character cannot be stored. */
const REASON_LENGTH_MAX = 500;

/** How long to try before a step is given up. */
export type FulfilmentDeadlines = Readonly<{ captureMs: number; shipMs: number; undoMs: number }>;

/** The providers that the saga calls. */
export type Providers = Readonly<{ payments: PaymentProvider; shipping: ShippingProvider }>;

const cents = z.int().min(0);
/** The requests of the calls, as the intents store them. The key is stored beside them. */
const captureRequest = z.object({ orderId: z.string(), amountCents: cents, currency: z.string() });
const refundRequest = captureRequest.extend({ paymentId: z.string() });
const shipmentRequest = z.object({
  orderId: z.string(),
  items: z.array(z.object({ sku: z.string(), quantity: z.int() })),
});
/** `openKey` is the key that is to be cancelled. */
export const cancelRequest = z.object({ orderId: z.string(), openKey: z.string() });

/** The results of the calls, as the provider stated them. */
const captured = z.object({ paymentId: z.string(), amountCents: cents, currency: z.string() });
const refunded = captured.extend({ refundId: z.string() });
const shipped = z.object({ trackingNumber: z.string(), carrier: z.string() });

/** Reserve, capture, ship. Compensations run in reverse order. */
export function fulfilmentDefinition({
  captureMs,
  shipMs,
  undoMs,
}: FulfilmentDeadlines): SagaDefinition {
  return {
    name: 'fulfilment',
    version: 1,
    steps: [
      {
        action: { kind: 'local', name: 'reserve' },
        compensation: { kind: 'local', name: 'release' },
      },
      {
        action: call('capture', captureMs),
        cancel: call('cancel_capture', undoMs),
        compensation: call('refund', undoMs),
      },
      { action: call('ship', shipMs), cancel: call('cancel_shipment', undoMs), pivot: true },
    ],
    request,
    withoutCall,
    resultOf,
    orderCommand,
    reservations,
    refusals: { short: { step: 'reserve', reason: 'out of stock' } },
  };
}

function call(name: string, deadlineMs: number): CallAction {
  return { kind: 'call', name, deadlineMs };
}

/** The calls of the saga, by action. */
export function fulfilmentCalls({
  payments,
  shipping,
}: Providers): Readonly<Record<string, StepCall>> {
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
      send: ({ key, request }, signal) =>
        shipping.ship({ key, ...shipmentRequest.parse(request) }, signal),
      lookUp: ({ key, request }, signal) => {
        const { orderId } = shipmentRequest.parse(request);
        return shipping.lookUpShipment({ key, orderId }, signal);
      },
    },
    cancel_shipment: {
      cancel: ({ request }, signal) => {
        const { openKey: key, orderId } = cancelRequest.parse(request);
        return shipping.cancelShipment({ key, orderId }, signal);
      },
    },
  };
}

function request(action: string, saga: Saga, { view }: SagaOrder): unknown {
  const { orderId, currency, items } = view;
  switch (action) {
    case 'capture':
      return captureRequest.parse({ orderId, amountCents: dueCents(view), currency });
    case 'ship':
      return { orderId, items: items.map(({ sku, quantity }) => ({ sku, quantity })) };
    case 'cancel_capture':
      return cancelRequest.parse({ orderId, openKey: actionOf(saga, 'capture').key });
    case 'cancel_shipment':
      return cancelRequest.parse({ orderId, openKey: actionOf(saga, 'ship').key });
    case 'refund': // as the provider stated it: exactly what was taken is given back
      return refundRequest.parse({ orderId, ...captured.parse(actionOf(saga, 'capture').result) });
    default:
      throw new Error(`${action} is no call of a fulfilment`);
  }
}

/** What is left to be paid: payments may have been reported by hand. */
function dueCents({ totalCents, capturedCents, refundedCents }: OrderView): number {
  return Math.max(0, totalCents - (capturedCents - refundedCents));
}

/** An amount of 0 is neither captured nor refunded by a call, because a provider may refuse it. */
function withoutCall(action: string, saga: Saga, { view }: SagaOrder): unknown {
  const { orderId, currency } = view;
  const nothing = `none-${orderId}`;
  const { request, result } = actionOf(saga, 'capture');
  switch (action) {
    case 'capture': {
      const amountCents =
        request === null ? dueCents(view) : captureRequest.parse(request).amountCents;
      return amountCents === 0 ? { paymentId: nothing, amountCents: 0, currency } : undefined;
    }
    case 'refund': {
      const taken = captured.parse(result);
      return taken.amountCents === 0 ? { ...taken, refundId: nothing } : undefined;
    }
    default:
      return undefined;
  }
}

function resultOf(action: string, reference: string, saga: Saga): unknown {
  const { request } = actionOf(saga, action);
  switch (action) {
    case 'capture':
      return captured.parse({ ...captureRequest.parse(request), paymentId: reference });
    case 'refund':
      return refunded.parse({ ...refundRequest.parse(request), refundId: reference });
    case 'ship':
      return { trackingNumber: reference, carrier: CARRIER_UNKNOWN };
    default:
      throw new Error(`${action} has no reference`);
  }
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
function resultCommand(step: string, result: unknown, view: OrderView): FulfilmentCommand | null {
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
      return { type: 'RecordShipment', ...shipped.parse(result) };
    default:
      return null;
  }
}

function reservations(sagaId: string, event: SagaEvent, { view }: SagaOrder): ReservationRow[] {
  if (event.type !== 'StepDone') return [];
  switch (event.data.step) {
    case 'reserve':
      return quantities(view.items).map(([sku, quantity]) => ({
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

/** Several lines of an order may have the same sku. */
function quantities(items: readonly OrderItem[]): [string, number][] {
  const bySku = new Map<string, number>();
  for (const { sku, quantity } of items) bySku.set(sku, (bySku.get(sku) ?? 0) + quantity);
  return [...bySku];
}
