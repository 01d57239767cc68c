import { z } from 'zod';

const INSTANT =
  /^(?!0000)\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])T([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{1,3})?Z$/;
const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;
const WHOLE_NUMBER = /^(0|[1-9]\d{0,15})$/;

/** For JSON Schema, which cannot say that surrogates are paired. */
const NO_NUL = String.raw`^[^\u0000]*$`;

/**
 * Text of `min` to `max` characters (code points, as Postgres and JSON Schema count them) that
 * Postgres can store: no U+0000, no unpaired surrogate.
 */
export function safeText(min: number, max: number) {
  return z
    .string()
    .refine((text) => textFault(text, min, max) === undefined, {
      error: ({ input }) => textFault(String(input), min, max),
    })
    .meta({ minLength: min, maxLength: max, pattern: NO_NUL });
}

/** Control characters, line separators and bidirectional controls. */
const INVISIBLE = String.raw`\u0000-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069`;
const VISIBLE = new RegExp(`^[^${INVISIBLE}]*$`);
/** Every web client resolves a path that ends with one of them to another path. */
const DOT_SEGMENTS = new Set(['.', '..']);
const NOT_DOTS = { error: 'must not be . or ..' };

/** Text that is also the last part of a path, so it is neither `.` nor `..`. */
export function pathText(min: number, max: number) {
  return safeText(min, max)
    .refine((text) => !DOT_SEGMENTS.has(text), NOT_DOTS)
    .meta({ minLength: min, maxLength: max, pattern: String.raw`^(?!\.{1,2}$)[^\u0000]*$` });
}

/**
 * A sku. The stock is found by it, so it has one spelling (NFC) and no invisible characters. It is also
 * part of a path, so it is neither `.` nor `..`.
 */
export const skuText = safeText(1, 64)
  .refine((sku) => VISIBLE.test(sku), {
    error: 'must not contain a control character or one that turns the direction of text',
  })
  .refine((sku) => sku.normalize('NFC') === sku, {
    error: "must be in Unicode's normalisation form C (NFC)",
  })
  .refine((sku) => !DOT_SEGMENTS.has(sku), NOT_DOTS)
  .meta({ minLength: 1, maxLength: 64, pattern: `^(?!\\.{1,2}$)[^${INVISIBLE}]*$` });

/** Codes of ISO 4217 for tests and for "no currency". */
const SPECIAL_CURRENCIES = ['XTS', 'XXX'];
const CURRENCIES = new Set([...Intl.supportedValuesOf('currency'), ...SPECIAL_CURRENCIES]);

/** A currency code of ISO 4217 that Node knows. */
export const currencyCode = z
  .string()
  .refine((code) => CURRENCIES.has(code), {
    error: 'must be the ISO 4217 code of a currency in use: three capital letters, such as EUR',
  })
  .meta({ enum: [...CURRENCIES].toSorted() });

/** An opaque cursor of a list, in base64url, of 1 to `max` characters. */
export function cursorText(max: number) {
  return z
    .string()
    .min(1)
    .max(max)
    .regex(/^[\w-]+$/, 'must be a nextCursor that this service sent');
}

/** A UUID of any version. Accepts both cases and returns lower case. */
export const uuid = z
  .string()
  .toLowerCase()
  .refine((text) => UUID.test(text), { error: 'must be a UUID' })
  .meta({ format: 'uuid', examples: ['01999e5c-7c1f-7d3a-9f52-3b6f0c9d2a11'] });

/** An instant in UTC, ISO 8601 with `Z`, at most milliseconds. */
export const instant = z
  .string()
  .refine(isInstant, { error: 'must be an instant in UTC such as 2026-01-31T12:00:00.000Z' })
  .meta({ format: 'date-time', examples: ['2026-01-31T12:00:00.000Z'] });

/** A whole number in a query string, from `min` to `max`, written in decimal digits only. */
export function queryInteger(min: number, max: number) {
  return z
    .string()
    .refine((text) => WHOLE_NUMBER.test(text) && Number(text) >= min && Number(text) <= max, {
      error: `must be a whole number from ${min} to ${max}`,
      abort: true,
    })
    .transform(Number)
    .meta({ type: 'integer', minimum: min, maximum: max });
}

function textFault(text: string, min: number, max: number): string | undefined {
  // There are at most `length` code points, so they are counted only above the limit.
  const isLong = text.length > max && (text.length > 2 * max || Array.from(text).length > max);
  if (isLong) return `must have at most ${max} characters`;
  if (text.length < min)
    return min === 1 ? 'must not be empty' : `must have at least ${min} characters`;
  if (text.includes('\0')) return 'must not contain U+0000';
  return text.isWellFormed() ? undefined : 'must not contain an unpaired surrogate';
}

function isInstant(text: string): boolean {
  if (!INSTANT.test(text)) return false;
  const parsed = new Date(text);
  return !Number.isNaN(parsed.getTime()) && parsed.toISOString().startsWith(text.slice(0, 19));
}
