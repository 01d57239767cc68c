import { z } from 'zod';
import type { Operation } from './simulated-call.ts';

/** When the effect happens: `held` and `late` wait for a release; `held` answers only then. */
type Effect = 'now' | 'never' | 'held' | 'late' | 'refuse' | 'other_amount' | 'other_currency';

/** What the caller gets to see. `none` leaves it waiting. */
export type AnswerKind =
  | 'right'
  | 'none'
  | 'reset'
  | 'error'
  | 'too_many'
  | 'unavailable'
  | 'overloaded'
  | 'garbage'
  | 'wrong_shape'
  | 'html'
  | 'empty'
  | 'huge'
  | 'cut_short'
  | 'redirect'
  | 'duplicate'
  | 'other_key'
  | 'misstated_amount'
  | 'misstated_currency';

export type Fault = Readonly<{ effect: Effect; answer: AnswerKind }>;

/** Every fault there is: what happens, and what the caller is told. docs/providers.md tells more. */
export const faults = {
  none: { effect: 'now', answer: 'right' },
  refuse: { effect: 'refuse', answer: 'right' },
  timeout_before: { effect: 'never', answer: 'none' },
  timeout_after: { effect: 'now', answer: 'none' },
  error_before: { effect: 'never', answer: 'error' },
  error_after: { effect: 'now', answer: 'error' },
  reset_before: { effect: 'never', answer: 'reset' },
  reset_after: { effect: 'now', answer: 'reset' },
  too_many: { effect: 'never', answer: 'too_many' },
  unavailable: { effect: 'never', answer: 'unavailable' },
  overloaded_after: { effect: 'now', answer: 'overloaded' },
  hold: { effect: 'held', answer: 'right' },
  late: { effect: 'late', answer: 'none' },
  late_error: { effect: 'late', answer: 'error' },
  late_reset: { effect: 'late', answer: 'reset' },
  garbage: { effect: 'now', answer: 'garbage' },
  wrong_shape: { effect: 'now', answer: 'wrong_shape' },
  html: { effect: 'now', answer: 'html' },
  empty: { effect: 'now', answer: 'empty' },
  huge: { effect: 'now', answer: 'huge' },
  cut_short: { effect: 'now', answer: 'cut_short' },
  redirect: { effect: 'now', answer: 'redirect' },
  duplicate: { effect: 'now', answer: 'duplicate' },
  other_key: { effect: 'now', answer: 'other_key' },
  other_amount: { effect: 'other_amount', answer: 'right' },
  other_currency: { effect: 'other_currency', answer: 'right' },
  misstated_amount: { effect: 'now', answer: 'misstated_amount' },
  misstated_currency: { effect: 'now', answer: 'misstated_currency' },
} as const satisfies Record<string, Fault>;

export type FaultName = keyof typeof faults;
export const faultName = z.custom<FaultName>(
  (value) => typeof value === 'string' && Object.hasOwn(faults, value),
  { error: 'must be the name of a fault' },
);

const REFUSABLE = new Set<Operation>(['capture', 'refund', 'ship']);
const MOVES_MONEY = new Set<Operation>(['capture', 'refund']);
const STATES_MONEY = new Set<Operation>(['capture', 'refund', 'look_up_capture', 'look_up_refund']);

/** Whether the fault means anything for the operation: a look-up cannot be refused. */
export function canHappen(name: FaultName, operation: Operation): boolean {
  const { effect, answer }: Fault = faults[name];
  if (effect === 'refuse') return REFUSABLE.has(operation);
  if (effect === 'other_amount' || effect === 'other_currency') return MOVES_MONEY.has(operation);
  if (answer === 'misstated_amount' || answer === 'misstated_currency')
    return STATES_MONEY.has(operation);
  return true;
}
