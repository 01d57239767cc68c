import type { StepCall } from '#src/sagas/saga-call.ts';
import { cancelIntent, captureIntent, refundIntent, shipmentIntent } from './fulfilment-facts.ts';
import type { PaymentProvider } from './providers/payment-provider.ts';
import type { ShippingProvider } from './providers/shipping-provider.ts';

/** Whom the saga calls. */
export type Providers = Readonly<{ payments: PaymentProvider; shipping: ShippingProvider }>;

/** The calls of the saga, by action. */
export function fulfilmentCalls({
  payments,
  shipping,
}: Providers): Readonly<Record<string, StepCall>> {
  return {
    capture: {
      send: ({ key, request }, signal) =>
        payments.capture({ key, ...captureIntent.parse(request) }, signal),
      lookUp: ({ key, request }, signal) =>
        payments.lookUpCapture({ key, ...captureIntent.parse(request) }, signal),
    },
    cancel_capture: {
      cancel: ({ request }, signal) => {
        const { openKey: key, orderId } = cancelIntent.parse(request);
        return payments.cancelCapture({ key, orderId }, signal);
      },
    },
    refund: {
      send: ({ key, request }, signal) =>
        payments.refund({ key, ...refundIntent.parse(request) }, signal),
      lookUp: ({ key, request }, signal) =>
        payments.lookUpRefund({ key, ...refundIntent.parse(request) }, signal),
    },
    ship: {
      send: ({ key, request }, signal) =>
        shipping.ship({ key, ...shipmentIntent.parse(request) }, signal),
      lookUp: ({ key, request }, signal) => {
        const { orderId } = shipmentIntent.parse(request);
        return shipping.lookUpShipment({ key, orderId }, signal);
      },
    },
    cancel_shipment: {
      cancel: ({ request }, signal) => {
        const { openKey: key, orderId } = cancelIntent.parse(request);
        return shipping.cancelShipment({ key, orderId }, signal);
      },
    },
  };
}
