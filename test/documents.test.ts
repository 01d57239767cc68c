import { globSync, readFileSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';

const ROOT = fileURLToPath(new URL('..', import.meta.url));

/** A path of this repository in backticks, such as `src/app.ts`; a glob is allowed. */
const PATH = /`((?:src|test|dev|bench|docs|migrations|examples)\/[\w./*-]*)`/g;
const LINK = /\]\(([^)#:]+)(?:#([\w-]+))?\)|\]\(#([\w-]+)\)/g;

type Page = Readonly<{ path: string; text: string }>;

/** Every path, link and anchor of a page that leads nowhere. */
function brokenReferences({ path, text }: Page): string[] {
  const paths = [...text.matchAll(PATH)].map(([, target = '']) => target);
  const missing = paths.filter((target) => globSync(target, { cwd: ROOT }).length === 0);
  const broken = [...text.matchAll(LINK)].flatMap(([, target, anchor, own]) => {
    const file = target === undefined ? path : resolve(ROOT, dirname(path), target);
    const [found] = globSync(file, { cwd: ROOT });
    if (found === undefined) return [target ?? path];
    const heading = anchor ?? own;
    if (heading === undefined) return [];
    const page = target === undefined ? text : readFileSync(resolve(ROOT, found), 'utf8');
    return anchorsOf(page).includes(heading) ? [] : [`${target ?? ''}#${heading}`];
  });
  return [...missing, ...broken];
}

/** The anchors of the headings, as GitHub makes them. */
function anchorsOf(text: string): string[] {
  return [...text.matchAll(/^#+ (.*)$/gm)].map(([, heading = '']) =>
    heading
      .toLowerCase()
      .replaceAll(/[^\w\s-]/g, '')
      .replaceAll(' ', '-'),
  );
}

const pages = globSync('{*.md,docs/**/*.md,bench/*.md}', { cwd: ROOT }).map((path) => ({
  path,
  text: readFileSync(resolve(ROOT, path), 'utf8'),
}));

describe('the documents', () => {
  test.each(pages)('name files, links and headings that exist: $path', (page) => {
    expect(brokenReferences(page)).toEqual([]);
  });

  test('would be caught by this guard if they did not', () => {
    const text =
      'See `src/no-such-file.ts`, [a page](docs/no-such-page.md), [here](#no-such-heading) and `src/app.ts`.';
    expect(brokenReferences({ path: 'README.md', text })).toEqual([
      'src/no-such-file.ts',
      'docs/no-such-page.md',
      '#no-such-heading',
    ]);
  });
});
