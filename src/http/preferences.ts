import type { IncomingHttpHeaders } from 'node:http';

/** One that does not end reaches to the end of the header, so that no character is read twice. */
const QUOTED = /"((?:[^"\\]|\\.)*)("|\\?$)/g;
const TOKEN = /^[\w.-]*$/;

/**
 * Whether the caller prefers a response without a body, `Prefer: return=minimal` (RFC 7240). The first `return`
 * counts. Every other preference is ignored.
 */
export function prefersMinimal({ prefer }: IncomingHttpHeaders): boolean {
  if (typeof prefer !== 'string') return false;
  const unquoted = prefer.replaceAll(QUOTED, (_, text: string, end: string) =>
    end === '"' && TOKEN.test(text) ? text : '_',
  );
  const preferences = unquoted.split(',').map((preference) => {
    const [name = '', value = ''] = (preference.split(';')[0] ?? '').toLowerCase().split('=');
    return { name: name.trim(), value: value.trim() };
  });
  return preferences.find(({ name }) => name === 'return')?.value === 'minimal';
}
