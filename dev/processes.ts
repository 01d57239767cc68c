import { execFile } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { createHash } from 'node:crypto';
import { readdir, readFile } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import { promisify } from 'node:util';

const POLL_MS = 50;
const STOP_POLL_MS = 2;

/** A process of this machine: its id and its whole command line. */
export type RunningProcess = Readonly<{ pid: number; command: string }>;

/**
 * A word for the command line of what works on a folder. It outlives the process that started it,
 * so that the next start can find what a killed one left running, and never takes another's.
 */
export function markerOf(folder: string): string {
  return `order-service-${createHash('sha256').update(folder).digest('hex').slice(0, 12)}`;
}

/** The running processes whose command line contains the text, without this one. */
export async function findProcesses(text: string): Promise<RunningProcess[]> {
  const all = process.platform === 'linux' ? await readProc() : await readPs();
  return all.filter(({ pid, command }) => pid !== process.pid && command.includes(text));
}

/** Waits until no process matches the text. Answers whether that came true in time. */
export async function waitUntilGone(text: string, withinMs: number): Promise<boolean> {
  const deadline = performance.now() + withinMs;
  while ((await findProcesses(text)).length > 0) {
    if (performance.now() > deadline) return false;
    await delay(POLL_MS);
  }
  return true;
}

/** Whether a child is gone. One that a signal ended has no exit code. */
export function hasEnded({ exitCode, signalCode }: ChildProcess): boolean {
  return exitCode !== null || signalCode !== null;
}

/** Sends SIGKILL to all that match, as often as it takes: a dying parent may still have forked. */
export async function killAll(text: string): Promise<void> {
  for (;;) {
    const left = await findProcesses(text);
    if (left.length === 0) return;
    for (const { pid } of left) sendSignal(pid, 'SIGKILL');
    await delay(POLL_MS);
  }
}

/** Sends a signal to all that match. After a SIGSTOP it waits until every thread of them stands still. */
export async function signalAll(text: string, signal: NodeJS.Signals): Promise<void> {
  const found = await findProcesses(text);
  for (const { pid } of found) sendSignal(pid, signal);
  if (signal !== 'SIGSTOP') return;
  for (const { pid } of found) {
    while (!(await standsStill(pid))) await delay(STOP_POLL_MS);
  }
}

/** Sends a signal to a process that may be gone already. */
export function sendSignal(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal);
  } catch (error) {
    if (!hasCode(error, 'ESRCH')) throw error;
  }
}

/** Whether an error of the system carries this code, as `ENOENT`. */
export function hasCode(error: unknown, code: string): boolean {
  return error instanceof Error && 'code' in error && error.code === code;
}

async function readProc(): Promise<RunningProcess[]> {
  const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name));
  const found = await Promise.all(
    pids.map(async (pid) => {
      // One that ended meanwhile has no file; one that only waits for its parent has an empty one.
      const args = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '');
      return { pid: Number(pid), command: args.replaceAll('\0', ' ').trim() };
    }),
  );
  return found.filter(({ command }) => command !== '');
}

/** Or is gone. A signal is taken by one thread after the other, and meanwhile the rest go on. */
async function standsStill(pid: number): Promise<boolean> {
  if (process.platform !== 'linux') {
    const { stdout } = await promisify(execFile)('ps', ['-o', 'stat=', '-p', String(pid)]).catch(
      () => ({ stdout: '' }),
    );
    return stdout === '' || stdout.startsWith('T');
  }
  const threads = await readdir(`/proc/${pid}/task`).catch(() => []);
  const states = await Promise.all(
    threads.map(async (thread) => {
      const stat = await readFile(`/proc/${pid}/task/${thread}/stat`, 'utf8').catch(() => ') X');
      return stat.charAt(stat.lastIndexOf(')') + 2);
    }),
  );
  return states.every((state) => 'TZX'.includes(state));
}

async function readPs(): Promise<RunningProcess[]> {
  const { stdout } = await promisify(execFile)('ps', ['-A', '-ww', '-o', 'pid=,stat=,args=']);
  return stdout.split('\n').flatMap((line) => {
    const [, pid, state, command] = /^\s*(\d+)\s+(\S+)\s+(.*)$/.exec(line) ?? [];
    return pid && command && !state?.startsWith('Z') ? [{ pid: Number(pid), command }] : [];
  });
}
