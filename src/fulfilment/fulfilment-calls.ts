import { z } from 'zod';
import { isOutage } from '#src/database/database-errors.ts';
import type { PersonalData } from '#src/orders/personal-data.ts';
import { CallNotMade } from '#src/sagas/saga-call.ts';
import type { EffectCall, StepCall } from '#src/sagas/saga-call.ts';
import { captureRequest, refundRequest, shipmentRequest } from './providers/providers.ts';
import type { PaymentProvider, Providers, ShippingProvider } from './providers/providers.ts';

/** The request of a cancel. `openKey` is the key that is to be cancelled, `items` what was to be shipped under it. */
export const cancelRequest = z.object({
  orderId: z.string(),
  openKey: z.string(),
  items: shipmentRequest.shape.items.exactOptional(),
});

/** Reads what is kept of an order apart from its events: nothing if nothing was given, or if it was erased. */
export type ReadPersonalData = (orderId: string) => Promise<PersonalData>;

/**
 * A call needs personal data that is not there. The saga must not go on as if there had never been any: a call that
 * is repeated under its key has the same content, or is not made.
 */
export class PersonalDataMissing extends Error {
  constructor(what: string) {
    super(`the order has no ${what} any more`);
    this.name = 'PersonalDataMissing';
  }
}

/**
 * The calls of a fulfilment, by action. Address, contact and payment method are read when a call is made, because no
 * event may hold them. They cannot change between two calls under one key: the payment method and the contact are
 * given once, the address is fixed from the commit on that announces the shipment, and they are not erased while the
 * fulfilment runs.
 */
export function callsTo(
  { payments, shipping }: Providers,
  readPersonalData: ReadPersonalData,
): Readonly<Record<string, StepCall>> {
  const read = readingNow(readPersonalData);
  return {
    ...callsWithoutPersonalData({ payments, shipping }),
    capture: {
      send: async ({ key, request }, signal) => {
        const capture = captureRequest.parse(request);
        const { paymentMethod } = await read(capture.orderId);
        if (paymentMethod === undefined) throw new PersonalDataMissing('payment method');
        return payments.capture({ key, ...capture, paymentMethod }, signal);
      },
      lookUp: lookUpCapture(payments),
    },
    ship: {
      send: async ({ key, request }, signal) => {
        const shipment = shipmentRequest.parse(request);
        const { shippingAddress, contact } = await read(shipment.orderId);
        if (shippingAddress === undefined) throw new PersonalDataMissing('shipping address');
        return shipping.ship({ key, ...shipment, shippingAddress, contact }, signal);
      },
      lookUp: lookUpShipment(shipping),
    },
  };
}

/** As `callsTo`, of orders that were fulfilled before there was any personal data. */
export function callsWithoutPersonalData({
  payments,
  shipping,
}: Providers): Readonly<
  Record<'capture' | 'cancel_capture' | 'refund' | 'ship' | 'cancel_shipment', StepCall>
> {
  return {
    capture: {
      send: ({ key, request }, signal) =>
        payments.capture({ key, ...captureRequest.parse(request) }, signal),
      lookUp: lookUpCapture(payments),
    },
    cancel_capture: {
      cancel: ({ request }, signal) => {
        const { openKey: key, orderId } = cancelRequest.parse(request);
        return payments.cancelCapture({ key, orderId }, signal);
      },
    },
    refund: refundCall(payments),
    ship: {
      send: ({ key, request }, signal) =>
        shipping.ship({ key, ...shipmentRequest.parse(request) }, signal),
      lookUp: lookUpShipment(shipping),
    },
    cancel_shipment: {
      cancel: ({ request }, signal) => {
        const { openKey: key, ...shipment } = cancelRequest.parse(request);
        return shipping.cancelShipment({ key, ...shipment }, signal);
      },
    },
  };
}

/** The call that gives money back. */
export function refundCall(payments: PaymentProvider): EffectCall {
  return {
    send: ({ key, request }, signal) =>
      payments.refund({ key, ...refundRequest.parse(request) }, signal),
    lookUp: ({ key, request }, signal) =>
      payments.lookUpRefund({ key, ...refundRequest.parse(request) }, signal),
  };
}

function lookUpCapture(payments: PaymentProvider): EffectCall['lookUp'] {
  return ({ key, request }, signal) =>
    payments.lookUpCapture({ key, ...captureRequest.parse(request) }, signal);
}

function lookUpShipment(shipping: ShippingProvider): EffectCall['lookUp'] {
  return ({ key, request }, signal) =>
    shipping.lookUpShipment({ key, ...shipmentRequest.parse(request) }, signal);
}

/** An outage of the database is no attempt at a step. */
function readingNow(readPersonalData: ReadPersonalData): ReadPersonalData {
  return async (orderId) => {
    try {
      return await readPersonalData(orderId);
    } catch (error) {
      throw isOutage(error) ? new CallNotMade({ cause: error }) : error;
    }
  };
}
