import { setImmediate } from 'node:timers/promises';
import type { Logger } from 'pino';

/** The wait after a failure: random, below a bound that doubles from `baseMs` up to `maxMs`. */
export type Backoff = Readonly<{ baseMs: number; maxMs: number }>;

/** What a worker does repeatedly, and how long it waits in between. */
export type WorkerOptions = Readonly<{
  name: string;
  /** One bounded piece of work. If it resolves to more than 0, the worker does not wait. */
  tick: (signal: AbortSignal) => Promise<number | void>;
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
  let running: Promise<void> | undefined;
  let failures = 0;
  let lastError: string | undefined;
  let isIdle = false;
  /** A wake that came before the idle wait ends it at once. */
  let isWoken = false;
  let endWait: (() => void) | undefined;

  const wait = async (ms: number) => {
    if (signal.aborted) return;
    const { promise, resolve } = Promise.withResolvers<void>();
    const timer = setTimeout(resolve, ms);
    endWait = resolve;
    await promise;
    clearTimeout(timer);
  };

  const waitIdle = async () => {
    isIdle = true;
    if (!isWoken) await wait(idleMs);
    isIdle = false;
    isWoken = false;
  };

  const run = async () => {
    while (!signal.aborted) {
      try {
        const done = await tick(signal);
        if (failures > 0 && !signal.aborted)
          log.info({ worker: name, failures }, 'worker recovered');
        failures = 0;
        lastError = undefined;
        if (done) await setImmediate(); // lets I/O run between two ticks
        else await waitIdle();
      } catch (error) {
        if (signal.aborted) return;
        failures += 1;
        lastError = String(error);
        if (failures === 1) log.error({ worker: name, err: error }, 'worker failed, retrying');
        await wait(fullJitterMs(failures, errorBackoff));
      }
    }
  };

  return {
    start: () => {
      running ??= run();
    },
    wake: () => {
      isWoken = true;
      if (isIdle) endWait?.();
    },
    stop: async () => {
      stopping.abort();
      endWait?.();
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
