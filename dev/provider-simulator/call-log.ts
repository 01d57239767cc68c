import { selects } from './simulated-call.ts';
import type { Operation, Selection, SimulatedCall } from './simulated-call.ts';

const CALLS_KEPT = 10_000;

/** A call and what was done to it. */
export type LoggedCall = SimulatedCall & Readonly<{ fault: string }>;

/** The last calls, in order of arrival, and a way to wait for the next one. */
export function createCallLog() {
  const calls: LoggedCall[] = [];
  const attempts = new Map<string, number>();
  const orderIds = new Map<string, string>();
  const watchers = new Set<() => void>();
  let arrived = 0;

  const find = (chosen: Selection, after: number) =>
    calls.filter((call) => call.number > after && selects(chosen, call));

  return {
    /**
     * Numbers a call, and counts how often this operation was asked for with this key. A call
     * without an order is for that of the earlier calls with its key.
     */
    number: (operation: Operation, key: string, ofOrder: string | undefined): SimulatedCall => {
      const orderId = ofOrder ?? orderIds.get(key) ?? '';
      orderIds.set(key, orderId);
      const name = `${operation} ${key}`;
      const attempt = (attempts.get(name) ?? 0) + 1;
      attempts.set(name, attempt);
      arrived += 1;
      return { number: arrived, operation, key, orderId, attempt };
    },
    add: (call: LoggedCall) => {
      calls.push(call);
      if (calls.length > CALLS_KEPT) calls.shift();
      for (const tell of watchers) tell();
    },
    /** The chosen calls past a number; if there is none yet, waits for one, or until time is up. */
    next: async (chosen: Selection, after: number, waitMs: number): Promise<LoggedCall[]> => {
      const found = find(chosen, after);
      if (found.length > 0 || waitMs === 0) return found;
      const { promise, resolve } = Promise.withResolvers<LoggedCall[]>();
      const look = () => {
        const now = find(chosen, after);
        if (now.length > 0) resolve(now);
      };
      const timer = setTimeout(() => resolve([]), waitMs);
      watchers.add(look);
      try {
        return await promise;
      } finally {
        clearTimeout(timer);
        watchers.delete(look);
      }
    },
  };
}
