import { spawn } from 'node:child_process';
import { Agent, get } from 'node:http';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { folders } from './folders.ts';
import { findProcesses, killAll, markerOf, sendSignal, waitUntilGone } from './processes.ts';

const MAIN = join(folders.root, 'src', 'main.ts');
/** The service's own limit is 10 s. */
const STOP_MS_MAX = 15_000;
const READY_MS_MAX = 60_000;
const READY_ANSWER_MS_MAX = 2_000;
const POLL_MS = 100;
const marker = markerOf(MAIN);

/** The order service as a process of its own, its output on this terminal. */
export type Service = Readonly<{
  /** Its exit code, or the signal that ended it, when it has ended. */
  ended: Promise<number | NodeJS.Signals>;
  stop(): Promise<void>;
  kill(): Promise<void>;
}>;

/**
 * Starts the service, in a process group of its own: a Ctrl-C in the terminal would else reach it and
 * what it still needs at the same time.
 */
export function startService(env: NodeJS.ProcessEnv): Service {
  // The title takes the place of its command line: so the next start knows it, should it outlive us.
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
  return { ended, stop: stopService, kill: () => killAll(marker) };
}

/** Ends the service, and one that a killed start left behind, letting it finish what it has begun. */
export async function stopService(): Promise<void> {
  for (const { pid } of await findProcesses(marker)) sendSignal(pid, 'SIGTERM');
  if (!(await waitUntilGone(marker, STOP_MS_MAX))) await killAll(marker);
}

/** Whether a service of this checkout is running. */
export async function isServiceRunning(): Promise<boolean> {
  return (await findProcesses(marker)).length > 0;
}

/** Waits for `/readyz`. Answers false if that took too long or the service has ended. */
export async function untilReady(url: string, service: Service): Promise<boolean> {
  const deadline = performance.now() + READY_MS_MAX;
  const hasEnded = service.ended.then(() => true);
  while (performance.now() < deadline) {
    if (await isReady(url)) return true;
    if (await Promise.race([hasEnded, delay(POLL_MS, false)])) return false;
  }
  return false;
}

/** Not by `fetch`, which may be told by the environment to go through a proxy. */
function isReady(url: string): Promise<boolean> {
  return new Promise((resolve) => {
    const signal = AbortSignal.timeout(READY_ANSWER_MS_MAX);
    const request = get(`${url}/readyz`, { agent: new Agent(), signal }, (response) => {
      response.resume();
      resolve(response.statusCode === 200);
    });
    request.on('error', () => resolve(false));
  });
}
