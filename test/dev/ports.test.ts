import { readFile, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { freePort, isFree, keptPort } from '#dev/ports.ts';
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

async function listen() {
  const port = await freePort();
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(port, '127.0.0.1', resolve));
  return {
    port,
    [Symbol.asyncDispose]: () => new Promise<void>((resolve) => server.close(() => resolve())),
  };
}
