/** @returns the index after the string that starts at `start`, in valid JSON */
export function endOfString(text: string, start: number): number {
  let at = start + 1;
  let code = text.charCodeAt(at);
  while (code !== 0x22) {
    at += code === 0x5c ? 2 : 1;
    code = text.charCodeAt(at);
  }
  return at + 1;
}

/** @returns the index after the number that starts at `start`, in valid JSON */
export function endOfNumber(text: string, start: number): number {
  let at = start + 1;
  while (isInNumber(text.charCodeAt(at))) at += 1;
  return at;
}

/** Whether a value of JSON that starts with this character is a number. */
export function startsNumber(code: number): boolean {
  return (code >= 0x30 && code <= 0x39) || code === 0x2d;
}

/** A digit, a point, a sign, e or E. */
function isInNumber(code: number): boolean {
  return startsNumber(code) || code === 0x2e || code === 0x2b || code === 0x65 || code === 0x45;
}
