import { rm } from 'node:fs/promises';
import { inject } from 'vitest';
import { killAll, markerOf } from '#dev/processes.ts';
import { serverFolder } from './test-servers.ts';

/** A folder of the test's own. `await using` deletes it, and kills the server that works on it. */
export async function createTestFolder(
  prefix: string,
): Promise<AsyncDisposable & Readonly<{ path: string }>> {
  const path = await serverFolder(inject('infra').run, prefix);
  return {
    path,
    [Symbol.asyncDispose]: async () => {
      await killAll(markerOf(path));
      await rm(path, { recursive: true, force: true });
    },
  };
}
