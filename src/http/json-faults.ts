import { pointerTo } from './field-errors.ts';
import { endOfNumber, endOfString, startsNumber } from './json-tokens.ts';
import type { FieldError } from './problem.ts';

const FAULTS_MAX = 50;
/** Up to 15 digits and a small exponent: exact without a closer look. */
const SURELY_EXACT = /^-?[\d.]{1,15}(?:[eE][+-]?\d{1,2})?$/;
const FORBIDDEN_NAMES = new Set(['__proto__', 'constructor']);

/** An object or a list that is being read, and the member or item that it is at. */
type Frame = { names: Set<string> | undefined; at: string | number; expectsName: boolean };

/**
 * Reads valid JSON once more, slowly, for what `JSON.parse` lets pass: repeated or dangerous names,
 * text that Postgres cannot store, numbers that a double does not hold. Each with its pointer.
 * @returns undefined when it is nested deeper than `depthMax`
 */
export function findJsonFaults(text: string, depthMax: number): FieldError[] | undefined {
  const faults: FieldError[] = [];
  const frames: Frame[] = [];
  const report = (message: string | undefined) => {
    if (message === undefined) return;
    const path = frames.map((frame) => frame.at);
    faults.push({ pointer: pointerTo('body', path), message });
  };
  let at = 0;
  while (at < text.length && faults.length < FAULTS_MAX) {
    const start = at;
    const code = text.charCodeAt(at);
    const frame = frames.at(-1);
    if (code === 0x22) {
      at = endOfString(text, at);
      const token = text.slice(start, at);
      report(frame?.expectsName ? enterMember(frame, token) : textFault(unquote(token)));
    } else if (startsNumber(code)) {
      at = endOfNumber(text, at);
      report(numberFault(text.slice(start, at)));
    } else {
      at += 1;
      moveOn(frames, code);
      if (frames.length > depthMax) return undefined;
    }
  }
  return faults;
}

/** Takes note of a bracket or a comma. */
function moveOn(frames: Frame[], code: number): void {
  if (code === 0x7b) frames.push({ names: new Set(), at: '', expectsName: true });
  else if (code === 0x5b) frames.push({ names: undefined, at: 0, expectsName: false });
  else if (code === 0x7d || code === 0x5d) frames.pop();
  else if (code === 0x2c) {
    const frame = frames.at(-1);
    if (frame === undefined) return;
    if (typeof frame.at === 'number') frame.at += 1;
    else frame.expectsName = true;
  }
}

/**
 * Names are plain: V8 up to 14.6 reads some escaped ones as other names (nodejs/node#63785), and no
 * name here needs an escape.
 */
function enterMember(frame: Frame, token: string): string | undefined {
  const name = unquote(token);
  frame.at = name;
  frame.expectsName = false;
  if (FORBIDDEN_NAMES.has(name)) return 'is not a name that a body may use';
  if (frame.names?.has(name) === true) return 'is given more than once';
  frame.names?.add(name);
  return token.includes('\\') ? 'must be written without escapes' : undefined;
}

function unquote(token: string): string {
  return String(JSON.parse(token));
}

function textFault(text: string): string | undefined {
  if (text.includes('\0')) return 'must not contain U+0000';
  return text.isWellFormed() ? undefined : 'must not contain an unpaired surrogate';
}

function numberFault(token: string): string | undefined {
  const value = Number(token);
  if (Object.is(value, -0)) return 'must not be -0';
  if (SURELY_EXACT.test(token)) return undefined;
  const kept = Number.isFinite(value) && decimal(token) === decimal(String(value));
  return kept ? undefined : 'is a number that cannot be kept exactly';
}

/** A decimal number in one form only: sign, digits without outer zeros, exponent. */
function decimal(token: string): string {
  const [mantissa = '', exponent = '0'] = token.toLowerCase().split('e');
  const [whole = '', fraction = ''] = mantissa.replace('-', '').split('.');
  const digits = whole + fraction;
  let first = 0;
  while (digits.charCodeAt(first) === 0x30) first += 1;
  let end = digits.length;
  while (end > first && digits.charCodeAt(end - 1) === 0x30) end -= 1;
  if (first === end) return '0';
  const power = Number(exponent) + whole.length - first;
  return `${mantissa.startsWith('-') ? '-' : ''}${digits.slice(first, end)}e${power}`;
}
