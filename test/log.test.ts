import { expect, test } from 'vitest';
import { createLogPrinter } from '#src/log.ts';
import { printableStyledLines } from '#src/printable.ts';

test('the log on a terminal has nothing from callers that it would obey or hide', () => {
  const nasty = '\u001b[2J\u009b2J\u202e\u2066\u200b';
  const entry = {
    level: 50,
    time: 0,
    msg: `message ${nasty}.`,
    url: `/${nasty}.`,
    err: { type: 'Error', message: `error ${nasty}.`, stack: `Error: error ${nasty}.\n    at x` },
  };
  const printed = createLogPrinter()(`${JSON.stringify(entry)}\n`);
  expect(printed).toMatch(/message .*\\u202e\\u2066\\u200b\./);
  expect(printed).toMatch(/\/.*\\u202e\\u2066\\u200b\./);
  expect(printed).toMatch(/Error: error .*\\u202e\\u2066\\u200b\.\n +at x/);
  expect(printed).not.toMatch(/[\p{Cf}\u009b]/u);
  expect(printableStyledLines(printed)).toBe(printed);
});
