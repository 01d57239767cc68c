import { spawn } from 'node:child_process';
import { Agent, get } from 'node:http';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { folders } from './folders.ts';
import { findProcesses, killAll, markerOf, terminate } from './processes.ts';

const MAIN = join(folders.root, 'src', 'main.ts');
/** The service's own limit is 10 s. */
const STOP_MS_MAX = 15_000;
const READY_MS_MAX = 60_000;
const READY_RESPONSE_MS_MAX = 2_000;
const POLL_MS = 100;
const marker = markerOf(MAIN);

/** The order service as a process of its own. Its output goes to this terminal. */
export type Service = Readonly<{
  /** Resolves to its exit code, or to the signal that ended it. */
  ended: Promise<number | NodeJS.Signals>;
}>;

/**
 * Starts the service in a process group of its own. Otherwise a Ctrl-C in the terminal would reach the service
 * and the servers it still needs at the same time.
 */
export function startService(env: NodeJS.ProcessEnv): Service {
  // The title replaces the command line, so the next start finds a service that outlived this process.
  const child = spawn(process.execPath, [`--title=${marker}`, MAIN], {
    cwd: folders.root,
    env,
    detached: true,
    stdio: ['ignore', 'inherit', 'inherit'],
  });
  const ended = new Promise<number | NodeJS.Signals>((resolve) => {
    child.on('error', () => resolve(1));
    child.on('exit', (code, signal) => resolve(code ?? signal ?? 1));
  });
  return { ended };
}

/** Stops every service of this checkout in an orderly way, including one that a killed start left running. */
export function stopService(): Promise<void> {
  return terminate(marker, STOP_MS_MAX);
}

/** `kill -9` */
export function killService(): Promise<void> {
  return killAll(marker);
}

/** Whether a service of this checkout is running. */
export async function isServiceRunning(): Promise<boolean> {
  return (await findProcesses(marker)).length > 0;
}

/** Waits for `/readyz`. Returns false if that takes too long or the service has ended. */
export async function untilReady(url: string, service: Service): Promise<boolean> {
  const deadline = performance.now() + READY_MS_MAX;
  const hasEnded = service.ended.then(() => true);
  while (performance.now() < deadline) {
    if (await isReady(url)) return true;
    if (await Promise.race([hasEnded, delay(POLL_MS, false)])) return false;
  }
  return false;
}

/** Does not use `fetch`, which may go through a proxy if the environment says so. */
function isReady(url: string): Promise<boolean> {
  return new Promise((resolve) => {
    const signal = AbortSignal.timeout(READY_RESPONSE_MS_MAX);
    const request = get(`${url}/readyz`, { agent: new Agent(), signal }, (response) => {
      response.resume();
      resolve(response.statusCode === 200);
    });
    request.on('error', () => resolve(false));
  });
}
