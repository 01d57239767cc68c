import type { z } from 'zod';

import type { FieldError } from './problem.ts';

/** A response lists at most so many errors: 200 items can have several each. */
const ERRORS_MAX = 50;
const KEY_LENGTH_MAX = 64;

/** A part of a request. */
export type RequestPart = 'body' | 'path' | 'query' | 'header';

const PREFIX: Readonly<Record<RequestPart, string>> = {
  body: '',
  path: 'path',
  query: 'query',
  header: 'header',
};

/** Lists every error of a value. The messages never contain the value itself. */
export function fieldErrors(schema: z.ZodType, value: unknown, part: RequestPart): FieldError[] {
  const result = schema.safeParse(value, { error: (issue) => describe(issue, part) });
  if (result.success) return [];
  return result.error.issues.flatMap((issue) => {
    if (issue.code !== 'unrecognized_keys') {
      return [{ pointer: pointerTo(part, issue.path), message: issue.message }];
    }
    const message = part === 'query' ? 'is not a known parameter' : 'is not a known field';
    return issue.keys.map((key) => ({ pointer: pointerTo(part, [...issue.path, key]), message }));
  });
}

/** A sentence about the first error, and the list of errors up to a limit. */
export function summarise(errors: readonly FieldError[]): {
  detail: string;
  errors: readonly FieldError[];
} {
  const [first] = errors;
  if (first === undefined) return { detail: 'The request is not valid.', errors };
  const place = first.pointer === '' ? 'The body' : first.pointer;
  const others = errors.length > 1 ? ` ${errors.length - 1} more: see errors.` : '';
  return { detail: `${place} ${first.message}.${others}`, errors: errors.slice(0, ERRORS_MAX) };
}

/** A JSON pointer (RFC 6901). A part other than the body is its first segment. */
export function pointerTo(part: RequestPart, path: readonly PropertyKey[]): string {
  const segments = path.map((key) => {
    const name = part === 'header' ? canonicalHeader(String(key)) : String(key);
    return `/${name.slice(0, KEY_LENGTH_MAX).replaceAll('~', '~0').replaceAll('/', '~1')}`;
  });
  return PREFIX[part] + segments.join('');
}

/** The usual spelling of a header: `Idempotency-Key` for `idempotency-key`. */
export function canonicalHeader(name: string): string {
  return name.replaceAll(/(^|-)[a-z]/g, (start) => start.toUpperCase());
}

type RawIssue = Parameters<z.core.$ZodErrorMap>[0];

function describe(issue: RawIssue, part: RequestPart): string | undefined {
  if (issue.input === undefined) return 'is required';
  if (part !== 'body' && Array.isArray(issue.input)) return 'must be given once only';
  switch (issue.code) {
    case 'invalid_type':
      return `must be ${TYPE_NAMES[issue.expected] ?? issue.expected}`;
    case 'too_small':
      return `must ${size('at least', issue.origin, issue.minimum)}`;
    case 'too_big':
      return `must ${size('at most', issue.origin, issue.maximum)}`;
    case 'invalid_value':
      return `must be one of ${issue.values.map(String).join(', ')}`;
    case 'invalid_format':
      return `must have the format ${issue.format}`;
    case 'not_multiple_of':
    case 'unrecognized_keys':
    case 'invalid_union':
    case 'invalid_key':
    case 'invalid_element':
    case 'custom':
      return 'is not valid';
  }
}

const TYPE_NAMES: Readonly<Record<string, string>> = {
  string: 'a string',
  number: 'a number',
  int: 'a whole number',
  boolean: 'true or false',
  array: 'a list',
  object: 'an object',
};

function size(bound: string, origin: string, limit: number | bigint): string {
  const unit = SIZE_UNITS[origin];
  if (unit === undefined) return `be ${bound} ${limit}`;
  return `have ${bound} ${limit} ${unit}${Number(limit) === 1 ? '' : 's'}`;
}

const SIZE_UNITS: Readonly<Record<string, string>> = { string: 'character', array: 'item' };
