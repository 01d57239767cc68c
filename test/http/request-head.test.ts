import { describe, expect, test } from 'vitest';
import { parseTraceparent } from '#src/http/request-head.ts';

describe('a traceparent', () => {
  const good = '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01';

  test('is accepted if it is valid', () => {
    expect(parseTraceparent(good)).toBe(good);
  });

  test.each([
    undefined,
    '',
    good.toUpperCase(),
    `${good}-x`,
    good.replace('00-', 'ff-'),
    good.replace('00-', '01-'),
    '00-00000000000000000000000000000000-00f067aa0ba902b7-01',
    '00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01',
    `${good}, ${good}`,
    [good],
  ])('is ignored when it is %j', (header) => {
    expect(parseTraceparent(header)).toBeUndefined();
  });
});
