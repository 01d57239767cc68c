import { z } from 'zod';
import { simulatedCall } from './calls.ts';
import type { Selection, SimulatedCall } from './calls.ts';
import type { faultRule } from './faults.ts';
import { ledgerEntry } from './provider-books.ts';
import type { LedgerEntry } from './provider-books.ts';

const WAIT_MS_MAX = 120_000;

const ledgerResponse = z.object({ entries: z.array(ledgerEntry) });
const callsResponse = z.object({ calls: z.array(simulatedCall) });
const releaseResponse = z.object({ released: z.int() });

/** A rule as it is sent. A field with a default may be missing. */
export type FaultRuleInput = z.input<typeof faultRule>;

/** Controls a running simulator and reads what really happened. Every method throws if it fails. */
export type SimulatorClient = Readonly<{
  addFault(rule: FaultRuleInput): Promise<void>;
  clearFaults(): Promise<void>;
  /** Lets held calls go on and late effects happen. Returns their number when they have happened. */
  release(chosen?: Selection): Promise<number>;
  ledger(chosen?: Selection): Promise<readonly LedgerEntry[]>;
  /** The calls so far. */
  calls(chosen?: Selection): Promise<readonly SimulatedCall[]>;
  /** Waits for the first selected call with a number above `after`. */
  nextCall(chosen?: Selection, after?: number): Promise<SimulatedCall>;
}>;

export function createSimulatorClient(url: string): SimulatorClient {
  const ask = async (method: string, path: string, body?: unknown): Promise<unknown> => {
    const response = await fetch(url + path, {
      method,
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
    const text = await response.text();
    if (!response.ok) throw new Error(`${method} ${path} returned ${response.status}: ${text}`);
    return JSON.parse(text);
  };
  return {
    addFault: async (rule) => void (await ask('POST', '/faults', rule)),
    clearFaults: async () => void (await ask('DELETE', '/faults')),
    release: async (chosen = {}) =>
      releaseResponse.parse(await ask('POST', '/faults/release', chosen)).released,
    ledger: async (chosen = {}) =>
      ledgerResponse.parse(await ask('GET', `/ledger?${search(chosen)}`)).entries,
    calls: async (chosen = {}) =>
      callsResponse.parse(await ask('GET', `/calls?${search(chosen)}`)).calls,
    nextCall: async (chosen = {}, after = 0) => {
      const found = await ask('GET', `/calls?${search(chosen, { after, waitMs: WAIT_MS_MAX })}`);
      const [call] = callsResponse.parse(found).calls;
      if (!call) throw new Error(`no call ${JSON.stringify(chosen)} in ${WAIT_MS_MAX} ms`);
      return call;
    },
  };
}

function search(chosen: Selection, more: Readonly<Record<string, number>> = {}): string {
  const parameters = new URLSearchParams();
  for (const [name, value] of Object.entries({ ...chosen, ...more }))
    if (value !== undefined) parameters.set(name, value);
  return parameters.toString();
}
