import { randomBytes } from 'node:crypto';

/** Texts that occur nowhere else, by the place where they are planted. */
export type Canaries = Readonly<{
  /** The text for this place: letters and digits, and the same one each time. */
  at(place: string): string;
  /** The places whose texts occur in `haystack`, as they are or encoded. */
  foundIn(haystack: string): string[];
}>;

/** Makes canaries. `known` are secrets that were not made here. */
export function createCanaries(known: Readonly<Record<string, string>> = {}): Canaries {
  const texts = new Map(Object.entries(known));
  return {
    at: (place) => {
      const text = texts.get(place) ?? `canary${randomBytes(12).toString('hex')}`;
      texts.set(place, text);
      return text;
    },
    foundIn: (haystack) => {
      const searched = haystack.toLowerCase();
      return [...texts]
        .filter(([, text]) => formsOf(text).some((form) => searched.includes(form.toLowerCase())))
        .map(([place]) => place);
    },
  };
}

/** In base64 a text looks different at each of three offsets. What depends on its neighbours is left out. */
function formsOf(text: string): string[] {
  const encoded = [0, 1, 2].map((offset) => {
    const base64 = Buffer.from('x'.repeat(offset) + text).toString('base64url');
    return base64.slice(offset === 0 ? 0 : 4, -4);
  });
  return [text, encodeURIComponent(text), Buffer.from(text).toString('hex'), ...encoded];
}
