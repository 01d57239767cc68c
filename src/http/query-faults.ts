import { pointerTo } from './field-errors.ts';
import type { FieldError } from './problem.ts';

/**
 * Finds query parameters whose percent encoding is not one of UTF-8. The parser would take them for
 * literal text, so that one value had two spellings.
 */
export function queryFaults(url: string): FieldError[] {
  const start = url.indexOf('?');
  if (start === -1 || !url.includes('%', start)) return [];
  return url
    .slice(start + 1)
    .split('&')
    .flatMap((parameter) => {
      const [name = '', ...value] = parameter.split('=');
      const isReadable = isEncoded(name);
      if (isReadable && isEncoded(value.join('='))) return [];
      const path = isReadable ? [decodeURIComponent(name)] : [];
      return [
        { pointer: pointerTo('query', path), message: 'has a percent encoding that is not UTF-8' },
      ];
    });
}

function isEncoded(text: string): boolean {
  try {
    decodeURIComponent(text);
    return true;
  } catch {
    return false;
  }
}
