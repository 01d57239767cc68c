import { existsSync } from 'node:fs';
import { mkdir, readdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';

/** Lists every file with its size in bytes. It is written last. */
const STAMP = '.files.json';
const stampSchema = z.record(z.string(), z.number());

/**
 * Creates the folder if it is missing or incomplete. It is complete if every file that it had when it was
 * created exists with the same size. It is filled under another name and renamed, so no process sees half of it.
 * @param fill writes the content into the given folder
 * @throws what `fill` throws
 */
export async function cachedFolder(
  folder: string,
  fill: (unfinished: string) => Promise<void>,
): Promise<void> {
  if (await isComplete(folder)) return;
  const unfinished = `${folder}.${process.pid}`;
  await rm(unfinished, { recursive: true, force: true });
  await mkdir(unfinished, { recursive: true });
  try {
    await fill(unfinished);
    await writeFile(join(unfinished, STAMP), JSON.stringify(await sizesOf(unfinished)));
    await replace(folder, unfinished);
  } catch (error) {
    if (!(await isComplete(folder))) throw error; // otherwise another process was faster
  } finally {
    await rm(unfinished, { recursive: true, force: true });
  }
}

async function replace(folder: string, unfinished: string): Promise<void> {
  const broken = `${unfinished}.broken`;
  if (existsSync(folder)) await rename(folder, broken);
  await rename(unfinished, folder);
  await rm(broken, { recursive: true, force: true });
}

async function isComplete(folder: string): Promise<boolean> {
  try {
    const stamp = stampSchema.parse(JSON.parse(await readFile(join(folder, STAMP), 'utf8')));
    const sizes = await sizesOf(folder);
    return Object.entries(stamp).every(([path, size]) => sizes[path] === size);
  } catch {
    return false;
  }
}

async function sizesOf(folder: string): Promise<Record<string, number>> {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true });
  const files = entries.filter((entry) => entry.isFile());
  const sizes = files.map(async ({ parentPath, name }) => {
    const path = join(parentPath, name);
    return [path.slice(folder.length), (await stat(path)).size] as const;
  });
  return Object.fromEntries(await Promise.all(sizes));
}
