import { canonicalHeader } from './field-errors.ts';
import type { FieldError } from './problem.ts';

/** Headers that mean one thing; Node would join or drop a second one in silence. */
const SINGLE = new Set([
  'authorization',
  'content-encoding',
  'content-type',
  'host',
  'idempotency-key',
  'if-match',
  'if-none-match',
]);
const LENGTHS = new Set([...SINGLE].map((name) => name.length));

/** Finds headers that were sent twice and must not be, in a list of names and values in turn. */
export function repeatedHeaders(rawHeaders: readonly string[]): FieldError[] {
  let seen: Set<string> | undefined;
  let errors: FieldError[] | undefined;
  for (let index = 0; index < rawHeaders.length; index += 2) {
    const raw = rawHeaders[index];
    if (raw === undefined || !LENGTHS.has(raw.length)) continue;
    const name = raw.toLowerCase();
    if (!SINGLE.has(name)) continue;
    seen ??= new Set();
    if (seen.has(name)) {
      errors ??= [];
      errors.push({
        pointer: `header/${canonicalHeader(name)}`,
        message: 'must be sent once only',
      });
    }
    seen.add(name);
  }
  return errors ?? [];
}
