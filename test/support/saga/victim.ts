import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { COMPILED_SOURCES } from '#test/support/service.ts';
import type { SagaPoint } from './points.ts';
import { createSagaApi } from './api.ts';
import type { SagaApi } from './api.ts';
import type { SagaWorld } from './world.ts';

const PROCESS = fileURLToPath(new URL('victim-process.ts', import.meta.url));

/** A replica that kills itself at a point of any of its sagas. */
export type Victim = AsyncDisposable &
  Readonly<{
    /** Of no use before `started`. */
    api: SagaApi | undefined;
    /** How it ended. */
    ended: Promise<{ code: number | null; signal: string | null }>;
    /** What it wrote of errors. */
    said(): string;
  }>;

/**
 * Starts a replica that dies where it passes the point; without one it lives. Resolves once it serves, or is
 * dead already: it may have met the point in what others left behind.
 */
export async function startVictim(
  { database, env }: Pick<SagaWorld, 'database' | 'env'>,
  point: SagaPoint | undefined,
  settings: Readonly<Record<string, string>> = {},
): Promise<Victim> {
  const child = spawn(process.execPath, ['--disable-warning=FSTDEP023', PROCESS], {
    env: {
      PATH: process.env['PATH'],
      ...COMPILED_SOURCES,
      HOST: '127.0.0.1',
      AUTH: 'off',
      PORT: '0',
      RELAY: 'off',
      DATABASE_URL: database.url,
      ...env,
      ...settings,
      ...(point !== undefined && { CRASH_POINT: point }),
    },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let said = '';
  child.stderr.on('data', (chunk: Buffer) => {
    said += chunk.toString();
  });
  const ended = once(child, 'close').then(([code, signal]: unknown[]) => ({
    code: typeof code === 'number' ? code : null,
    signal: typeof signal === 'string' ? signal : null,
  }));
  const lines = createInterface(child.stdout);
  const first = await Promise.race([
    once(lines, 'line').then(([line]: unknown[]) => String(line)),
    ended.then(() => undefined),
  ]);
  const api = first === undefined ? undefined : createSagaApi(first);
  return {
    api,
    ended,
    said: () => said,
    [Symbol.asyncDispose]: async () => {
      api?.close();
      child.kill('SIGKILL');
      await ended;
    },
  };
}
