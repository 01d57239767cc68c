import { readFile, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { freePort, isFree, keptPort, localUrl, withoutBrackets } from '#dev/ports.ts';
import { createTestFolder } from '#test/support/test-folder.ts';

const isNotOurs = () => Promise.resolve(false);

describe('a kept port', () => {
  test('stays the same from start to start', async () => {
    await using folder = await createTestFolder('ports-');
    const file = join(folder.path, 'port');
    const port = await keptPort(file, isNotOurs);
    expect(await keptPort(file, isNotOurs)).toBe(port);
  });

  test('gives way when another program has taken it', async () => {
    await using folder = await createTestFolder('ports-');
    const file = join(folder.path, 'port');
    await using taken = await listen();
    await writeFile(file, String(taken.port));
    const port = await keptPort(file, isNotOurs);
    expect(port).not.toBe(taken.port);
    expect(await readFile(file, 'utf8')).toBe(String(port));
  });

  test('stays when it is our own server that listens there', async () => {
    await using folder = await createTestFolder('ports-');
    const file = join(folder.path, 'port');
    await using taken = await listen();
    await writeFile(file, String(taken.port));
    expect(await keptPort(file, () => Promise.resolve(true))).toBe(taken.port);
  });
});

test('a port is free until somebody listens there', async () => {
  const taken = await listen();
  expect(await isFree('127.0.0.1', taken.port)).toBe(false);
  await taken[Symbol.asyncDispose]();
  expect(await isFree('127.0.0.1', taken.port)).toBe(true);
});

describe('the URL of a server on this machine', () => {
  test.each([
    ['127.0.0.1', 'http://127.0.0.1:3000'],
    ['localhost', 'http://localhost:3000'],
    ['::1', 'http://[::1]:3000'],
    ['2001:db8::7', 'http://[2001:db8::7]:3000'],
    ['fe80::1%eth0', 'http://[fe80::1]:3000'],
  ])('names the host %s', (host, url) => {
    expect(localUrl(host, 3000)).toBe(url);
  });

  test.each([
    ['0.0.0.0', 'http://127.0.0.1:3000'],
    ['0', 'http://127.0.0.1:3000'],
    ['::', 'http://[::1]:3000'],
    ['0:0:0:0:0:0:0:0', 'http://[::1]:3000'],
    ['::ffff:0.0.0.0', 'http://127.0.0.1:3000'],
  ])('is that of the loopback address for %s, which is every address', (host, url) => {
    expect(localUrl(host, 3000)).toBe(url);
  });

  test('may have been copied with its brackets into HOST', () => {
    expect(withoutBrackets('[::1]')).toBe('::1');
    expect(withoutBrackets('127.0.0.1')).toBe('127.0.0.1');
  });
});

async function listen() {
  const port = await freePort();
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(port, '127.0.0.1', resolve));
  return {
    port,
    [Symbol.asyncDispose]: () => new Promise<void>((resolve) => server.close(() => resolve())),
  };
}
