import { describe, expect, test } from 'vitest';
import { parseJsonBody } from '#src/http/request-body.ts';
import { Problem } from '#src/http/problem.ts';

function refusal(body: string | Buffer): Problem {
  try {
    parseJsonBody(Buffer.from(body));
  } catch (error) {
    if (error instanceof Problem) return error;
    throw error;
  }
  throw new Error('the body was accepted');
}

function pointers(body: string): string[] {
  return (refusal(body).details.errors ?? []).map(
    ({ pointer, message }) => `${pointer} ${message}`,
  );
}

const nested = (depth: number) => `${'['.repeat(depth)}${']'.repeat(depth)}`;

describe('a body', () => {
  test.each([
    ['{"a":1}', { a: 1 }],
    ['[1,2]', [1, 2]],
    ['"text: with a colon {"', 'text: with a colon {'],
    [' {"a" : { "b":[ ] } } ', { a: { b: [] } }],
    ['{"a:b":"c\\":d","e{":1}', { 'a:b': 'c":d', 'e{': 1 }],
    [
      '{"a":{"x":1},"b":{"x":1},"c":[{"x":1},{"x":1}]}',
      { a: { x: 1 }, b: { x: 1 }, c: [{ x: 1 }, { x: 1 }] },
    ],
    ['{"a":"\\ud83d\\ude00"}', { a: '😀' }],
    ['{"a":"\\\\u0000"}', { a: '\\u0000' }],
    ['{"a":"caf\\u00e9"}', { a: 'café' }],
    [
      '[9007199254740992,123456789012345,0.1,1e2,1.50,-1,0,0.0,1E-7]',
      [9007199254740992, 123456789012345, 0.1, 100, 1.5, -1, 0, 0, 1e-7],
    ],
    ['null', null],
  ])('%s is parsed', (text, value) => {
    expect(parseJsonBody(Buffer.from(text))).toStrictEqual(value);
  });

  test('that is empty counts as no body', () => {
    expect(parseJsonBody(Buffer.alloc(0))).toBeUndefined();
  });

  test.each([
    '{',
    '{"a":}',
    '{"a":NaN}',
    '{"a":01}',
    "{'a':1}",
    '{"a":1,}',
    ' ',
    '\uFEFF{}',
    '{}{}',
    '{"a":"\u0000"}',
  ])('%j is malformed', (text) => {
    expect(refusal(text)).toMatchObject({ code: 'malformed_json', status: 400 });
  });

  test.each([
    ['a stray continuation byte', Buffer.from([0x22, 0x80, 0x22])],
    ['an encoded surrogate', Buffer.from([0x22, 0xed, 0xa0, 0x80, 0x22])],
    ['an overlong NUL', Buffer.from([0x22, 0xc0, 0x80, 0x22])],
    ['a cut character', Buffer.from([0x22, 0xe2, 0x82, 0x22])],
  ])('with %s is malformed', (_, bytes) => {
    expect(refusal(bytes)).toMatchObject({ code: 'malformed_json' });
  });

  test.each([
    ['{"a":1,"a":2}', '/a'],
    ['{"items":[{"sku":"x"},{"sku":"x","q":1,"sku":"y"}]}', '/items/1/sku'],
    ['{"a":{"b":1,"c":{"d":1}},"a":1}', '/a'],
    ['{"a":1,"\\u0061":2}', '/a'],
    ['{"":1,"":2}', '/'],
    ['{"x/y":1,"x/y":2}', '/x~1y'],
  ])('%s is refused for its duplicate name', (text, pointer) => {
    expect(pointers(text)).toStrictEqual([`${pointer} is given more than once`]);
  });

  test.each([
    ['{"__proto__":{"admin":true}}', '/__proto__'],
    ['{"a":[{"constructor":{"prototype":{}}}]}', '/a/0/constructor'],
    ['{"\\u005f_proto__":1}', '/__proto__'],
  ])('%s is refused for its dangerous name', (text, pointer) => {
    expect(pointers(text)).toStrictEqual([`${pointer} is not a name that a body may use`]);
    expect(Object.hasOwn(Object.prototype, 'admin')).toBe(false);
  });

  test.each([
    ['{"a":"x\\u0000"}', '/a must not contain U+0000'],
    ['{"a":["\\uD800"]}', '/a/0 must not contain an unpaired surrogate'],
    ['{"a":"\\udc00\\ud800"}', '/a must not contain an unpaired surrogate'],
  ])('%s is refused for text that cannot be stored', (text, error) => {
    expect(pointers(text)).toStrictEqual([error]);
  });

  test.each([
    ['{"a":-0}', '/a must not be -0'],
    ['[-0.0]', '/0 must not be -0'],
    ['[-0e5]', '/0 must not be -0'],
    ['{"a":9007199254740993}', '/a is a number that cannot be kept exactly'],
    ['{"a":1e400}', '/a is a number that cannot be kept exactly'],
    ['{"a":1e-400}', '/a is a number that cannot be kept exactly'],
    ['{"a":0.30000000000000000001}', '/a is a number that cannot be kept exactly'],
    ['{"a":100000000000000000000000001}', '/a is a number that cannot be kept exactly'],
  ])('%s is refused for its number', (text, error) => {
    expect(pointers(text)).toStrictEqual([error]);
  });

  test.each([
    ['{"\\u0000":1}', '/\u0000'],
    ['{"a":{"\\"":1}}', '/a/"'],
    ['{"na\\u006de":1}', '/name'],
  ])('%s is refused for its escaped name', (text, pointer) => {
    expect(pointers(text)).toStrictEqual([`${pointer} must be written without escapes`]);
  });

  test('never has a name that V8 made of an escaped one', () => {
    parseJsonBody(Buffer.from('{"a":1,"b":2}'));
    JSON.parse('{"a":1,"\\\\":2}');
    expect(pointers('{"a":1,"\\"":2,"\\"":3}')).toStrictEqual([
      '/" must be written without escapes',
      '/" is given more than once',
    ]);
  });

  test('reports all of its faults at once', () => {
    expect(pointers('{"a":-0,"b":{"a":1,"a":2},"c":"\\u0000"}')).toHaveLength(3);
  });

  test('nested 20 deep passes, 21 deep does not', () => {
    expect(() => parseJsonBody(Buffer.from(nested(20)))).not.toThrow();
    expect(pointers(nested(21))).toStrictEqual([' must not be nested deeper than 20 levels']);
    expect(pointers(nested(100_000))).toHaveLength(1);
    expect(pointers(`["\\u0000",${nested(20)}]`)).toStrictEqual([
      ' must not be nested deeper than 20 levels',
    ]);
    expect(() => parseJsonBody(Buffer.from(`[${'[],'.repeat(1000)}[]]`))).not.toThrow();
  });
});
