import { z } from 'zod';

const INSTANT =
  /^(?!0000)\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])T([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{1,3})?Z$/;
const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;
const WHOLE_NUMBER = /^(0|[1-9]\d{0,15})$/;

/**
 * Text of `min` to `max` characters (code points, as Postgres and JSON Schema count them) that
 * Postgres can store: no U+0000, no unpaired surrogate.
 */
export function safeText(min: number, max: number) {
  return z
    .string()
    .min(min)
    .refine((text) => isAtMost(text, max), { error: `must have at most ${max} characters` })
    .refine(isStorable, { error: 'must not contain U+0000 or an unpaired surrogate' })
    .meta({ maxLength: max });
}

/** A UUID of any version; taken in either case, handed on in lower case. */
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

/** A whole number in a query string, written in decimal digits only. */
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

function isAtMost(text: string, max: number): boolean {
  if (text.length <= max) return true;
  return text.length <= 2 * max && Array.from(text).length <= max;
}

function isStorable(text: string): boolean {
  return text.isWellFormed() && !text.includes('\0');
}

function isInstant(text: string): boolean {
  if (!INSTANT.test(text)) return false;
  const parsed = new Date(text);
  return !Number.isNaN(parsed.getTime()) && parsed.toISOString().startsWith(text.slice(0, 19));
}
