import { fork } from 'node:child_process';
import { once } from 'node:events';
import { appendFile, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { ledgerEntry } from '#dev/provider-simulator/provider-books.ts';
import { createProviderSimulator } from '#dev/provider-simulator/provider-simulator.ts';
import { createSimulatorClient } from '#dev/provider-simulator/simulator-client.ts';
import { createTestFolder } from '#test/support/test-folder.ts';
import { get, post } from './provider-simulator-support.ts';

const MAIN = fileURLToPath(new URL('../../dev/provider-simulator/main.ts', import.meta.url));
const CAPTURES = '/payments/captures';
const capture = { orderId: 'o1', amountCents: 1999, currency: 'EUR' };

/** Starts the simulator as a process of its own on any free port. */
async function startProcess(ledgerFile: string) {
  const child = fork(MAIN, ['--port', '0', '--ledger', ledgerFile], { stdio: 'ignore' });
  const exited = once(child, 'exit');
  const [message]: { url: string }[] = await once(child, 'message');
  return {
    url: message!.url,
    child,
    exited,
    [Symbol.asyncDispose]: async () => {
      child.kill('SIGKILL');
      await exited;
    },
  };
}

async function readEntries(ledgerFile: string) {
  const lines = (await readFile(ledgerFile, 'utf8')).split('\n').slice(0, -1);
  return lines.map((line) => ledgerEntry.parse(JSON.parse(line)));
}

describe('a simulator that is killed', () => {
  test('has done what it said in its responses, and does nothing twice when it is back', async () => {
    await using directory = await createTestFolder('simulator-');
    const ledgerFile = join(directory.path, 'ledger.jsonl');
    const received = new Map<string, string>();
    let sent = 0;

    for (const [round, responsesUntilKill] of [1, 40, 150].entries()) {
      await using simulator = await startProcess(ledgerFile);
      let left = responsesUntilKill;
      const keepCapturing = async () => {
        while (left > 0) {
          const key = `${round}-${(sent += 1)}`;
          const response = await post(simulator.url, CAPTURES, key, capture).catch(() => undefined);
          if (response) received.set(key, response.text);
          left -= 1;
          if (left === 0) simulator.child.kill('SIGKILL');
        }
      };
      await Promise.all(Array.from({ length: 8 }, () => keepCapturing()));
      await simulator.exited;
    }

    await using back = await startProcess(ledgerFile);
    const asBefore = async ([key, text]: [string, string]) => {
      expect((await get(back.url, `${CAPTURES}/${key}`)).text).toBe(text);
      expect((await post(back.url, CAPTURES, key, capture)).text).toBe(text);
    };
    await Promise.all([...received].map((each) => asBefore(each)));
    const entries = await readEntries(ledgerFile);
    expect(new Set(entries.map(({ key }) => key)).size).toBe(entries.length);
    expect(entries.map(({ number }) => number)).toEqual(entries.map((_, index) => index + 1));
    expect(await createSimulatorClient(back.url).ledger()).toEqual(entries);
    expect(received.size).toBeGreaterThanOrEqual(191);
  });

  test('keeps a cancelled key closed and a refund counted', async () => {
    await using directory = await createTestFolder('simulator-');
    const ledgerFile = join(directory.path, 'ledger.jsonl');
    const refund = (url: string, key: string, paymentId: string) =>
      post(url, '/payments/refunds', key, { ...capture, paymentId, amountCents: 1500 });
    let paymentId = '';
    {
      await using simulator = await startProcess(ledgerFile);
      const { url } = simulator;
      await post(url, `${CAPTURES}/closed/cancel`, undefined, { orderId: 'o1' });
      paymentId = (await post(url, CAPTURES, 'paid', capture)).body.paymentId;
      await refund(url, 'r1', paymentId);
    }
    await using back = await startProcess(ledgerFile);
    expect((await post(back.url, CAPTURES, 'closed', capture)).status).toBe(409);
    expect((await refund(back.url, 'r1', paymentId)).status).toBe(201);
    expect((await refund(back.url, 'r2', paymentId)).status).toBe(422);
  });
});

describe('a simulator that starts', () => {
  test('drops a line that a crash left half written, and goes on after the whole ones', async () => {
    await using directory = await createTestFolder('simulator-');
    const ledgerFile = join(directory.path, 'ledger.jsonl');
    const first = createProviderSimulator({ ledgerFile });
    const before = await post(await first.listen(), CAPTURES, 'a', { ...capture, orderId: 'é' });
    await first.close();
    await appendFile(ledgerFile, '{"number":2,"at":"20');

    const second = createProviderSimulator({ ledgerFile });
    const url = await second.listen();
    expect(await post(url, CAPTURES, 'b', capture)).toMatchObject({ status: 201 });
    expect((await get(url, `${CAPTURES}/a`)).text).toBe(before.text);
    await second.close();
    expect((await readEntries(ledgerFile)).map(({ key }) => key)).toEqual(['a', 'b']);
  });

  test('refuses a ledger that it cannot read in the middle', async () => {
    await using directory = await createTestFolder('simulator-');
    const ledgerFile = join(directory.path, 'ledger.jsonl');
    await appendFile(ledgerFile, '{"number":1}\n');
    expect(() => createProviderSimulator({ ledgerFile })).toThrow(/effect/);
  });
});

describe('a simulator process', () => {
  test('ends at once on SIGTERM, with calls held and connections kept', async () => {
    await using directory = await createTestFolder('simulator-');
    await using simulator = await startProcess(join(directory.path, 'ledger.jsonl'));
    const control = createSimulatorClient(simulator.url);
    await control.addFault({ fault: 'hold', lateMs: 600_000 });
    const held = post(simulator.url, CAPTURES, 'k', capture).catch(() => 'cut off');
    await control.nextCall();
    simulator.child.kill('SIGTERM');
    expect(await simulator.exited).toEqual([0, null]);
    expect(await held).toBe('cut off');
  });

  test('ends when the process that started it is gone', async () => {
    await using directory = await createTestFolder('simulator-');
    await using simulator = await startProcess(join(directory.path, 'ledger.jsonl'));
    simulator.child.disconnect();
    expect(await simulator.exited).toEqual([0, null]);
  });
});
