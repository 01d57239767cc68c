import { createHash } from 'node:crypto';
import { z } from 'zod';
import { canHappen, faultName } from './faults.ts';
import type { FaultName } from './faults.ts';
import { operation, selection, selects } from './simulated-call.ts';
import type { SimulatedCall } from './simulated-call.ts';

const RULES_MAX = 10_000;
const MS_MAX = 600_000;

/** Which calls go wrong, and how. Without `times` the rule stays until it is deleted. */
export const faultRule = selection.extend({
  /** Of several, one is drawn for each call. */
  fault: z.union([faultName, z.array(faultName).min(1)]),
  operation: z.union([operation, z.array(operation).min(1)]).optional(),
  times: z.int().min(1).optional(),
  /** Share of the calls that it meets, drawn from `seed`. */
  probability: z.number().min(0).max(1).default(1),
  seed: z.int().default(0),
  /** How long the answer waits. */
  delayMs: z.int().min(0).max(MS_MAX).default(0),
  /** When a late effect lands; without it, on a release. */
  lateMs: z.int().min(0).max(MS_MAX).optional(),
  /** What a 429 or 503 asks for. */
  retryAfterSeconds: z.int().min(0).default(1),
});
export type FaultRule = Readonly<z.infer<typeof faultRule>>;

/** What to do to one call. */
export type ChosenFault = Readonly<{
  name: FaultName;
  delayMs: number;
  lateMs: number | undefined;
  retryAfterSeconds: number;
}>;

const NO_FAULT: ChosenFault = {
  name: 'none',
  delayMs: 0,
  lateMs: undefined,
  retryAfterSeconds: 1,
};

/**
 * The rules in force. The first that fits a call takes it. Draws depend on seed, operation and attempt
 * only, and on the key where the rule is for more than one order: a schedule is the same whatever the
 * order of concurrent calls, and one for each order is the same whatever its ids.
 */
export function createFaultRules() {
  const rules = new Set<{ rule: FaultRule; left: number }>();
  return {
    /** False once there are too many. */
    add: (rule: FaultRule): boolean => {
      if (rules.size >= RULES_MAX) return false;
      rules.add({ rule, left: rule.times ?? Infinity });
      return true;
    },
    clear: () => rules.clear(),
    list: () =>
      [...rules].map(({ rule, left }) => ({ rule, left: Number.isFinite(left) ? left : null })),
    choose: (call: SimulatedCall): ChosenFault => {
      for (const entry of rules) {
        const name = drawFault(entry.rule, call);
        if (name === undefined) continue;
        entry.left -= 1;
        if (entry.left === 0) rules.delete(entry);
        const { delayMs, lateMs, retryAfterSeconds } = entry.rule;
        return { name, delayMs, lateMs, retryAfterSeconds };
      }
      return NO_FAULT;
    },
  };
}

function drawFault(rule: FaultRule, call: SimulatedCall): FaultName | undefined {
  const { operation, ...chosen } = rule;
  if (operation !== undefined && ![operation].flat().includes(call.operation)) return undefined;
  if (!selects({ key: chosen.key, orderId: chosen.orderId }, call)) return undefined;
  const possible = [rule.fault].flat().filter((name) => canHappen(name, call.operation));
  if (draw(rule, 'whether', call) >= rule.probability) return undefined;
  return possible[Math.floor(draw(rule, 'which', call) * possible.length)];
}

/** A number from 0 up to 1, the same for the same call. */
function draw(
  { seed, orderId }: FaultRule,
  what: string,
  { operation, key, attempt }: SimulatedCall,
): number {
  const text = JSON.stringify([seed, what, operation, orderId === undefined ? key : null, attempt]);
  return createHash('sha256').update(text).digest().readUInt32BE(0) / 2 ** 32;
}
