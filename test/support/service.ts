import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { afterEach } from 'vitest';
import { folders } from '#dev/folders.ts';
import { freePort } from '#dev/ports.ts';
import { createOrderApi } from './order-api.ts';
import type { OrderApi } from './order-api.ts';

const MAIN = fileURLToPath(new URL('../../src/main.ts', import.meta.url));
const READY_MS_MAX = 120_000;
const POLL_MS = 20;
const SHOWN_LINES_MAX = 30;

/**
 * Where Node keeps compiled sources, which it recognises by their content. With them a process of the service
 * starts with about half the work. A process writes them when it ends in an orderly way.
 */
export const COMPILED_SOURCES = { NODE_COMPILE_CACHE: join(folders.cache, 'compiled') };

export type ServiceOptions = Readonly<{
  databaseUrl: string;
  /** No broker if unset: events wait in the outbox. */
  brokers?: readonly string[];
  /** More settings. LOG_LEVEL is `warn` if unset. */
  env?: Readonly<Record<string, string>>;
  /** The entry point of another release. This release if unset. */
  main?: string;
  /** The file descriptor to which it writes its log. If unset, `log` returns the lines. */
  stdout?: number;
  /** Called with each line when it is written. */
  onLine?: (line: string) => void;
}>;

/** How a process ended. */
export type Exit = Readonly<{ code: number | null; signal: string | null; tookMs: number }>;

/** The service as a process of its own, used from outside only. */
export type TestService = AsyncDisposable &
  Readonly<{
    url: string;
    api: OrderApi;
    /** Sends SIGKILL and waits until the process has ended. */
    kill(): Promise<void>;
    /** Sends SIGTERM and waits until the process has ended. */
    terminate(): Promise<Exit>;
    /** Sends another signal, for example SIGSTOP. */
    signal(name: NodeJS.Signals): void;
    /** Waits until the process has ended. */
    ended(): Promise<Exit>;
    /** Starts it again on the same port after `kill` or `terminate`, and waits until it is ready. */
    restart(): Promise<void>;
    /** Every line written since the first start. */
    log(): readonly string[];
  }>;

const startedInThisTest = new Set<TestService>();

// The log of a service may explain the failure of its test.
afterEach(({ task }) => {
  if (task.result?.state === 'fail') {
    for (const { url, log } of startedInThisTest) {
      console.log(`log of the service at ${url}:\n${log().slice(-SHOWN_LINES_MAX).join('\n')}`);
    }
  }
  startedInThisTest.clear();
});

/**
 * Starts the service on a free port and waits until it is ready. `await using` kills it.
 * @throws an Error with its exit code and its log if it ends before it is ready
 */
export async function startService(options: ServiceOptions): Promise<TestService> {
  const lines: string[] = [];
  const port = await freePort();
  const url = `http://127.0.0.1:${port}`;
  const api = createOrderApi(url);
  let running = run(options, port, lines);
  const service: TestService = {
    url,
    api,
    kill: () => running.kill(),
    terminate: () => running.terminate(),
    signal: (name) => void running.child.kill(name),
    ended: () => running.ended,
    restart: async () => {
      running = run(options, port, lines);
      await untilReady(api, running, lines);
    },
    log: () => lines,
    [Symbol.asyncDispose]: async () => {
      api.close();
      await running.kill();
    },
  };
  startedInThisTest.add(service);
  await untilReady(api, running, lines);
  return service;
}

type Running = ReturnType<typeof run>;

function run(
  { databaseUrl, brokers = [], env, main = MAIN, stdout, onLine }: ServiceOptions,
  port: number,
  lines: string[],
) {
  const child = spawn(process.execPath, ['--disable-warning=FSTDEP023', main], {
    env: {
      PATH: process.env['PATH'],
      ...COMPILED_SOURCES,
      HOST: '127.0.0.1',
      AUTH: 'off',
      PORT: String(port),
      DATABASE_URL: databaseUrl,
      KAFKA_BROKERS: brokers.join(','),
      LOG_LEVEL: 'warn',
      ...env,
    },
    stdio: ['ignore', stdout ?? 'pipe', 'pipe'],
  });
  for (const output of [child.stdout, child.stderr]) {
    if (!output) continue;
    createInterface(output).on('line', (line) => {
      lines.push(line);
      onLine?.(line);
    });
  }
  let asked = performance.now();
  const ended = new Promise<Exit>((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (code, signal) =>
      resolve({ code, signal, tookMs: performance.now() - asked }),
    );
  });
  const send = (name: NodeJS.Signals) => {
    asked = performance.now();
    child.kill(name);
    return ended;
  };
  return {
    child,
    ended,
    kill: async () => void (await send('SIGKILL')),
    terminate: () => send('SIGTERM'),
  };
}

async function untilReady(api: OrderApi, { ended, kill }: Running, lines: string[]) {
  const deadline = performance.now() + READY_MS_MAX;
  const written = () => lines.slice(-SHOWN_LINES_MAX).join('\n');
  for (;;) {
    const state = await Promise.race([
      ended,
      api.request('GET', '/readyz').then(
        ({ status }) => (status === 200 ? 'ready' : 'waiting'),
        () => 'waiting',
      ),
    ]);
    if (state === 'ready') return;
    if (typeof state === 'object') {
      throw new Error(`the service ended with exit code ${state.code} at start:\n${written()}`);
    }
    if (performance.now() > deadline) {
      await kill();
      throw new Error(`the service was not ready within ${READY_MS_MAX} ms:\n${written()}`);
    }
    await delay(POLL_MS);
  }
}
