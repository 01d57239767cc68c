import type { Ledger, LedgerEntry } from './ledger.ts';
import type { Operation, SimulatedCall } from './simulated-call.ts';

/** An answer of the contract in docs/providers.md. */
export type ContractAnswer = LedgerEntry['answer'];

/** What to do under a fresh key, and what to answer then and ever after. */
export type Decision = Pick<
  LedgerEntry,
  'effect' | 'amountCents' | 'currency' | 'paymentId' | 'answer'
>;

/**
 * What has been settled, by key: the heart of the promise that a key has one effect. Nothing in it
 * awaits, so calls that race take turns; the ledger it starts from outlives the process.
 */
export function createSettledKeys(ledger: Ledger) {
  const settled = new Map<string, LedgerEntry>();
  const captures = new Map<string, LedgerEntry>();
  const refundedCents = new Map<string, number>();

  const index = (entry: LedgerEntry) => {
    settled.set(slot(entry), entry);
    const { effect, paymentId = '', amountCents = 0 } = entry;
    if (effect === 'capture') captures.set(paymentId, entry);
    if (effect === 'refund')
      refundedCents.set(paymentId, (refundedCents.get(paymentId) ?? 0) + amountCents);
  };
  for (const entry of ledger.entries) index(entry);

  const find = (call: SimulatedCall) => settled.get(slot(call));

  const settle = (call: SimulatedCall, request: string, decision: Decision): ContractAnswer => {
    const { operation, key, orderId, attempt } = call;
    const entry = ledger.append({ operation, key, orderId, attempt, request, ...decision });
    index(entry);
    return entry.answer;
  };

  return {
    find,
    settle,
    /** Decides under a fresh key only; otherwise the answer of the first time. */
    once: (call: SimulatedCall, body: unknown, decide: () => Decision): ContractAnswer => {
      const request = JSON.stringify(body);
      const known = find(call);
      if (!known) return settle(call, request, decide());
      if (known.effect === 'tombstone' || known.request === request) return known.answer;
      return { status: 422, body: { code: 'key_reused', key: call.key } };
    },
    findCapture: (paymentId: string) => captures.get(paymentId),
    /** What a capture still holds. */
    remainingCents: (paymentId: string) =>
      (captures.get(paymentId)?.amountCents ?? 0) - (refundedCents.get(paymentId) ?? 0),
  };
}

/** Keys of captures, refunds and shipments do not meet. */
function slot({ operation, key }: { operation: Operation; key: string }): string {
  return `${operation.replace(/^(look_up|cancel)_/, '').replace('shipment', 'ship')} ${key}`;
}
