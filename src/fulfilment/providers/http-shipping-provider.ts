import { z } from 'zod';
import { answerText, callOutcome, cancelOutcome, lookUpOutcome } from './provider-answers.ts';
import { createProviderHttp } from './provider-http.ts';
import type { ProviderConnection } from './provider-http.ts';
import type { ShippingProvider } from './shipping-provider.ts';

const shipment = z.object({ trackingNumber: answerText, carrier: answerText });

/** Shipping over the HTTP contract in docs/providers.md. */
export function createHttpShippingProvider(connection: ProviderConnection): ShippingProvider {
  const send = createProviderHttp(connection);
  return {
    ship: async ({ key, ...body }, signal) => {
      const answer = await send({ method: 'POST', path: '/shipping/shipments', key, body, signal });
      return callOutcome(answer, { key, result: shipment });
    },
    lookUpShipment: async ({ key }, signal) => {
      const path = `/shipping/shipments/${encodeURIComponent(key)}`;
      const answer = await send({ method: 'GET', path, key, signal });
      return lookUpOutcome(answer, { key, result: shipment });
    },
    cancelShipment: async ({ key, orderId }, signal) => {
      const path = `/shipping/shipments/${encodeURIComponent(key)}/cancel`;
      const answer = await send({ method: 'POST', path, key, body: { orderId }, signal });
      return cancelOutcome(answer, { key, result: shipment });
    },
  };
}
