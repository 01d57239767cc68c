import { describe, expect, test } from 'vitest';
import { instant, queryInteger, safeText, uuid } from '#src/http/fields.ts';

const accepts = (schema: { safeParse(value: unknown): { success: boolean } }, value: unknown) =>
  schema.safeParse(value).success;

describe('safe text', () => {
  test('has bounds that count code points', () => {
    const text = safeText(1, 3);
    expect(accepts(text, 'a')).toBe(true);
    expect(accepts(text, 'abc')).toBe(true);
    expect(accepts(text, '😀😀😀')).toBe(true);
    expect(accepts(text, '')).toBe(false);
    expect(accepts(text, 'abcd')).toBe(false);
    expect(accepts(text, '😀😀😀😀')).toBe(false);
    expect(accepts(text, '😀😀ab')).toBe(false);
  });

  test.each(['\0', 'a\0', '\ud800', '\udc00\ud800', 'a\ud83d'])('refuses %j', (value) => {
    expect(accepts(safeText(1, 10), value)).toBe(false);
  });

  test.each([1, true, null, undefined, ['a']])('refuses %j', (value) => {
    expect(accepts(safeText(1, 10), value)).toBe(false);
  });
});

describe('a UUID', () => {
  test('is returned in lower case', () => {
    const text = '01999E5C-7C1F-7D3A-9F52-3B6F0C9D2A11';
    expect(uuid.parse(text)).toBe(text.toLowerCase());
  });

  test.each([
    '',
    'x',
    '01999e5c7c1f7d3a9f523b6f0c9d2a11',
    '{01999e5c-7c1f-7d3a-9f52-3b6f0c9d2a11}',
    '01999e5c-7c1f-7d3a-9f52-3b6f0c9d2a1g',
  ])('is not %j', (text) => {
    expect(accepts(uuid, text)).toBe(false);
  });
});

describe('an instant', () => {
  test.each([
    '2026-01-31T12:00:00Z',
    '2026-01-31T12:00:00.1Z',
    '2024-02-29T23:59:59.999Z',
    '0001-01-01T00:00:00Z',
  ])('may be %s', (text) => {
    expect(accepts(instant, text)).toBe(true);
  });

  test.each([
    '2026-01-31',
    '2026-01-31T12:00:00',
    '2026-01-31T12:00:00+01:00',
    '2026-01-31T12:00:00.1234Z',
    '2026-02-29T12:00:00Z',
    '2026-04-31T12:00:00Z',
    '2026-13-01T12:00:00Z',
    '2026-01-31T24:00:00Z',
    '2026-01-31T12:00:60Z',
    '0000-01-01T00:00:00Z',
    '+10000-01-01T00:00:00Z',
    '2026-01-31 12:00:00Z',
    '2026-01-31T12:00:00Z\n',
  ])('is not %j', (text) => {
    expect(accepts(instant, text)).toBe(false);
  });
});

describe('an integer in a query', () => {
  test('is read from decimal digits', () => {
    expect(queryInteger(1, 100).parse('25')).toBe(25);
    expect(queryInteger(0, 100).parse('0')).toBe(0);
  });

  test.each([
    '',
    '0',
    '101',
    '+5',
    '-5',
    '05',
    '5.0',
    '1e1',
    '0x5',
    ' 5',
    '5 ',
    'NaN',
    '99999999999999999999',
  ])('is not %j', (text) => {
    expect(accepts(queryInteger(1, 100), text)).toBe(false);
  });
});
