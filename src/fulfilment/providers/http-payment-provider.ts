import { z } from 'zod';
import type {
  Capture,
  CaptureRequest,
  PaymentProvider,
  RefundRequest,
} from './payment-provider.ts';
import {
  answerCents,
  answerCurrency,
  answerText,
  callOutcome,
  cancelOutcome,
  lookUpOutcome,
} from './provider-answers.ts';
import { createProviderHttp } from './provider-http.ts';
import type { ProviderConnection } from './provider-http.ts';

const capture = z.object({
  paymentId: answerText,
  amountCents: answerCents,
  currency: answerCurrency,
});
const refund = capture.extend({ refundId: answerText });

/** Payments over the HTTP contract in docs/providers.md. */
export function createHttpPaymentProvider(connection: ProviderConnection): PaymentProvider {
  const send = createProviderHttp(connection);
  return {
    capture: async (request, signal) => {
      const { key, ...body } = request;
      const answer = await send({ method: 'POST', path: '/payments/captures', key, body, signal });
      return callOutcome(answer, expectedCapture(request));
    },
    lookUpCapture: async (request, signal) => {
      const { key } = request;
      const path = `/payments/captures/${encodeURIComponent(key)}`;
      const answer = await send({ method: 'GET', path, key, signal });
      return lookUpOutcome(answer, expectedCapture(request));
    },
    cancelCapture: async ({ key, orderId }, signal) => {
      const path = `/payments/captures/${encodeURIComponent(key)}/cancel`;
      const answer = await send({ method: 'POST', path, key, body: { orderId }, signal });
      return cancelOutcome(answer, { key, result: capture });
    },
    refund: async (request, signal) => {
      const { key, ...body } = request;
      const answer = await send({ method: 'POST', path: '/payments/refunds', key, body, signal });
      return callOutcome(answer, expectedRefund(request));
    },
    lookUpRefund: async (request, signal) => {
      const { key } = request;
      const path = `/payments/refunds/${encodeURIComponent(key)}`;
      const answer = await send({ method: 'GET', path, key, signal });
      return lookUpOutcome(answer, expectedRefund(request));
    },
  };
}

function expectedCapture(request: CaptureRequest) {
  return {
    key: request.key,
    result: capture,
    difference: (stated: Capture) => otherMoney(stated, request),
  };
}

function expectedRefund(request: RefundRequest) {
  return {
    key: request.key,
    result: refund,
    difference: (stated: z.infer<typeof refund>) =>
      stated.paymentId === request.paymentId
        ? otherMoney(stated, request)
        : 'the provider states another payment than was asked for',
  };
}

type Money = Readonly<{ amountCents: number; currency: string }>;

function otherMoney(stated: Money, asked: Money): string | undefined {
  if (stated.amountCents === asked.amountCents && stated.currency === asked.currency)
    return undefined;
  const text = ({ amountCents, currency }: Money) => `${amountCents} ${currency}`;
  return `the provider states ${text(stated)} where ${text(asked)} was asked for`;
}
