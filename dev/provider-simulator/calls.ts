import { z } from 'zod';
import { contractVersion, operation } from './contract.ts';
import type { ContractRequest, ContractVersion } from './contract.ts';

const CALLS_KEPT = 10_000;

/** A call that arrived. `attempt` counts the calls of this operation with this key, from 1. */
export const simulatedCall = z.object({
  number: z.int(),
  /** The version of the contract. */
  contract: contractVersion,
  operation,
  key: z.string(),
  orderId: z.string(),
  attempt: z.int(),
});
export type SimulatedCall = Readonly<z.infer<typeof simulatedCall>>;

/** Selects calls by operation, prefix of the key and order. A field that is missing selects all. */
export const selection = z.strictObject({
  operation: operation.optional(),
  key: z.string().optional(),
  orderId: z.string().optional(),
});
export type Selection = Readonly<z.infer<typeof selection>>;

export function selects(
  chosen: Selection,
  call: Pick<SimulatedCall, 'operation' | 'key' | 'orderId'>,
): boolean {
  return (
    (chosen.operation === undefined || chosen.operation === call.operation) &&
    (chosen.key === undefined || call.key.startsWith(chosen.key)) &&
    (chosen.orderId === undefined || chosen.orderId === call.orderId)
  );
}

/** The last 10,000 calls, in order of arrival, and a way to wait for the next one. */
export function createCallLog() {
  const calls: (SimulatedCall & Readonly<{ fault: string }>)[] = [];
  const attempts = new Map<string, number>();
  const orderIds = new Map<string, string>();
  const waiting = new Set<() => void>();
  let arrived = 0;

  const find = (chosen: Selection, after: number) =>
    calls.filter((call) => call.number > after && selects(chosen, call));

  return {
    /** Numbers a call. A call without an order belongs to the order of earlier calls with its key. */
    number: (contract: ContractVersion, request: ContractRequest): SimulatedCall => {
      const { operation, key } = request;
      const ofOrder = 'body' in request ? request.body.orderId : undefined;
      const orderId = ofOrder ?? orderIds.get(key) ?? '';
      orderIds.set(key, orderId);
      const name = `${operation} ${key}`;
      const attempt = (attempts.get(name) ?? 0) + 1;
      attempts.set(name, attempt);
      arrived += 1;
      return { number: arrived, contract, operation, key, orderId, attempt };
    },
    add: (call: SimulatedCall, fault: string) => {
      calls.push({ ...call, fault });
      if (calls.length > CALLS_KEPT) calls.shift();
      for (const look of waiting) look();
    },
    /** The selected calls with a number above `after`. Waits up to `waitMs` if there is none. */
    next: async (chosen: Selection, after: number, waitMs: number) => {
      const { promise, resolve } = Promise.withResolvers<void>();
      const look = () => {
        if (find(chosen, after).length > 0) resolve();
      };
      const timer = setTimeout(resolve, waitMs);
      waiting.add(look);
      look();
      await promise;
      clearTimeout(timer);
      waiting.delete(look);
      return find(chosen, after);
    },
  };
}

/** Effects that have not happened yet: those of held calls and late ones. A crash loses them. */
export function createWaitingEffects() {
  const waiting = new Map<SimulatedCall, () => void>();
  const timers = new Map<SimulatedCall, NodeJS.Timeout>();
  const forget = (call: SimulatedCall) => {
    clearTimeout(timers.get(call));
    timers.delete(call);
    waiting.delete(call);
  };
  return {
    /** The effect happens on a release, or after `lateMs`. */
    add: (call: SimulatedCall, effect: () => void, lateMs?: number) => {
      const happen = () => {
        forget(call);
        effect();
      };
      waiting.set(call, happen);
      if (lateMs !== undefined) timers.set(call, setTimeout(happen, lateMs));
    },
    /** Lets the selected effects happen, in order of arrival, and returns their number. */
    release: (chosen: Selection): number => {
      const released = [...waiting].filter(([call]) => selects(chosen, call));
      for (const [, happen] of released) happen();
      return released.length;
    },
    list: () => [...waiting.keys()],
    /** Drops all of them. */
    drop: () => {
      for (const call of waiting.keys()) forget(call);
    },
  };
}
