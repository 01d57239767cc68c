import type { IncomingMessage } from 'node:http';

import { canonicalHeader } from './field-errors.ts';
import type { FieldError } from './problem.ts';

/** Headers that mean one thing; Node would join or drop a second one in silence. */
const SINGLE = new Set([
  'authorization',
  'content-encoding',
  'content-type',
  'host',
  'idempotency-key',
]);
const LENGTHS = new Set([...SINGLE].map((name) => name.length));

/** Finds headers that were sent twice and must not be, and a Host that HTTP/1.1 misses. */
export function headerFaults({ headers, rawHeaders, httpVersion }: IncomingMessage): FieldError[] {
  const seen = new Set<string>();
  const faults: FieldError[] = [];
  // Names and values in turn.
  for (let index = 0; index < rawHeaders.length; index += 2) {
    const raw = rawHeaders[index];
    if (raw === undefined || !LENGTHS.has(raw.length)) continue;
    const name = raw.toLowerCase();
    if (!SINGLE.has(name)) continue;
    if (seen.has(name)) {
      faults.push({
        pointer: `header/${canonicalHeader(name)}`,
        message: 'must be sent once only',
      });
    }
    seen.add(name);
  }
  if (headers.host === undefined && httpVersion === '1.1') {
    faults.push({ pointer: 'header/Host', message: 'is required' });
  }
  return faults;
}
