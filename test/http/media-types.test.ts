import { describe, expect, test } from 'vitest';
import { preferredType } from '#src/http/media-types.ts';

const JSON_TYPE = 'application/json';
const UCP = 'application/ucp+json';

describe('the preferred media type', () => {
  test.each<[string | undefined, string | undefined]>([
    [undefined, JSON_TYPE],
    ['', JSON_TYPE],
    ['*/*', JSON_TYPE],
    ['application/*', JSON_TYPE],
    ['application/json', JSON_TYPE],
    ['Application/JSON; charset=utf-8', JSON_TYPE],
    ['application/json, text/plain, */*', JSON_TYPE],
    ['text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8', JSON_TYPE],
    ['application/ucp+json, application/json', JSON_TYPE],
    ['application/ucp+json;q=0.9, application/json', JSON_TYPE],
    ['application/ucp+json;q=0, */*', JSON_TYPE],
    ['application/ucp+json', UCP],
    ['APPLICATION/UCP+JSON', UCP],
    ['application/ucp+json; profile="a,b"', UCP],
    ['application/ucp+json, */*', UCP],
    ['application/ucp+json, application/json;q=0.9', UCP],
    ['application/ucp+json;q=0.5, */*;q=0.1', UCP],
    ['application/json;q=0, application/*', UCP],
    ['application/json ; q=0.2 , application/ucp+json ; q=0.3', UCP],
    ['text/html', undefined],
    ['application/json;q=0', undefined],
    ['application/*;q=0, */*', undefined],
    ['json', undefined],
    [',;,q=1', undefined],
  ])('of %s is %s', (accept, type) => {
    expect(preferredType(accept, [JSON_TYPE, UCP])).toBe(type);
  });
});
