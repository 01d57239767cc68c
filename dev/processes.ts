import { execFile } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { createHash } from 'node:crypto';
import { readdir, readFile } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import { promisify } from 'node:util';

const POLL_MS = 50;
const STOP_POLL_MS = 2;
const LOG_LINES_SHOWN = 6;

/** The id and the whole command line of a process on this machine. */
export type RunningProcess = Readonly<{ pid: number; command: string }>;

/** A server that works on a folder. It outlives this process unless it is stopped. */
export type LocalServer = Readonly<{
  /** Stops it in an orderly way. */
  stop(): Promise<void>;
  /** `kill -9` of the server and all its children. */
  kill(): Promise<void>;
  /** Starts it again after `stop` or `kill`, with the same data on the same port. */
  start(): Promise<void>;
  /** Sends a signal to the server and all its children. */
  signal(name: NodeJS.Signals): Promise<void>;
}>;

/**
 * A word for the command line of every process that works on a folder. By it the next start finds what a killed
 * start left running, and nothing else.
 */
export function markerOf(folder: string): string {
  return `order-service-${createHash('sha256').update(folder).digest('hex').slice(0, 12)}`;
}

/** The running processes whose command line contains the text, except this process. */
export async function findProcesses(text: string): Promise<RunningProcess[]> {
  const all = process.platform === 'linux' ? await readProc() : await readPs();
  return all.filter(({ pid, command }) => pid !== process.pid && command.includes(text));
}

/** Sends SIGTERM to all that match, and SIGKILL to those that are still there after `withinMs`. */
export async function terminate(text: string, withinMs: number): Promise<void> {
  await signalAll(text, 'SIGTERM');
  const deadline = performance.now() + withinMs;
  while ((await findProcesses(text)).length > 0) {
    if (performance.now() > deadline) return killAll(text);
    await delay(POLL_MS);
  }
}

/** Whether a child process has ended. A child that a signal ended has no exit code. */
export function hasEnded({ exitCode, signalCode }: ChildProcess): boolean {
  return exitCode !== null || signalCode !== null;
}

/** Sends SIGKILL to all that match until none is left: a dying parent may still have forked. */
export async function killAll(text: string): Promise<void> {
  for (;;) {
    const left = await findProcesses(text);
    if (left.length === 0) return;
    for (const { pid } of left) sendSignal(pid, 'SIGKILL');
    await delay(POLL_MS);
  }
}

/** Sends a signal to all that match. After a SIGSTOP it waits until all their threads have stopped. */
export async function signalAll(text: string, signal: NodeJS.Signals): Promise<void> {
  const found = await findProcesses(text);
  for (const { pid } of found) sendSignal(pid, signal);
  if (signal !== 'SIGSTOP') return;
  for (const { pid } of found) {
    while (!(await hasStopped(pid))) await delay(STOP_POLL_MS);
  }
}

/** Sends a signal to a process that may have ended already. */
export function sendSignal(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal);
  } catch (error) {
    if (!hasCode(error, 'ESRCH')) throw error;
  }
}

/** The error for a server that does not start, with the end of its log. */
export async function startError(server: string, logFile: string): Promise<Error> {
  const lines = (await readFile(logFile, 'utf8')).trim().split('\n');
  const end = lines.slice(-LOG_LINES_SHOWN).join('\n');
  return new Error(`${server} did not start (${logFile}):\n${end}`);
}

/** What the program of a failed `execFile` has printed: stderr, then stdout. */
export function outputOf(error: unknown): string {
  if (!(error instanceof Error && 'stdout' in error && 'stderr' in error)) return '';
  return `${String(error.stderr)}\n${String(error.stdout)}`;
}

/** Whether an error of the operating system has this code, for example `ENOENT`. */
export function hasCode(error: unknown, code: string): boolean {
  return error instanceof Error && 'code' in error && error.code === code;
}

async function readProc(): Promise<RunningProcess[]> {
  const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name));
  const found = await Promise.all(
    pids.map(async (pid) => {
      // A process that has ended has no file; a zombie has an empty one.
      const args = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '');
      return { pid: Number(pid), command: args.replaceAll('\0', ' ').trim() };
    }),
  );
  return found.filter(({ command }) => command !== '');
}

/** Whether the process has stopped or ended. Threads stop one after the other. */
async function hasStopped(pid: number): Promise<boolean> {
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
