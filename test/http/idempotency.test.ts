import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { z } from 'zod';
import { canonicalJson, createInFlight, idempotencyKey } from '#src/http/idempotency.ts';

/** As the OpenAPI document has it. */
const PATTERN = new RegExp(String(z.toJSONSchema(idempotencyKey, { io: 'input' }).pattern), 'u');

describe('an Idempotency-Key', () => {
  test.each([
    ['abc', 'abc'],
    ['"abc"', 'abc'],
    ['8e03978e-40d5-43e8-bc93-6894a57f9324', '8e03978e-40d5-43e8-bc93-6894a57f9324'],
    ['"say \\"hi\\""', undefined],
    ['"a\\"b\\\\c"', 'a"b\\c'],
    ['!~', '!~'],
    ['k'.repeat(255), 'k'.repeat(255)],
    [`"${'k'.repeat(255)}"`, 'k'.repeat(255)],
    ['k'.repeat(256), undefined],
    [`"${'k'.repeat(256)}"`, undefined],
    ['', undefined],
    ['""', undefined],
    ['"abc', undefined],
    ['abc"', undefined],
    ['a b', undefined],
    ['"a b"', undefined],
    ['caf\u00e9', undefined],
    ['a\u0007', undefined],
    ['"abc";x=1', undefined],
  ])('of %j is %j', (text, key) => {
    const result = idempotencyKey.safeParse(text);
    expect(result.success ? result.data : undefined).toBe(key);
    expect(PATTERN.test(text)).toBe(key !== undefined);
  });
});

describe('canonical JSON', () => {
  const json = fc.jsonValue({ maxDepth: 4 });

  test('keeps the value', () => {
    fc.assert(
      fc.property(json, (value) => {
        expect(JSON.parse(canonicalJson(value))).toEqual(JSON.parse(JSON.stringify(value)));
      }),
    );
  });

  test('does not depend on the order of members', () => {
    fc.assert(
      fc.property(fc.dictionary(fc.string(), json), (value) => {
        const reversed = Object.fromEntries(Object.entries(value).toReversed());
        expect(canonicalJson(reversed)).toBe(canonicalJson(value));
      }),
    );
  });

  test('differs for different values', () => {
    fc.assert(
      fc.property(json, json, (a, b) => {
        fc.pre(JSON.stringify(a) !== JSON.stringify(b));
        const sameMembers = JSON.stringify(sorted(a)) === JSON.stringify(sorted(b));
        expect(canonicalJson(a) === canonicalJson(b)).toBe(sameMembers);
      }),
    );
  });
});

/** The reference: a deep copy whose members were put in in order. */
function sorted(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(sorted);
  if (typeof value !== 'object' || value === null) return value;
  const names = Object.entries(value).map(([name, of]) => [`-${name}`, sorted(of)] as const);
  return Object.fromEntries(names.toSorted(([a], [b]) => (a < b ? -1 : 1)));
}

describe('requests in progress', () => {
  const keyed = (principal: string, key: string) => ({
    ref: { principal, key },
    hash: Buffer.of(),
    isSame: () => true,
  });

  test('block others with the same key until they end', async () => {
    const inFlight = createInFlight();
    const gate = Promise.withResolvers<string>();
    const first = inFlight.run(keyed('me', 'k'), () => gate.promise);
    await expect(inFlight.run(keyed('me', 'k'), async () => 'never')).rejects.toMatchObject({
      code: 'idempotency_key_in_use',
      status: 409,
      details: { retryAfterSeconds: 1 },
    });
    await expect(inFlight.run(keyed('you', 'k'), async () => 'other principal')).resolves.toBe(
      'other principal',
    );
    await expect(inFlight.run(keyed('me', 'l'), async () => 'other key')).resolves.toBe(
      'other key',
    );
    await expect(inFlight.run(undefined, async () => 'no key')).resolves.toBe('no key');
    gate.resolve('done');
    await expect(first).resolves.toBe('done');
    await expect(inFlight.run(keyed('me', 'k'), async () => 'again')).resolves.toBe('again');
  });

  test('release their key when they fail', async () => {
    const inFlight = createInFlight();
    await expect(
      inFlight.run(keyed('me', 'k'), () => Promise.reject(new Error('no'))),
    ).rejects.toThrow('no');
    await expect(inFlight.run(keyed('me', 'k'), async () => 'again')).resolves.toBe('again');
  });
});
