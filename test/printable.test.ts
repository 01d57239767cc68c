import { describe, expect, test } from 'vitest';
import { printable, printableLines, printableStyledLines } from '#src/printable.ts';

describe('text for a terminal', () => {
  test.each([
    ['escape sequences', '\u001b[2J\u001b]0;title\u0007', '\\u001b[2J\\u001b]0;title\\u0007'],
    ['controls of one byte beyond ASCII', 'a\u009b2Jb\u007f', 'a\\u009b2Jb\\u007f'],
    ['ends of lines', 'a\r\nb\u2028c\u2029', 'a\\u000d\\u000ab\\u2028c\\u2029'],
    ['directions of text', 'a\u202eb\u2066c\u200fd\u061ce', 'a\\u202eb\\u2066c\\u200fd\\u061ce'],
    ['what has no width', 'a\u200bb\ufeffc\u00add', 'a\\u200bb\\ufeffc\\u00add'],
    ['tags beyond U+FFFF', 'a\u{e0041}b', 'a\\udb40\\udc41b'],
  ])('has %s written out', (_, text, expected) => {
    expect(printable(text)).toBe(expected);
  });

  test('keeps letters of any script, and emoji', () => {
    const text = '{"sku":"Bücher 本 كتاب 🎉"}';
    expect(printable(text)).toBe(text);
  });

  test('is still JSON with the same meaning', () => {
    const value = { a: '\u009b2J \u202e \u{e0041} \u007f \u001b' };
    expect(JSON.parse(printable(JSON.stringify(value)))).toEqual(value);
  });

  test('keeps its own line breaks', () => {
    expect(printableLines('a\u001b\nb\r\n')).toBe('a\\u001b\nb\\u000d\n');
  });

  test('keeps colours and no other escape sequence', () => {
    const styled = '\u001b[32mINFO\u001b[39m: \u001b[2Ja\u001b]8;;x\u0007\n';
    expect(printableStyledLines(styled)).toBe(
      '\u001b[32mINFO\u001b[39m: \\u001b[2Ja\\u001b]8;;x\\u0007\n',
    );
  });
});
