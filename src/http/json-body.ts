import { isUtf8 } from 'node:buffer';

import { summarise } from './field-errors.ts';
import { findJsonFaults } from './json-faults.ts';
import { endOfNumber, endOfString, startsNumber } from './json-tokens.ts';
import { problemKinds } from './problem-kinds.ts';
import { Problem } from './problem.ts';
import type { FieldError } from './problem.ts';

const DEPTH_MAX = 20;
/** So many characters of digits and a point survive the way to a double and back, whatever they are. */
const EXACT_NUMBER_LENGTH_MAX = 15;
const TOO_DEEP = -1;
const DOUBTFUL = -2;

/**
 * Parses a request body, strictly: what two parsers could read in two ways is refused.
 * `JSON.parse` keeps the last of two members with one name and rounds large numbers in silence, so
 * one scan of the text looks for what it hides; only a doubt costs a second, slow reading.
 * @returns undefined for an empty body
 * @throws Problem `malformed_json`, or `invalid_request` with pointers
 */
export function parseJsonBody(body: Buffer): unknown {
  if (body.length === 0) return undefined;
  if (!isUtf8(body)) throw malformed('The body is not valid UTF-8.');
  const text = body.toString('utf8');
  const value = parse(text);
  const colons = text.includes('\\') ? DOUBTFUL : scan(text);
  if (colons === TOO_DEEP) throw tooDeep();
  // A member has one colon outside strings, and leaves one key unless a later one replaced it.
  if (colons !== DOUBTFUL && colons === countKeys(value)) return value;
  const faults = findJsonFaults(text, DEPTH_MAX);
  if (faults === undefined) throw tooDeep();
  if (faults.length > 0) throw invalid(faults);
  return value;
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    throw malformed('The body is not valid JSON.');
  }
}

/**
 * Counts the colons between names and values of valid JSON without escapes, or says what needs
 * another look.
 */
function scan(text: string): number {
  let colons = 0;
  let depth = 0;
  let at = 0;
  while (at < text.length) {
    const code = text.charCodeAt(at);
    if (code === 0x22) {
      at = endOfString(text, at);
    } else if (startsNumber(code)) {
      const start = at;
      at = endOfNumber(text, at);
      if (isDoubtfulNumber(text, start, at)) return DOUBTFUL;
    } else {
      at += 1;
      if (code === 0x3a) colons += 1;
      else if (code === 0x7b || code === 0x5b) depth += 1;
      else if (code === 0x7d || code === 0x5d) depth -= 1;
      if (depth > DEPTH_MAX) return TOO_DEEP;
    }
  }
  return colons;
}

/** Longer than is surely exact, -0, or with an exponent. */
function isDoubtfulNumber(text: string, start: number, end: number): boolean {
  if (end - start > EXACT_NUMBER_LENGTH_MAX) return true;
  if (text.charCodeAt(start) === 0x2d && text.charCodeAt(start + 1) === 0x30) return true;
  for (let at = start; at < end; at += 1) {
    // e or E
    if ((text.charCodeAt(at) | 0x20) === 0x65) return true;
  }
  return false;
}

/** How many members parsed JSON has in all, or NaN if one has a name that no body may use. */
function countKeys(value: unknown): number {
  let count = 0;
  if (Array.isArray(value)) {
    for (const item of value) count += countKeys(item);
  } else if (isObject(value)) {
    for (const name in value) {
      if (name === '__proto__' || name === 'constructor') return Number.NaN;
      count += 1 + countKeys(value[name]);
    }
  }
  return count;
}

function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null;
}

function malformed(detail: string): Problem {
  return new Problem(problemKinds.malformedJson, { detail });
}

function invalid(errors: readonly FieldError[]): Problem {
  return new Problem(problemKinds.invalidRequest, summarise(errors));
}

function tooDeep(): Problem {
  return invalid([{ pointer: '', message: `must not be nested deeper than ${DEPTH_MAX} levels` }]);
}
