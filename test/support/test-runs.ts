import { execFile } from 'node:child_process';
import { readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { killAll, markerOf } from '#dev/processes.ts';
import type { InfraMode } from './infra.ts';

const run = promisify(execFile);
const FOLDER_PREFIX = 'order-service-test-';
/** Every container of a run carries it. */
export const RUN_LABEL = 'order-service.test-run';

/** A run goes by the process id of its vitest. */
export const thisRun = String(process.pid);

/** Where a run keeps the data of embedded servers, a folder each. */
export function runFolder(run: string): string {
  return join(tmpdir(), `${FOLDER_PREFIX}${run}`);
}

/** Ends all servers of this run, and of runs that were killed before they could. */
export async function removeRuns(mode: InfraMode, which: 'this' | 'killed'): Promise<void> {
  const isWanted = (run: string) => (which === 'this' ? run === thisRun : !isAlive(Number(run)));
  if (mode === 'docker') await removeContainers(isWanted);
  await removeFolders(isWanted); // the tests of dev/ start embedded servers in any mode
}

async function removeContainers(isWanted: (run: string) => boolean): Promise<void> {
  const format = `{{.ID}} {{.Label "${RUN_LABEL}"}}`;
  const filter = `label=${RUN_LABEL}`;
  const { stdout } = await run('docker', ['ps', '-a', '--filter', filter, '--format', format]);
  const ids = stdout.split('\n').flatMap((line) => {
    const [id, run] = line.split(' ');
    return id && run && isWanted(run) ? [id] : [];
  });
  if (ids.length > 0) await run('docker', ['rm', '--force', '--volumes', ...ids]);
}

async function removeFolders(isWanted: (run: string) => boolean): Promise<void> {
  const runs = (await readdir(tmpdir()))
    .filter((name) => name.startsWith(FOLDER_PREFIX))
    .map((name) => name.slice(FOLDER_PREFIX.length));
  for (const run of runs.filter(isWanted)) {
    const servers = await readdir(runFolder(run));
    await Promise.all(servers.map((server) => killAll(markerOf(join(runFolder(run), server)))));
    await rm(runFolder(run), { recursive: true, force: true });
  }
}

function isAlive(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch {
    return false;
  }
}
