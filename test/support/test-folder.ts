import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { inject } from 'vitest';
import { killAll, markerOf } from '#dev/processes.ts';
import { runFolder } from './test-runs.ts';

/** A folder of the test's own; `await using` deletes it, and ends the server that works on it. */
export async function createTestFolder(
  prefix: string,
): Promise<AsyncDisposable & Readonly<{ path: string }>> {
  const parent = runFolder(inject('infra').run);
  await mkdir(parent, { recursive: true });
  const path = await mkdtemp(join(parent, prefix));
  return {
    path,
    [Symbol.asyncDispose]: async () => {
      await killAll(markerOf(path));
      await rm(path, { recursive: true, force: true });
    },
  };
}
