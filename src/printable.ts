/**
 * Controls, which a terminal obeys, and characters that are not seen but change what is: the order of
 * bidirectional text, line and paragraph separators, zero width.
 */
const UNPRINTABLE = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu;
/** Colours and weights, as a log for people has them. */
const STYLE = new RegExp(`(${String.fromCharCode(27)}\\[[0-9;]*m)`);

/**
 * The text with everything that a terminal would obey or hide written as `\uXXXX`, so that nobody can move
 * the cursor of an operator or dress up what he reads. JSON stays JSON, with the same meaning.
 */
export function printable(text: string): string {
  return text.replaceAll(UNPRINTABLE, escaped);
}

/** The same for text of several lines. */
export function printableLines(text: string): string {
  return text.split('\n').map(printable).join('\n');
}

/** The same for lines that are coloured already; all else that starts with an escape is written out. */
export function printableStyledLines(text: string): string {
  return text
    .split(STYLE)
    .map((part, index) => (index % 2 === 0 ? printableLines(part) : part))
    .join('');
}

/** A character beyond U+FFFF is two code units, as in JSON. */
function escaped(character: string): string {
  const units = Array.from({ length: character.length }, (_, index) => character.charCodeAt(index));
  return units.map((unit) => `\\u${unit.toString(16).padStart(4, '0')}`).join('');
}
