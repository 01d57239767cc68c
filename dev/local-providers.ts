import { fork } from 'node:child_process';
import { join } from 'node:path';
import { z } from 'zod';
import { serverEnvironment } from './environment.ts';
import { folders } from './folders.ts';

const started = z.object({ url: z.string() });

/** The simulator of the payment and the shipping provider, as a process of its own. */
export type LocalProviders = Readonly<{
  url: string;
  stop(): Promise<void>;
}>;

/**
 * Starts it on a free port, its ledger kept under `.data`. It ends by itself when this process does, so
 * none is ever left over.
 */
export async function startProviders(): Promise<LocalProviders> {
  const folder = join(folders.root, 'dev', 'provider-simulator');
  const ledger = join(folders.data, 'provider-ledger.jsonl');
  const child = fork(join(folder, 'main.ts'), ['--port', '0', '--ledger', ledger], {
    env: serverEnvironment(),
    detached: true, // Ctrl-C must not reach it while the service still needs it
    stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
  });
  const ended = new Promise<void>((resolve) => {
    child.once('exit', () => resolve());
  });
  const url = await new Promise<string>((resolve, reject) => {
    child.once('message', (message) => resolve(started.parse(message).url));
    child.once('exit', (code) => reject(new Error(`the provider simulator ended (${code})`)));
  });
  const stop = async () => {
    child.kill('SIGTERM');
    await ended;
  };
  return { url, stop };
}
