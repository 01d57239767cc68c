import { ifMatchHolds, isWeakOnly } from './entity-tags.ts';
import type { EntityTags } from './entity-tags.ts';
import { problemKinds } from './problem-kinds.ts';
import { Problem } from './problem.ts';
import type { ProblemDetails } from './problem.ts';

/**
 * Lets a command through whose If-Match asks for this version, or that has none.
 * @throws Problem `precondition_failed` or `if_match_weak`
 */
export function requireMatch(ifMatch: EntityTags | undefined, version: number): void {
  if (ifMatch !== undefined && !ifMatchHolds(ifMatch, version)) throw unmatched(ifMatch);
}

/** The answer to a condition that does not hold. */
export function unmatched(
  ifMatch: EntityTags | undefined,
  details: Omit<ProblemDetails, 'detail'> = {},
): Problem {
  const isWeak = ifMatch !== undefined && isWeakOnly(ifMatch);
  const kind = isWeak ? problemKinds.ifMatchWeak : problemKinds.preconditionFailed;
  return new Problem(kind, { detail: kind.advice, ...details });
}
