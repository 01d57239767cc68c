import { selects } from './simulated-call.ts';
import type { Selection, SimulatedCall } from './simulated-call.ts';

/** Effects that have not landed yet: of held calls, and late ones. They are lost on a crash. */
export function createWaitingEffects() {
  const waiting = new Map<SimulatedCall, () => void>();
  const timers = new Map<SimulatedCall, NodeJS.Timeout>();
  const forget = (call: SimulatedCall) => {
    clearTimeout(timers.get(call));
    timers.delete(call);
    waiting.delete(call);
  };
  return {
    /** Lands on a release, or after `lateMs`. */
    add: (call: SimulatedCall, land: () => void, lateMs?: number) => {
      const landOnce = () => {
        forget(call);
        land();
      };
      waiting.set(call, landOnce);
      if (lateMs !== undefined) timers.set(call, setTimeout(landOnce, lateMs));
    },
    /** Lands those that are chosen, in order of arrival, before it returns how many. */
    release: (chosen: Selection): number => {
      const released = [...waiting].filter(([call]) => selects(chosen, call));
      for (const [, land] of released) land();
      return released.length;
    },
    list: () => [...waiting.keys()],
    /** Gives all of them up. */
    drop: () => {
      for (const call of waiting.keys()) forget(call);
    },
  };
}
