import { describe, expect, test } from 'vitest';
import { entityTags, ifMatchHolds, ifNoneMatchHits, versionETag } from '#src/http/entity-tags.ts';

describe('a list of entity tags', () => {
  test.each([
    ['"v1"', ['"v1"'], []],
    ['"v1", "v2"', ['"v1"', '"v2"'], []],
    ['W/"v1","v2"', ['"v2"'], ['"v1"']],
    ['"a,b" ,  "c"', ['"a,b"', '"c"'], []],
    ['""', ['""'], []],
  ])('%s is read', (text, strong, weak) => {
    expect(entityTags.parse(text)).toStrictEqual({ text, any: false, strong, weak });
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
  });

  test('of 16 KiB is read in no time', () => {
    const text = `${'"a",'.repeat(4000)}"`;
    expect(entityTags.safeParse(text).success).toBe(false);
  });
});

describe('If-Match', () => {
  test('compares strongly', () => {
    const etag = versionETag(7);
    expect(etag).toBe('"v7"');
    expect(ifMatchHolds(entityTags.parse('"v6", "v7"'), etag)).toBe(true);
    expect(ifMatchHolds(entityTags.parse('*'), etag)).toBe(true);
    expect(ifMatchHolds(entityTags.parse('"v6"'), etag)).toBe(false);
    expect(ifMatchHolds(entityTags.parse('W/"v7"'), etag)).toBe(false);
  });
});

describe('If-None-Match', () => {
  test('compares weakly', () => {
    const etag = versionETag(7);
    expect(ifNoneMatchHits(entityTags.parse('W/"v7"'), etag)).toBe(true);
    expect(ifNoneMatchHits(entityTags.parse('"v6", "v7"'), etag)).toBe(true);
    expect(ifNoneMatchHits(entityTags.parse('*'), etag)).toBe(true);
    expect(ifNoneMatchHits(entityTags.parse('"v70"'), etag)).toBe(false);
  });
});
