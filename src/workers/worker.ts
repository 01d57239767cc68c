import { setImmediate } from 'node:timers/promises';
import type { Logger } from 'pino';

/** The wait after a failure: random, below a bound that doubles from `baseMs` up to `maxMs`. */
export type Backoff = Readonly<{ baseMs: number; maxMs: number }>;

/** What a worker does repeatedly, and how long it waits in between. */
export type WorkerOptions = Readonly<{
  name: string;
  /** One bounded piece of work. Resolves to how much it did; after 0 the worker waits. */
  tick: (signal: AbortSignal) => Promise<number>;
  /** Longest wait after a tick that found nothing to do. */
  idleMs: number;
  errorBackoff: Backoff;
  log: Pick<Logger, 'info' | 'error'>;
}>;

export type Worker = Readonly<{
  /** Starts the loop; a second call does nothing. */
  start(): void;
  /** Ends the current idle wait, or else the next one. It does not shorten a wait after a failure. */
  wake(): void;
  /** Aborts the signal, waits for the running tick and ends the loop for good. */
  stop(): Promise<void>;
  /** Why the last tick failed; undefined after one that succeeded. */
  lastError(): string | undefined;
}>;

/** The loop of all background work. It never runs two ticks at once, and `stop` ends it. */
export function createWorker(options: WorkerOptions): Worker {
  const { name, tick, idleMs, errorBackoff, log } = options;
  const stopping = new AbortController();
  const { signal } = stopping;
  const wait = createWait(signal);
  let failures = 0;
  let lastError: string | undefined;
  let running: Promise<void> | undefined;

  const run = async () => {
    while (!signal.aborted) {
      try {
        const done = await tick(signal);
        if (failures > 0 && !signal.aborted)
          log.info({ worker: name, failures }, 'worker recovered');
        failures = 0;
        lastError = undefined;
        if (done === 0) await wait.untilWokenOr(idleMs);
        else await setImmediate(); // lets I/O run between two ticks
      } catch (error) {
        if (signal.aborted) return;
        failures += 1;
        lastError = String(error);
        if (failures === 1) log.error({ worker: name, err: error }, 'worker failed, retrying');
        await wait.full(fullJitterMs(failures, errorBackoff));
      }
    }
  };

  return {
    start: () => {
      running ??= run();
    },
    wake: wait.wake,
    stop: async () => {
      stopping.abort();
      await running;
    },
    lastError: () => lastError,
  };
}

/** A random wait before a retry, so that many processes do not retry at the same moment. */
export function fullJitterMs(failures: number, { baseMs, maxMs }: Backoff): number {
  return Math.random() * Math.min(maxMs, baseMs * 2 ** Math.min(failures - 1, 30));
}

/** Settles as `work` does, or as `onTimeout` says after `timeoutMs`. It does not end `work`. */
export function withDeadline<T>(
  work: Promise<T>,
  timeoutMs: number,
  onTimeout: () => T | Promise<T>,
): Promise<T> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => resolve(onTimeout()), timeoutMs);
    work.then(resolve, reject).finally(() => clearTimeout(timer));
  });
}

/** Waits that end on stop. An idle wait also ends on a wake, even one that came before it. */
function createWait(stopping: AbortSignal) {
  let woken = false;
  let endIdleWait: (() => void) | undefined;

  const full = (ms: number, register?: (end: () => void) => void) =>
    new Promise<void>((resolve) => {
      if (stopping.aborted) return resolve();
      const end = () => {
        clearTimeout(timer);
        stopping.removeEventListener('abort', end);
        resolve();
      };
      const timer = setTimeout(end, ms);
      stopping.addEventListener('abort', end);
      register?.(end);
    });

  return {
    full: (ms: number) => full(ms),
    wake: () => {
      woken = true;
      endIdleWait?.();
    },
    untilWokenOr: async (ms: number) => {
      if (!woken) {
        await full(ms, (end) => {
          endIdleWait = end;
        });
      }
      endIdleWait = undefined;
      woken = false;
    },
  };
}
