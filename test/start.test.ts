import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { connect, createServer } from 'node:net';
import type { Socket } from 'node:net';
import { createInterface } from 'node:readline';
import type { Readable } from 'node:stream';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { createTestDatabase } from '#test/support/database.ts';
import { skipReason } from '#test/support/infra.ts';
import { eventually } from '#test/support/poll.ts';
import { startService } from '#test/support/service.ts';
import { urlOfDatabase } from '#test/support/test-servers.ts';

const MAIN = fileURLToPath(new URL('../src/main.ts', import.meta.url));
const STACK = /\bat .*\.ts:\d+/;

describe.skipIf(skipReason('postgres'))('a start', () => {
  test('logs that it waits for a Postgres that accepts connections but sends nothing, and continues when it responds', async () => {
    await using database = await createTestDatabase();
    await using silent = await createSilentServer(database.url);
    const log: string[] = [];
    const starting = startService({ databaseUrl: silent.url, onLine: (line) => log.push(line) });
    await eventually(() => log.some((line) => line.includes('waiting for Postgres')));
    expect(log.join('\n')).toContain('timeout expired');
    silent.speak();
    await using service = await starting;
    await service.api.placeOrder();
  });

  test('that Postgres refuses prints the reason in one line', async () => {
    await using database = await createTestDatabase();
    const nowhere = startService({ databaseUrl: urlOfDatabase(database.url, 'nowhere') });
    await expect(nowhere).rejects.toThrow('Postgres refuses DATABASE_URL: database \\"nowhere\\"');
    const refused = startService({ databaseUrl: urlOfNobody(database.url) });
    const failure = await refused.then(String, String);
    expect(failure).toContain('exit code 1');
    expect(failure).toContain('Postgres refuses DATABASE_URL');
    expect(failure).not.toMatch(STACK);
  });

  test('on an address in use prints that in one line', async () => {
    await using database = await createTestDatabase();
    await using first = await startService({ databaseUrl: database.url });
    const second = startService({
      databaseUrl: database.url,
      env: { PORT: new URL(first.url).port },
    });
    const failure = await second.then(String, String);
    expect(failure).toContain('"reason":"cannot listen on HOST and PORT: listen EADDRINUSE');
    expect(failure).not.toMatch(STACK);
  });

  test('says in one line if it is open, and does not start open to the network', async () => {
    await using database = await createTestDatabase();
    const open = (lines: readonly string[]) => lines.filter((line) => line.includes('AUTH=off'));
    await using service = await startService({ databaseUrl: database.url });
    expect(open(service.log())).toEqual([expect.stringContaining('"msg":"open: AUTH=off')]);
    await using closed = await startService({ databaseUrl: database.url, env: { AUTH: 'on' } });
    expect(open(closed.log())).toEqual([]);
    const onNetwork = startService({ databaseUrl: database.url, env: { HOST: '0.0.0.0' } });
    await expect(onNetwork).rejects.toThrow(
      /exit code 2 at start:\n.*\n +AUTH: off would let anyone/,
    );
  });

  test.each(['::1', '::'])('on HOST=%s logs an address that can be called', async (HOST) => {
    await using database = await createTestDatabase();
    const child = spawn(process.execPath, [MAIN], {
      env: { PATH: process.env['PATH'], DATABASE_URL: database.url, HOST, PORT: '0' },
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    const ended = once(child, 'exit');
    try {
      const address = await addressIn(child.stdout);
      expect((await fetch(`${address}/livez`)).status).toBe(200);
    } finally {
      child.kill('SIGTERM');
    }
    expect(await ended).toEqual([0, null]);
  });
});

describe.skipIf(skipReason('postgres'))('an operator’s command', () => {
  test.each([
    ['projections', 'verify'],
    ['outbox', 'status'],
  ])('that Postgres refuses prints the reason without a stack: %s %s', async (...args) => {
    await using database = await createTestDatabase();
    for (const url of [
      urlOfDatabase(database.url, 'nowhere'),
      urlOfNobody(database.url),
      'postgres://127.0.0.1:1/orders',
    ]) {
      const { code, output } = await operate(args, url);
      expect(code).toBe(1);
      expect(output).toMatch(new RegExp(`^${args[0]} failed: Postgres .*DATABASE_URL: .+\n$`));
    }
  });
});

async function addressIn(output: Readable): Promise<string> {
  for await (const line of createInterface(output)) {
    const { address } = JSON.parse(line);
    if (typeof address === 'string') return address;
  }
  throw new Error('it ended before it was ready');
}

function urlOfNobody(url: string): string {
  return Object.assign(new URL(url), { username: 'nobody_here', password: 'wrong' }).href;
}

function operate(args: readonly string[], databaseUrl: string) {
  return new Promise<Readonly<{ code: unknown; output: string }>>((resolve) => {
    const env = { PATH: process.env['PATH'], DATABASE_URL: databaseUrl };
    execFile(process.execPath, [MAIN, ...args], { env }, (error, stdout, stderr) => {
      resolve({ code: error?.code ?? 0, output: stdout + stderr });
    });
  });
}

/** Accepts connections and says nothing, until it is told to pass them on. */
async function createSilentServer(url: string) {
  const target = new URL(url);
  const sockets = new Set<Socket>();
  let isSilent = true;
  const server = createServer((socket) => {
    sockets.add(socket);
    socket.on('error', () => {});
    if (isSilent) return;
    const upstream = connect(Number(target.port), target.hostname);
    sockets.add(upstream);
    upstream.on('error', () => {});
    socket.pipe(upstream).pipe(socket);
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  const port = typeof address === 'object' ? address?.port : undefined;
  return {
    url: Object.assign(new URL(url), { host: `127.0.0.1:${port}` }).href,
    speak: () => {
      isSilent = false;
    },
    [Symbol.asyncDispose]: async () => {
      for (const socket of sockets) socket.destroy();
      await server[Symbol.asyncDispose]();
    },
  };
}
