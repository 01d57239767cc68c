import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createProviderSimulator } from '#dev/provider-simulator/provider-simulator.ts';
import { createSimulatorClient } from '#dev/provider-simulator/simulator-client.ts';

/** A fresh directory that goes with its scope. */
export async function temporaryDirectory() {
  const path = await mkdtemp(join(tmpdir(), 'provider-simulator-'));
  return { path, [Symbol.asyncDispose]: () => rm(path, { recursive: true }) };
}

/** A simulator in this process with an empty ledger, and the way to steer it. */
export async function startSimulator() {
  const directory = await temporaryDirectory();
  const ledgerFile = join(directory.path, 'ledger.jsonl');
  const simulator = createProviderSimulator({ ledgerFile });
  const url = await simulator.listen();
  return {
    url,
    ledgerFile,
    control: createSimulatorClient(url),
    [Symbol.asyncDispose]: async () => {
      await simulator.close();
      await directory[Symbol.asyncDispose]();
    },
  };
}

/** Posts JSON as any client of the contract would, and reads the answer as text and as JSON. */
export async function post(url: string, path: string, key: string | undefined, body: unknown) {
  const response = await fetch(url + path, {
    method: 'POST',
    headers: key === undefined ? {} : { 'idempotency-key': key },
    body: typeof body === 'string' ? body : JSON.stringify(body),
  });
  return read(response);
}

export async function get(url: string, path: string) {
  return read(await fetch(url + path));
}

async function read(response: Response) {
  const text = await response.text();
  return { status: response.status, text, body: JSON.parse(text) };
}
