import { readdir, readFile, rm, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { cachedFolder } from '#dev/cached-folder.ts';
import { createTestFolder } from '#test/support/test-folder.ts';

describe('a cached folder', () => {
  test('is made once', async () => {
    await using parent = await createTestFolder('cache-');
    const made = createFolder(join(parent.path, 'it'));
    await made.get();
    await made.get();
    expect(made.fills()).toBe(1);
    expect(await readFile(join(made.path, 'b'), 'utf8')).toBe('content');
  });

  test('is made again when a file is gone or has lost its content', async () => {
    await using parent = await createTestFolder('cache-');
    const made = createFolder(join(parent.path, 'it'));
    await made.get();
    await rm(join(made.path, 'a'));
    await made.get();
    expect(await readFile(join(made.path, 'a'), 'utf8')).toBe('content');
    await truncate(join(made.path, 'b'));
    await made.get();
    expect(await readFile(join(made.path, 'b'), 'utf8')).toBe('content');
    expect(made.fills()).toBe(3);
    expect(await readdir(parent.path)).toEqual(['it']);
  });

  test('is never half there, and leaves nothing behind when it could not be made', async () => {
    await using parent = await createTestFolder('cache-');
    const path = join(parent.path, 'it');
    const failing = cachedFolder(path, async (unfinished) => {
      await writeFile(join(unfinished, 'a'), 'half');
      throw new Error('cut off');
    });
    await expect(failing).rejects.toThrow('cut off');
    expect(await readdir(parent.path)).toEqual([]);
  });
});

function createFolder(path: string) {
  let count = 0;
  return {
    path,
    fills: () => count,
    get: () =>
      cachedFolder(path, async (unfinished) => {
        count += 1;
        await writeFile(join(unfinished, 'a'), 'content');
        await writeFile(join(unfinished, 'b'), 'content');
      }),
  };
}
