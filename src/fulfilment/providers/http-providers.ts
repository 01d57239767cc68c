import { z } from 'zod';
import { createProviderClient } from './provider-client.ts';
import type { ProviderConnection } from './provider-client.ts';
import {
  callOutcome,
  cancelOutcome,
  centsInResponse,
  currencyInResponse,
  lookUpOutcome,
  textInResponse,
} from './provider-responses.ts';
import type {
  Capture,
  CaptureRequest,
  PaymentProvider,
  RefundRequest,
  ShippingProvider,
} from './providers.ts';

const capture = z.object({
  paymentId: textInResponse,
  amountCents: centsInResponse,
  currency: currencyInResponse,
});
const refund = capture.extend({ refundId: textInResponse });
const shipment = z.object({ trackingNumber: textInResponse, carrier: textInResponse });

/** Payments over the HTTP contract in docs/providers.md. */
export function createHttpPaymentProvider(connection: ProviderConnection): PaymentProvider {
  const send = createProviderClient(connection);
  return {
    capture: async (request, signal) => {
      const { key, ...body } = request;
      const response = await send({
        method: 'POST',
        path: '/payments/captures',
        key,
        body,
        signal,
      });
      return callOutcome(response, expectedCapture(request));
    },
    lookUpCapture: async (request, signal) => {
      const { key } = request;
      const path = `/payments/captures/${encodeURIComponent(key)}`;
      const response = await send({ method: 'GET', path, key, signal });
      return lookUpOutcome(response, expectedCapture(request));
    },
    cancelCapture: async ({ key, orderId }, signal) => {
      const path = `/payments/captures/${encodeURIComponent(key)}/cancel`;
      const response = await send({ method: 'POST', path, key, body: { orderId }, signal });
      return cancelOutcome(response, { key, result: capture });
    },
    refund: async (request, signal) => {
      const { key, ...body } = request;
      const response = await send({ method: 'POST', path: '/payments/refunds', key, body, signal });
      return callOutcome(response, expectedRefund(request));
    },
    lookUpRefund: async (request, signal) => {
      const { key } = request;
      const path = `/payments/refunds/${encodeURIComponent(key)}`;
      const response = await send({ method: 'GET', path, key, signal });
      return lookUpOutcome(response, expectedRefund(request));
    },
  };
}

/** Shipping over the HTTP contract in docs/providers.md. */
export function createHttpShippingProvider(connection: ProviderConnection): ShippingProvider {
  const send = createProviderClient(connection);
  return {
    ship: async ({ key, ...body }, signal) => {
      const response = await send({
        method: 'POST',
        path: '/shipping/shipments',
        key,
        body,
        signal,
      });
      return callOutcome(response, { key, result: shipment });
    },
    lookUpShipment: async ({ key }, signal) => {
      const path = `/shipping/shipments/${encodeURIComponent(key)}`;
      const response = await send({ method: 'GET', path, key, signal });
      return lookUpOutcome(response, { key, result: shipment });
    },
    cancelShipment: async ({ key, orderId }, signal) => {
      const path = `/shipping/shipments/${encodeURIComponent(key)}/cancel`;
      const response = await send({ method: 'POST', path, key, body: { orderId }, signal });
      return cancelOutcome(response, { key, result: shipment });
    },
  };
}

function expectedCapture(request: CaptureRequest) {
  return {
    key: request.key,
    result: capture,
    difference: (stated: Capture) => moneyDifference(stated, request),
  };
}

function expectedRefund(request: RefundRequest) {
  return {
    key: request.key,
    result: refund,
    difference: (stated: z.infer<typeof refund>) =>
      stated.paymentId === request.paymentId
        ? moneyDifference(stated, request)
        : 'the provider states another payment than was asked for',
  };
}

type Money = Readonly<{ amountCents: number; currency: string }>;

function moneyDifference(stated: Money, asked: Money): string | undefined {
  if (stated.amountCents === asked.amountCents && stated.currency === asked.currency)
    return undefined;
  const text = ({ amountCents, currency }: Money) => `${amountCents} ${currency}`;
  return `the provider states ${text(stated)} where ${text(asked)} was asked for`;
}
