import type { OrderView } from '#src/orders/order-view.ts';
import type { CallAction, SagaDefinition } from '#src/sagas/saga-definition.ts';
import { actionOf } from '#src/sagas/saga.ts';
import type { Saga } from '#src/sagas/saga.ts';
import {
  cancelIntent,
  captured,
  captureIntent,
  refundIntent,
  refunded,
} from './fulfilment-facts.ts';

/** What the saga of an order looks at. */
export type FulfilledOrder = Readonly<{
  view: OrderView;
  /** Why it is to be cancelled, if it is. */
  cancellation: string | null;
}>;

/** How long to try before a step is given up. */
export type FulfilmentDeadlines = Readonly<{ captureMs: number; shipMs: number; undoMs: number }>;

/** A parcel that an operator found: the carrier's name is not asked for. */
const CARRIER_UNKNOWN = 'unknown';

/** Reserve, capture, ship; undone in reverse. */
export function fulfilmentDefinition({
  captureMs,
  shipMs,
  undoMs,
}: FulfilmentDeadlines): SagaDefinition<FulfilledOrder> {
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
    interruption: ({ cancellation }) => cancellation,
  };
}

function call(name: string, deadlineMs: number): CallAction {
  return { kind: 'call', name, deadlineMs };
}

function request(action: string, saga: Saga, { view }: FulfilledOrder): unknown {
  const { orderId, currency, items } = view;
  switch (action) {
    case 'capture':
      return captureIntent.parse({ orderId, amountCents: dueCents(view), currency });
    case 'ship':
      return { orderId, items: items.map(({ sku, quantity }) => ({ sku, quantity })) };
    case 'cancel_capture':
      return cancelIntent.parse({ orderId, openKey: actionOf(saga, 'capture').key });
    case 'cancel_shipment':
      return cancelIntent.parse({ orderId, openKey: actionOf(saga, 'ship').key });
    case 'refund': // as the provider stated it: exactly what was taken is given back
      return refundIntent.parse({ orderId, ...captured.parse(actionOf(saga, 'capture').result) });
    default:
      throw new Error(`${action} is no call of a fulfilment`);
  }
}

/** What is left to be paid: payments may have been reported by hand. */
function dueCents({ totalCents, capturedCents, refundedCents }: OrderView): number {
  return Math.max(0, totalCents - (capturedCents - refundedCents));
}

/** No money is asked for, or given back, where there is none: a provider may refuse an amount of 0. */
function withoutCall(action: string, saga: Saga, { view }: FulfilledOrder): unknown {
  const { orderId, currency } = view;
  const nothing = `none-${orderId}`;
  const { request, result } = actionOf(saga, 'capture');
  switch (action) {
    case 'capture': {
      const asked = request === null ? dueCents(view) : captureIntent.parse(request).amountCents;
      return asked === 0 ? { paymentId: nothing, amountCents: 0, currency } : undefined;
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
      return captured.parse({ ...captureIntent.parse(request), paymentId: reference });
    case 'refund':
      return refunded.parse({ ...refundIntent.parse(request), refundId: reference });
    case 'ship':
      return { trackingNumber: reference, carrier: CARRIER_UNKNOWN };
    default:
      throw new Error(`${action} has no reference`);
  }
}
