import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { cp, mkdir, readFile, symlink, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { networkInterfaces } from 'node:os';
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
/** Nothing listens there. The service runs without Kafka, and the test is faster. */
const NO_BROKER = '127.0.0.1:9';
/** Spaces, quotes, characters with a meaning in a shell, in a URL or in Java, and letters that are not ASCII. */
const UNUSUAL = "Bücher & Co, 50% #1 'x' 本";
/** Variables about other servers and other programs. */
const HOSTILE = {
  LC_ALL: 'C',
  PGSSLMODE: 'require',
  PGSSLNEGOTIATION: 'direct',
  PGHOST: 'elsewhere.invalid',
  PGPORT: '1',
  PGUSER: 'somebody',
  PGPASSWORD: 'wrong',
  PGDATABASE: 'nowhere',
  PGOPTIONS: '-c search_path=elsewhere',
  PGAPPNAME: 'x'.repeat(100),
  PGCLIENTENCODING: 'LATIN9',
  PGDATESTYLE: 'SQL, DMY',
  PGTZ: 'Mars',
  PGDATA: '/nowhere',
  PGSERVICE: 'nowhere',
  LD_LIBRARY_PATH: '/nowhere',
  NODE_USE_ENV_PROXY: '1',
  http_proxy: 'http://127.0.0.1:9',
};
const hasIPv6 = Object.values(networkInterfaces())
  .flat()
  .some((at) => at?.address === '::1');

describe.skipIf(skipReason('postgres'))('npm start', () => {
  test('survives a kill -9 of itself, and ends everything when it is stopped', async () => {
    await using checkout = await createCheckout();
    const first = await checkout.start(HOSTILE);
    expect(first.output()).toContain(`curl -si ${checkout.url}/v1/orders`);
    const created = await fetch(`${checkout.url}/v1/orders`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify(ORDER),
    });
    expect(created.status).toBe(201);
    expect(await checkout.operate(['outbox', 'status'], HOSTILE)).toMatchObject({
      code: 0,
      output: expect.stringContaining('topic order.events'),
    });
    const postmaster = await checkout.postmaster();

    await first.end('SIGKILL');
    expect(await checkout.running()).not.toEqual([]);
    // npm start goes on without a Kafka that it cannot bring up.
    await writeFile(join(checkout.path, '.data', 'kafka'), 'not a folder');
    const second = await checkout.start({
      KAFKA_BROKERS: '',
      AUTH: 'off',
      AUTH_OFF_ON_NETWORK: 'on',
      HOST: hasIPv6 ? '::' : '',
    });
    const url = hasIPv6 ? `http://[::1]:${checkout.port}` : checkout.url;
    expect(second.output()).toContain(`curl -si ${url}/v1/orders`);
    expect(second.output()).toMatch(/Kafka +none: EEXIST/);
    const found = await fetch(`${url}${created.headers.get('location')}`);
    expect(found.status).toBe(200);
    expect(await checkout.postmaster()).toBe(postmaster);

    // A Ctrl-C in a terminal goes to the whole process group, and npm forwards it once more.
    second.signalGroup('SIGINT');
    await second.says('Stopping');
    expect(await second.end('SIGINT')).toBe(0);
    await expect.poll(() => second.output()).toContain('"msg":"stopped"');
    expect(await checkout.running()).toEqual([]);
  });

  test.each(['bash', 'dash'])(
    'under %s stops once, and leaves nothing behind, whoever is told and how often',
    async (shell) => {
      await using checkout = await createCheckout();
      const env = { npm_config_script_shell: shell };
      const ways = [
        (start: Started) => {
          for (const signal of ['SIGTERM', 'SIGINT', 'SIGTERM'] as const) start.signalGroup(signal);
        },
        (start: Started) => void start.end('SIGTERM'), // npm alone
        (start: Started) => {
          start.close(); // as if its terminal was closed, or the reader of its pipe had ended
          start.signalGroup('SIGHUP');
        },
      ];
      for (const [index, tell] of ways.entries()) {
        const start = await checkout.start(env, 'npm');
        tell(start);
        await start.ended;
        await eventually(async () => (await checkout.running()).length === 0);
        if (index === 2) continue; // nothing reads its output
        await expect.poll(() => start.output()).toContain('"msg":"stopped"');
        expect(start.output().split('Stopping')).toHaveLength(2);
      }
    },
  );

  test('leaves nothing behind when it is ended at once while a server still starts', async () => {
    await using checkout = await createCheckout();
    const start = checkout.spawn();
    await eventually(async () => (await checkout.running()).length > 0, { everyMs: 2 });
    for (const { pid } of await checkout.running()) sendSignal(pid, 'SIGSTOP'); // so it never gets ready
    const hasEnded = start.ended.then(() => true);
    // Signals soon after the first count as the same one.
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

  test('starts no Postgres if a file is to name one', async () => {
    await using checkout = await createCheckout();
    const start = checkout.spawn({ DATABASE_URL_FILE: '/nowhere' });
    expect(await start.ended).toBe(2);
    await expect
      .poll(() => start.output())
      .toContain('DATABASE_URL_FILE: names a file that cannot be read (ENOENT)');
    expect(start.output()).not.toContain('Postgres 18');
  });
});

/** Creates a checkout of its own, because processes are found by the folder of their checkout. */
async function createCheckout() {
  const folder = await createTestFolder('checkout-');
  const path = join(folder.path, UNUSUAL);
  await mkdir(path);
  for (const name of ['dev', 'src', 'migrations', 'package.json']) {
    await cp(join(folders.root, name), join(path, name), { recursive: true });
  }
  await symlink(join(folders.root, 'node_modules'), join(path, 'node_modules'));
  const port = await freePort();
  const markers = ['.data/postgres', 'src/main.ts'].map((name) => markerOf(join(path, name)));
  await writeFile(join(path, 'dev', 'install.mjs'), ''); // the packages are installed
  const commands = { node: [process.execPath, 'dev/start.ts'], npm: ['npm', 'start'] } as const;
  const spawnStart = (env: NodeJS.ProcessEnv = {}, by: keyof typeof commands = 'node') =>
    startProcess(
      spawn(commands[by][0], [commands[by][1]], {
        cwd: path,
        detached: true,
        env: { ...process.env, KAFKA_BROKERS: NO_BROKER, PORT: String(port), ...env },
      }),
    );
  return {
    path,
    port,
    url: `http://127.0.0.1:${port}`,
    spawn: spawnStart,
    /** Runs an operator's command. */
    operate: async (args: readonly string[], env: NodeJS.ProcessEnv) => {
      const operator = startProcess(
        spawn(process.execPath, ['dev/operate.ts', ...args], {
          cwd: path,
          env: { ...process.env, ...env },
        }),
      );
      return { code: await operator.closed, output: operator.output() };
    },
    start: async (env: NodeJS.ProcessEnv = {}, by: keyof typeof commands = 'node') => {
      const started = spawnStart(env, by);
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

type Started = ReturnType<typeof startProcess>;

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
  const closed = new Promise<number | null>((resolve) => {
    child.on('close', (code) => resolve(code));
  });
  return {
    ended,
    /** Resolves when it has ended and all its output has been read. */
    closed,
    output: () => output,
    /** Waits until its output contains the text. Throws if it ends first. */
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
    /** Stops reading its output. */
    close: () => {
      child.stdout?.destroy();
      child.stderr?.destroy();
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
