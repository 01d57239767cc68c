import { createHash } from 'node:crypto';
import { z } from 'zod';
import { selection, selects } from './calls.ts';
import type { SimulatedCall } from './calls.ts';
import { operation } from './contract.ts';
import type { ContractVersion, Operation } from './contract.ts';

const RULES_MAX = 10_000;
const MS_MAX = 600_000;

/**
 * When the effect happens, and what the caller gets. The effects `held` and `late` wait for a release; `held`
 * keeps the response too. The response `none` leaves the caller waiting. docs/providers.md has the details.
 */
export const faults = {
  none: { effect: 'now', response: 'right' },
  refuse: { effect: 'refuse', response: 'right' },
  timeout_before: { effect: 'never', response: 'none' },
  timeout_after: { effect: 'now', response: 'none' },
  error_before: { effect: 'never', response: 'error' },
  error_after: { effect: 'now', response: 'error' },
  reset_before: { effect: 'never', response: 'reset' },
  reset_after: { effect: 'now', response: 'reset' },
  too_many: { effect: 'never', response: 'too_many' },
  unavailable: { effect: 'never', response: 'unavailable' },
  overloaded_after: { effect: 'now', response: 'overloaded' },
  hold: { effect: 'held', response: 'right' },
  late: { effect: 'late', response: 'none' },
  late_error: { effect: 'late', response: 'error' },
  late_reset: { effect: 'late', response: 'reset' },
  garbage: { effect: 'now', response: 'garbage' },
  wrong_shape: { effect: 'now', response: 'wrong_shape' },
  html: { effect: 'now', response: 'html' },
  empty: { effect: 'now', response: 'empty' },
  huge: { effect: 'now', response: 'huge' },
  cut_short: { effect: 'now', response: 'cut_short' },
  redirect: { effect: 'now', response: 'redirect' },
  duplicate: { effect: 'now', response: 'duplicate' },
  other_key: { effect: 'now', response: 'other_key' },
  other_amount: { effect: 'other_amount', response: 'right' },
  other_currency: { effect: 'other_currency', response: 'right' },
  misstated_amount: { effect: 'now', response: 'misstated_amount' },
  misstated_currency: { effect: 'now', response: 'misstated_currency' },
  split: { effect: 'split', response: 'right' },
  misstated_parcels: { effect: 'now', response: 'misstated_parcels' },
  repeated_parcel: { effect: 'now', response: 'repeated_parcel' },
} as const;

export type FaultName = keyof typeof faults;
export type ResponseKind = (typeof faults)[FaultName]['response'];
export type Fault = Readonly<{
  effect: (typeof faults)[FaultName]['effect'];
  response: ResponseKind;
}>;
const faultName = z.custom<FaultName>(
  (value) => typeof value === 'string' && Object.hasOwn(faults, value),
  { error: 'must be the name of a fault' },
);

const REFUSABLE = new Set<Operation>(['capture', 'refund', 'ship']);
const MOVES_MONEY = new Set<Operation>(['capture', 'refund']);
const STATES_PARCELS = new Set<Operation>(['ship', 'look_up_shipment']);
const STATES_MONEY = new Set<Operation>(['capture', 'refund', 'look_up_capture', 'look_up_refund']);

/**
 * Whether the fault applies to the operation in a version of the contract. For example, a look-up cannot be
 * refused, and version 1 knows one parcel only.
 */
export function canHappen(
  name: FaultName,
  operation: Operation,
  contract: ContractVersion = 2,
): boolean {
  const { effect, response }: Fault = faults[name];
  if (effect === 'split') return contract === 2 && operation === 'ship';
  if (response === 'misstated_parcels' || response === 'repeated_parcel')
    return contract === 2 && STATES_PARCELS.has(operation);
  if (effect === 'refuse') return REFUSABLE.has(operation);
  if (effect === 'other_amount' || effect === 'other_currency') return MOVES_MONEY.has(operation);
  if (response === 'misstated_amount' || response === 'misstated_currency')
    return STATES_MONEY.has(operation);
  return true;
}

/** Which calls go wrong, and how. A rule without `times` stays until it is deleted. */
export const faultRule = selection.extend({
  /** One of several is drawn for each call. */
  fault: z.union([faultName, z.array(faultName).min(1)]),
  operation: z.union([operation, z.array(operation).min(1)]).optional(),
  times: z.int().min(1).optional(),
  /** The share of the calls that fail, drawn from `seed`. */
  probability: z.number().min(0).max(1).default(1),
  seed: z.int().default(0),
  /** Delays the response. */
  delayMs: z.int().min(0).max(MS_MAX).default(0),
  /** When a late effect happens. Without it, the effect waits for a release. */
  lateMs: z.int().min(0).max(MS_MAX).optional(),
  /** The `Retry-After` header of a 429 or 503. */
  retryAfterSeconds: z.int().min(0).default(1),
  /** How many parcels `split` makes, if there are so many pieces. */
  parcels: z.int().min(2).max(100).default(2),
});
type FaultRule = Readonly<z.infer<typeof faultRule>>;

/** What to do to one call. */
export type ChosenFault = Readonly<{
  name: FaultName;
  delayMs: number;
  lateMs?: number | undefined;
  retryAfterSeconds: number;
  parcels: number;
}>;

/**
 * The rules in force. The first rule that matches a call decides. A draw depends on seed, operation and
 * attempt, and also on the key unless the rule names an order. So the schedule does not depend on the order
 * of concurrent calls, and the schedule of one order does not depend on its ids.
 */
export function createFaultRules() {
  const rules = new Set<{ rule: FaultRule; left: number }>();
  return {
    /** Returns false if there are too many rules. */
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
        const { delayMs, lateMs, retryAfterSeconds, parcels } = entry.rule;
        return { name, delayMs, lateMs, retryAfterSeconds, parcels };
      }
      return { name: 'none', delayMs: 0, retryAfterSeconds: 1, parcels: 1 };
    },
  };
}

function drawFault(rule: FaultRule, call: SimulatedCall): FaultName | undefined {
  const { operation, key, orderId } = rule;
  if (operation !== undefined && ![operation].flat().includes(call.operation)) return undefined;
  if (!selects({ key, orderId }, call)) return undefined;
  const possible = [rule.fault]
    .flat()
    .filter((name) => canHappen(name, call.operation, call.contract));
  if (draw(rule, 'whether', call) >= rule.probability) return undefined;
  return possible[Math.floor(draw(rule, 'which', call) * possible.length)];
}

/** A number from 0 up to but excluding 1. It is the same for the same call. */
function draw(
  { seed, orderId }: FaultRule,
  what: string,
  { operation, key, attempt }: SimulatedCall,
): number {
  const text = JSON.stringify([seed, what, operation, orderId === undefined ? key : null, attempt]);
  return createHash('sha256').update(text).digest().readUInt32BE(0) / 2 ** 32;
}
