import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { inject } from 'vitest';
import { createProviderSimulator } from '#dev/provider-simulator/provider-simulator.ts';
import { createSimulatorClient } from '#dev/provider-simulator/simulator-client.ts';
import { serverFolder } from './test-servers.ts';

/** Starts a provider simulator in this process, with an empty ledger. `await using` closes it. */
export async function startSimulator() {
  const folder = await serverFolder(inject('infra').run, 'simulator-');
  const simulator = createProviderSimulator({ ledgerFile: join(folder, 'ledger.jsonl') });
  const url = await simulator.listen();
  return {
    url,
    control: createSimulatorClient(url),
    [Symbol.asyncDispose]: async () => {
      await simulator.close();
      await rm(folder, { recursive: true });
    },
  };
}
