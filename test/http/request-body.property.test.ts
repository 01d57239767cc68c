import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { parseJsonBody } from '#src/http/request-body.ts';
import { Problem } from '#src/http/problem.ts';

/** JSON as a tree that can hold a name twice, which a JavaScript object cannot. */
type Tree =
  | { kind: 'plain'; text: string }
  | { kind: 'list'; items: Tree[] }
  | { kind: 'object'; members: [string, Tree][] };

const name = fc.oneof(
  fc.constantFrom('a', 'b', 'a:b', '"', '\\', '{', '1', ''),
  fc.string({ maxLength: 5 }),
);
const plain = fc
  .oneof(
    fc.constantFrom('true', 'false', 'null', '0', '-1.5', '12e1', '""', '"a:1,\\"b\\":2"'),
    fc
      .string({ unit: 'grapheme', maxLength: 8 })
      .map((text) => JSON.stringify(text.replaceAll('\0', ''))),
    fc.integer().map(String),
  )
  .map((text): Tree => ({ kind: 'plain', text }));

const { tree } = fc.letrec<{ tree: Tree }>((tie) => ({
  tree: fc.oneof(
    { maxDepth: 5 },
    plain,
    fc.array(tie('tree'), { maxLength: 4 }).map((items): Tree => ({ kind: 'list', items })),
    fc
      .array(fc.tuple(name, tie('tree')), { maxLength: 4 })
      .map((members): Tree => ({ kind: 'object', members })),
  ),
}));

function write(node: Tree, gap: string): string {
  switch (node.kind) {
    case 'plain':
      return node.text;
    case 'list':
      return `[${gap}${node.items.map((item) => write(item, gap)).join(`,${gap}`)}${gap}]`;
    case 'object':
      return `{${gap}${node.members
        .map(([of, member]) => `${JSON.stringify(of)}${gap}:${gap}${write(member, gap)}`)
        .join(`,${gap}`)}${gap}}`;
  }
}

/** The slow reference: pointers of duplicate or escaped names, in the order of the text. */
function faulty(node: Tree, path: string): string[] {
  switch (node.kind) {
    case 'plain':
      return [];
    case 'list':
      return node.items.flatMap((item, index) => faulty(item, `${path}/${index}`));
    case 'object':
      return node.members.flatMap(([of, member], index) => {
        const pointer = `${path}/${of.replaceAll('~', '~0').replaceAll('/', '~1')}`;
        const isDuplicate = node.members.slice(0, index).some(([earlier]) => earlier === of);
        const isEscaped = JSON.stringify(of).includes('\\');
        return [...(isDuplicate || isEscaped ? [pointer] : []), ...faulty(member, pointer)];
      });
  }
}

function namesIn(value: unknown): string[] {
  if (typeof value !== 'object' || value === null) return [];
  const inner = Object.values(value).flatMap(namesIn);
  return Array.isArray(value) ? inner : [...Object.keys(value), ...inner];
}

function isPlainName(of: string): boolean {
  return JSON.stringify(of) === `"${of}"` && of !== '__proto__' && of !== 'constructor';
}

const gap = fc.constantFrom('', ' ', '\n\t');

type Outcome = Readonly<{ value: unknown } | { refused: readonly string[] }>;

/** What became of a body; anything but a Problem is let through. */
function outcome(body: Buffer): Outcome {
  try {
    return { value: parseJsonBody(body) };
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    return { refused: (error.details.errors ?? []).map(({ pointer }) => pointer) };
  }
}

describe('parsing a body', () => {
  test('reports exactly the names that a slow walk of the tree reports', () => {
    fc.assert(
      fc.property(tree, gap, (node, between) => {
        const refused = faulty(node, '');
        const result = outcome(Buffer.from(write(node, between)));
        expect('refused' in result ? result.refused : []).toStrictEqual(refused);
      }),
      { numRuns: 3000 },
    );
  });

  test('gives what JSON.parse gives for what JSON.stringify wrote', () => {
    const value = fc.jsonValue({ maxDepth: 5, stringUnit: 'grapheme' });
    fc.assert(
      fc.property(value, gap, (of, between) => {
        const text = JSON.stringify(of, undefined, between);
        fc.pre(!text.includes('\\u0000') && namesIn(of).every(isPlainName));
        expect(outcome(Buffer.from(text))).toStrictEqual({ value: JSON.parse(text) });
      }),
      { numRuns: 2000 },
    );
  });

  test('keeps every safe integer', () => {
    fc.assert(
      fc.property(fc.maxSafeInteger(), (value) => {
        expect(outcome(Buffer.from(String(value)))).toStrictEqual({ value: Number(String(value)) });
      }),
    );
  });

  test('refuses a larger one that would be read as another', () => {
    fc.assert(
      fc.property(fc.bigInt({ min: 2n ** 53n, max: 2n ** 62n }), (value) => {
        const isKept = String(Number(value)) === String(value);
        expect(outcome(Buffer.from(String(value)))).toStrictEqual(
          isKept ? { value: Number(value) } : { refused: [''] },
        );
      }),
    );
  });

  test('fails only with a Problem', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 60 }), (bytes) => {
        expect(() => outcome(Buffer.from(bytes))).not.toThrow();
      }),
    );
  });
});
