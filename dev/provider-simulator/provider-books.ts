import { randomUUID } from 'node:crypto';
import type { ContractRequest } from './contract-requests.ts';
import type { Ledger } from './ledger.ts';
import { createSettledKeys } from './settled-keys.ts';
import type { ContractAnswer, Decision } from './settled-keys.ts';
import type { SimulatedCall } from './simulated-call.ts';

type Acting = Extract<ContractRequest, { operation: 'capture' | 'refund' | 'ship' }>;
type Money = Readonly<{ amountCents: number; currency: string }>;

const REFUSALS = {
  capture: { status: 402, code: 'card_declined' },
  refund: { status: 422, code: 'refund_refused' },
  ship: { status: 422, code: 'carrier_refused' },
} as const;

/** How a provider may deal with a fresh key other than by doing what is asked. */
export type Twist = Readonly<{ refuse?: boolean; alter?: (asked: Money) => Money }>;

/** Answers as both providers would, and does what it says. */
export type ProviderBooks = Readonly<{
  perform(call: SimulatedCall, request: ContractRequest, twist?: Twist): ContractAnswer;
}>;

/** Opens the books on what the ledger already holds. */
export function createProviderBooks(ledger: Ledger): ProviderBooks {
  const keys = createSettledKeys(ledger);

  const cancel = (call: SimulatedCall): ContractAnswer => {
    const known = keys.find(call);
    if (known?.effect === 'capture' || known?.effect === 'shipment') {
      const body = { outcome: 'already_done', key: call.key, result: known.answer.body };
      return { status: 200, body };
    }
    if (!known) {
      const answer = statement(409, 'refused', 'key_cancelled', call.key);
      keys.settle(call, '', { effect: 'tombstone', answer });
    }
    return { status: 200, body: { outcome: 'cancelled', key: call.key } };
  };

  const lookUp = (call: SimulatedCall): ContractAnswer => {
    const known = keys.find(call);
    return known && known.effect !== 'refusal' && known.effect !== 'tombstone'
      ? { status: 200, body: known.answer.body }
      : statement(404, 'absent', 'not_found', call.key);
  };

  const checkRefund = (paymentId: string, asked: Money): string | undefined => {
    const capture = keys.findCapture(paymentId);
    if (!capture) return 'payment_not_found';
    if (asked.currency !== capture.currency) return 'refund_in_other_currency';
    return asked.amountCents > keys.remainingCents(paymentId)
      ? 'refund_exceeds_capture'
      : undefined;
  };

  const decide = (call: SimulatedCall, request: Acting, { refuse, alter }: Twist): Decision => {
    const { operation, body } = request;
    if (refuse) return refusal(REFUSALS[operation].status, REFUSALS[operation].code, call.key);
    if (operation === 'ship') return ship(call);
    const asked = { amountCents: body.amountCents, currency: body.currency };
    const money = alter ? alter(asked) : asked;
    if (operation === 'capture') return capture(call, money);
    const objection = checkRefund(body.paymentId, asked);
    if (objection !== undefined) return refusal(422, objection, call.key);
    return refund(call, body.paymentId, money);
  };

  return {
    perform: (call, request, twist = {}) => {
      switch (request.operation) {
        case 'capture':
        case 'refund':
        case 'ship':
          return keys.once(call, request.body, () => decide(call, request, twist));
        case 'cancel_capture':
        case 'cancel_shipment':
          return cancel(call);
        case 'look_up_capture':
        case 'look_up_refund':
        case 'look_up_shipment':
          return lookUp(call);
      }
    },
  };
}

function capture(call: SimulatedCall, money: Money): Decision {
  const paymentId = `pay_${randomUUID()}`;
  return { effect: 'capture', paymentId, ...money, answer: created(call, { paymentId, ...money }) };
}

function refund(call: SimulatedCall, paymentId: string, money: Money): Decision {
  const answer = created(call, { refundId: `ref_${randomUUID()}`, paymentId, ...money });
  return { effect: 'refund', paymentId, ...money, answer };
}

function ship(call: SimulatedCall): Decision {
  const trackingNumber = `SIM${randomUUID().replaceAll('-', '').slice(0, 16).toUpperCase()}`;
  const answer = created(call, { trackingNumber, carrier: 'Simulated Post' });
  return { effect: 'shipment', answer };
}

function refusal(status: number, code: string, key: string): Decision {
  return { effect: 'refusal', answer: statement(status, 'refused', code, key) };
}

function created({ key, orderId }: SimulatedCall, result: Readonly<Record<string, unknown>>) {
  return { status: 201, body: { key, orderId, ...result } };
}

function statement(status: number, outcome: string, code: string, key: string): ContractAnswer {
  return { status, body: { outcome, code, key } };
}
