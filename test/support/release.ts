import { execFile } from 'node:child_process';
import { cp, readFile, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { createTestFolder } from './test-folder.ts';

const ROOT = fileURLToPath(new URL('../../', import.meta.url));

/** The code of another release of the service. `await using` deletes it. */
export type Release = AsyncDisposable & Readonly<{ main: string }>;

/** How a release differs from this one. */
export type ReleaseChanges = Readonly<{
  /** By path: texts of this release, and their replacements. */
  edits?: Readonly<Record<string, readonly (readonly [from: string, to: string])[]>>;
  /** By path: additional files. */
  files?: Readonly<Record<string, string>>;
}>;

/**
 * The code of an earlier release, with the packages of this one. It is kept as an archive, so that a checkout without
 * its commit, or without git, runs it too: `git archive --format=tar.gz -o test/fixtures/release-<commit>.tar.gz
 * <commit> src migrations package.json`.
 */
export async function unpackRelease(commit: string): Promise<Release> {
  const folder = await createTestFolder('release-');
  const archive = join(ROOT, 'test/fixtures', `release-${commit}.tar.gz`);
  await promisify(execFile)('tar', ['-xzf', archive, '-C', folder.path]);
  await symlink(join(ROOT, 'node_modules'), join(folder.path, 'node_modules'));
  return {
    main: join(folder.path, 'src/main.ts'),
    [Symbol.asyncDispose]: folder[Symbol.asyncDispose],
  };
}

/** Copies this release and changes it. @throws an Error if a text to replace is missing */
export async function makeRelease({ edits = {}, files = {} }: ReleaseChanges): Promise<Release> {
  const folder = await createTestFolder('release-');
  const at = (path: string) => join(folder.path, path);
  for (const path of ['src', 'migrations', 'package.json']) {
    await cp(join(ROOT, path), at(path), { recursive: true });
  }
  await symlink(join(ROOT, 'node_modules'), at('node_modules'));
  for (const [path, replacements] of Object.entries(edits)) {
    let text = await readFile(at(path), 'utf8');
    for (const [from, to] of replacements) {
      if (!text.includes(from)) throw new Error(`${path} does not contain ${from}`);
      text = text.replace(from, () => to);
    }
    await writeFile(at(path), text);
  }
  for (const [path, text] of Object.entries(files)) await writeFile(at(path), text);
  return { main: at('src/main.ts'), [Symbol.asyncDispose]: folder[Symbol.asyncDispose] };
}
