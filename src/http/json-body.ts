import { isUtf8 } from 'node:buffer';

import { problemKinds } from './problem-kinds.ts';
import { Problem } from './problem.ts';

/**
 * Parses a request body.
 * @returns undefined for an empty body
 * @throws Problem `malformed_json` or `invalid_request`
 */
export function parseJsonBody(body: Buffer): unknown {
  if (body.length === 0) return undefined;
  if (!isUtf8(body)) throw malformed('The body is not valid UTF-8.');
  try {
    const value: unknown = JSON.parse(body.toString('utf8'));
    return value;
  } catch {
    throw malformed('The body is not valid JSON.');
  }
}

function malformed(detail: string): Problem {
  return new Problem(problemKinds.malformedJson, { detail });
}
