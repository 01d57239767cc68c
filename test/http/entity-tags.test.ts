import { describe, expect, test } from 'vitest';
import { z } from 'zod';
import {
  bodyETag,
  entityTags,
  ifMatchHolds,
  ifNoneMatchHits,
  versionETag,
} from '#src/http/entity-tags.ts';

/** As the OpenAPI document has it. */
const PATTERN = new RegExp(String(z.toJSONSchema(entityTags, { io: 'input' }).pattern), 'u');

describe('a list of entity tags', () => {
  test.each([
    ['"v1"', ['"v1"'], []],
    ['"v1", "v2"', ['"v1"', '"v2"'], []],
    ['W/"v1","v2"', ['"v2"'], ['"v1"']],
    ['"a,b" ,  "c"', ['"a,b"', '"c"'], []],
    ['""', ['""'], []],
    ['"v1",,"v2"', ['"v1"', '"v2"'], []],
    [', ,"v1"', ['"v1"'], []],
    ['"v1", \t,', ['"v1"'], []],
  ])('%s is read', (text, strong, weak) => {
    expect(entityTags.parse(text)).toStrictEqual({ text, any: false, strong, weak });
    expect(PATTERN.test(text)).toBe(true);
  });

  test('may be a star', () => {
    expect(entityTags.parse('*')).toMatchObject({ any: true, strong: [], weak: [] });
  });

  test.each([
    '',
    'v1',
    '"v1',
    'v1"',
    '"v1" "v2"',
    '*, "v1"',
    'w/"v1"',
    '"v 1"',
    '"v1";',
    ',',
    '"v1"x',
  ])('%j is refused', (text) => {
    expect(entityTags.safeParse(text).success).toBe(false);
    expect(PATTERN.test(text)).toBe(false);
  });

  test('of 16 KiB is refused quickly', () => {
    const text = `${'"a",'.repeat(4000)}"`;
    expect(entityTags.safeParse(text).success).toBe(false);
  });
});

describe('If-Match', () => {
  test('compares strongly', () => {
    expect(versionETag(7)).toBe('"v7"');
    expect(versionETag(7, 'stuck')).toBe('"v7-stuck"');
    expect(versionETag(7, undefined, 'personal')).toBe('"v7-personal"');
    for (const holds of [
      '"v6", "v7"',
      '*',
      '"v7-stuck"',
      '"v6-stuck", "v7-compensating"',
      '"v7-stuck-personal-gzip"',
    ]) {
      expect(ifMatchHolds(entityTags.parse(holds), 7), holds).toBe(true);
    }
    for (const fails of ['"v6"', 'W/"v7"', 'W/"v7-stuck"', '"v70"', '"v6-v7"', '"v7x"', '"7"']) {
      expect(ifMatchHolds(entityTags.parse(fails), 7), fails).toBe(false);
    }
    const body = entityTags.parse(bodyETag('{}'));
    expect(body).toMatchObject({ strong: [], weak: [expect.stringMatching(/^"[\w-]{27}"$/)] });
    expect(ifMatchHolds(body, 7)).toBe(false);
  });
});

describe('If-None-Match', () => {
  test('compares weakly', () => {
    const etag = versionETag(7);
    expect(ifNoneMatchHits(entityTags.parse('W/"v7"'), etag)).toBe(true);
    expect(ifNoneMatchHits(entityTags.parse('"v6", "v7"'), etag)).toBe(true);
    expect(ifNoneMatchHits(entityTags.parse('*'), etag)).toBe(true);
    expect(ifNoneMatchHits(entityTags.parse('"v70"'), etag)).toBe(false);
    expect(ifNoneMatchHits(entityTags.parse('"v7"'), versionETag(7, 'stuck'))).toBe(false);
    const known = bodyETag('{"a":1}');
    expect(ifNoneMatchHits(entityTags.parse(known), bodyETag('{"a":1}'))).toBe(true);
    expect(ifNoneMatchHits(entityTags.parse(known.slice(2)), known)).toBe(true);
    expect(ifNoneMatchHits(entityTags.parse(known), bodyETag('{"a":2}'))).toBe(false);
    expect(bodyETag(Buffer.from('{"a":1}'))).toBe(known);
  });
});
