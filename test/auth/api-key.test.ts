import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { createApiKey, isApiKey, parseApiKey } from '#src/auth/api-key.ts';

describe('an API key', () => {
  test('is known by its prefix, and names its id', () => {
    const { text, id } = createApiKey();
    expect(text).toMatch(/^osk_[0-9A-Za-z]{12}_[0-9A-Za-z]{36}$/);
    expect(text).toContain(id);
    expect(isApiKey(text)).toBe(true);
    expect(isApiKey('eyJhbGciOiJSUzI1NiJ9.e30.c2ln')).toBe(false);
  });

  test('is read back as its id and its hash, without the secret', () => {
    const { text, ...stored } = createApiKey();
    expect(parseApiKey(text)).toEqual(stored);
    expect(stored.hash).toHaveLength(32);
  });

  test('is never the same twice, in any of its parts', () => {
    const texts = Array.from({ length: 1_000 }, () => createApiKey().text);
    expect(new Set(texts.map((text) => text.slice(4, 16))).size).toBe(1_000);
    expect(new Set(texts.map((text) => text.slice(17, 47))).size).toBe(1_000);
  });

  test('is refused if a character is changed, left out or added, or two are swapped', () => {
    const changed = fc.constant(createApiKey().text).chain((text) =>
      fc
        .oneof(
          fc
            .tuple(fc.nat(text.length - 1), fc.string({ minLength: 1, maxLength: 1 }))
            .map(([at, by]) => text.slice(0, at) + by + text.slice(at + 1)),
          fc.nat(text.length - 1).map((at) => text.slice(0, at) + text.slice(at + 1)),
          fc.nat(text.length).map((at) => `${text.slice(0, at)}a${text.slice(at)}`),
          fc
            .nat(text.length - 2)
            .map((at) => text.slice(0, at) + text[at + 1]! + text[at]! + text.slice(at + 2)),
        )
        .filter((other) => other !== text),
    );
    fc.assert(fc.property(changed, (other) => parseApiKey(other) === undefined));
  });

  test.each(['', 'osk_', 'osk_123456789012_', `osk_${'a'.repeat(49)}`, `${createApiKey().text}\n`])(
    'is not %j',
    (text) => {
      expect(parseApiKey(text)).toBeUndefined();
    },
  );
});
