import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { cp, readFile, symlink } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { describe, expect, test } from 'vitest';
import { folders } from '#dev/folders.ts';
import { freePort } from '#dev/ports.ts';
import { findProcesses, killAll, markerOf, sendSignal } from '#dev/processes.ts';
import { skipReason } from '#test/support/infra.ts';
import { eventually } from '#test/support/poll.ts';
import { createTestFolder } from '#test/support/test-folder.ts';

const ORDER = {
  customerId: 'c-1',
  currency: 'EUR',
  items: [{ sku: 'book', quantity: 2, priceCents: 1250 }],
};
/** Nothing listens there: the service does without Kafka, and the test is quicker. */
const NO_BROKER = '127.0.0.1:9';

describe.skipIf(skipReason('postgres'))('npm start', () => {
  test('survives a kill -9 of itself, and ends everything when it is stopped', async () => {
    await using checkout = await createCheckout();
    const first = await checkout.start();
    expect(first.output()).toContain(`curl -si ${checkout.url}/v1/orders`);
    const created = await fetch(`${checkout.url}/v1/orders`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify(ORDER),
    });
    expect(created.status).toBe(201);
    const postmaster = await checkout.postmaster();

    await first.end('SIGKILL');
    expect(await checkout.running()).not.toEqual([]);
    const second = await checkout.start();
    const found = await fetch(`${checkout.url}${created.headers.get('location')}`);
    expect(found.status).toBe(200);
    expect(await checkout.postmaster()).toBe(postmaster);

    // A Ctrl-C in a terminal goes to the whole process group, and npm sends it once more.
    second.signalGroup('SIGINT');
    await second.says('Stopping');
    expect(await second.end('SIGINT')).toBe(0);
    await expect.poll(() => second.output()).toContain('"msg":"stopped"');
    expect(await checkout.running()).toEqual([]);
  });

  test('leaves nothing behind when it is ended at once while a server still starts', async () => {
    await using checkout = await createCheckout();
    const start = checkout.spawn();
    await eventually(async () => (await checkout.running()).length > 0, { everyMs: 2 });
    for (const { pid } of await checkout.running()) sendSignal(pid, 'SIGSTOP'); // it never gets ready
    const hasEnded = start.ended.then(() => true);
    // Those soon after the first count as one with it.
    do start.signalGroup('SIGINT');
    while (!(await Promise.race([hasEnded, delay(100, false)])));
    expect(await checkout.running()).toEqual([]);
  });

  test('says so when the port is taken, and leaves nothing behind', async () => {
    await using checkout = await createCheckout();
    const taken = createServer().listen(checkout.port, '127.0.0.1');
    await once(taken, 'listening');
    const start = checkout.spawn();
    expect(await start.ended).toBe(1);
    await expect
      .poll(() => start.output())
      .toContain(`Port ${checkout.port} of 127.0.0.1 is in use`);
    expect(await checkout.running()).toEqual([]);
    taken.close();
  });

  test('ends with the code of a service that ends by itself', async () => {
    await using checkout = await createCheckout();
    const start = checkout.spawn({ DATABASE_URL: 'postgres://127.0.0.1:9/x', LOG_LEVEL: 'loud' });
    expect(await start.ended).toBe(2);
    await expect.poll(() => start.output()).toContain('LOG_LEVEL');
  });
});

/** A checkout of its own, since what runs is found again by its folder. */
async function createCheckout() {
  const folder = await createTestFolder('checkout-');
  const { path } = folder;
  for (const name of ['dev', 'src', 'migrations', 'package.json']) {
    await cp(join(folders.root, name), join(path, name), { recursive: true });
  }
  await symlink(join(folders.root, 'node_modules'), join(path, 'node_modules'));
  const port = await freePort();
  const markers = ['.data/postgres', 'src/main.ts'].map((name) => markerOf(join(path, name)));
  const spawnStart = (env: NodeJS.ProcessEnv = {}) =>
    startProcess(
      spawn(process.execPath, ['dev/start.ts'], {
        cwd: path,
        detached: true,
        env: { ...process.env, KAFKA_BROKERS: NO_BROKER, PORT: String(port), ...env },
      }),
    );
  return {
    port,
    url: `http://127.0.0.1:${port}`,
    spawn: spawnStart,
    start: async () => {
      const started = spawnStart();
      await started.says('Ctrl-C ends it all');
      return started;
    },
    running: async () => (await Promise.all(markers.map(findProcesses))).flat(),
    postmaster: async () => {
      const file = join(path, '.data/postgres/data/postmaster.pid');
      return (await readFile(file, 'utf8')).split('\n')[0];
    },
    [Symbol.asyncDispose]: async () => {
      await Promise.all(markers.map(killAll));
      await folder[Symbol.asyncDispose]();
    },
  };
}

function startProcess(child: ChildProcess) {
  let output = '';
  const heard = new Set<() => void>();
  for (const stream of [child.stdout, child.stderr]) {
    stream?.on('data', (chunk: Buffer) => {
      output += chunk.toString();
      for (const listener of heard) listener();
    });
  }
  const ended = new Promise<number | null>((resolve) => {
    child.on('exit', (code) => resolve(code));
  });
  return {
    ended,
    output: () => output,
    /** Until its output holds the text; fails if it ends before. */
    says: async (text: string) => {
      const said = new Promise<void>((resolve) => {
        const listen = () => {
          if (output.includes(text)) resolve();
        };
        heard.add(listen);
        listen();
      });
      await Promise.race([said, ended]);
      if (!output.includes(text)) throw new Error(`it ended before it said ${text}:\n${output}`);
    },
    signalGroup: (signal: NodeJS.Signals) => {
      if (child.pid) sendSignal(-child.pid, signal);
    },
    end: async (signal: NodeJS.Signals) => {
      child.kill(signal);
      return ended;
    },
  };
}
