import { execFile } from 'node:child_process';
import { closeSync, constants, openSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { promisify } from 'node:util';
import { describe, expect, test } from 'vitest';
import { createLogPrinter } from '#src/log.ts';
import { printableStyledLines } from '#src/printable.ts';
import { createTestDatabase } from '#test/support/database.ts';
import { skipReason } from '#test/support/infra.ts';
import { eventually } from '#test/support/poll.ts';
import { startService } from '#test/support/service.ts';
import type { TestService } from '#test/support/service.ts';
import { createTestFolder } from '#test/support/test-folder.ts';

const REQUESTS = 100;

/* Logging never blocks the service and never ends it. The log goes to standard output. */
describe.skipIf(skipReason('postgres'))('a service whose log', () => {
  test('is on a full disk continues, counts the lost lines, and stops normally', async () => {
    await using database = await createTestDatabase();
    const stdout = openSync('/dev/full', 'w');
    await using service = await startService({ ...logging(database.url), stdout });
    closeSync(stdout);
    await ask(service);
    await service.api.placeOrder();
    expect(await lost(service)).toBeGreaterThan(REQUESTS);
    expect(await service.terminate()).toMatchObject({ code: 0, signal: null });
  });

  test('is a pipe that nobody reads continues, and logs later how many lines were lost', async () => {
    await using database = await createTestDatabase();
    await using pipe = await createPipe();
    const { O_RDWR, O_RDONLY, O_NONBLOCK } = constants;
    const reader = openSync(pipe.path, O_RDONLY | O_NONBLOCK);
    const stdout = openSync(pipe.path, O_RDWR);
    await using service = await startService({ ...logging(database.url), stdout });
    closeSync(stdout);
    while ((await lost(service)) === 0) await ask(service);
    await service.api.placeOrder();

    const lines: string[] = [];
    const reading = (async () => {
      await using file = await open(pipe.path, 'r');
      for await (const line of file.readLines()) lines.push(line);
    })();
    closeSync(reader);
    await eventually(async () => {
      await service.api.request('GET', '/nowhere');
      return lines.some((line) => line.includes('"msg":"log lines were lost"'));
    });
    expect(await service.terminate()).toMatchObject({ code: 0, signal: null });
    await reading;
    for (const line of lines) expect(() => JSON.parse(line)).not.toThrow();
    expect(lines.at(-1)).toContain('"msg":"stopped"');
  });

  test('is a pipe whose reader has left continues, and stops normally', async () => {
    await using database = await createTestDatabase();
    await using pipe = await createPipe();
    const reader = openSync(pipe.path, constants.O_RDONLY | constants.O_NONBLOCK);
    const stdout = openSync(pipe.path, 'w');
    await using service = await startService({ ...logging(database.url), stdout });
    closeSync(stdout);
    closeSync(reader);
    await ask(service);
    expect(await lost(service)).toBeGreaterThanOrEqual(REQUESTS);
    expect(await service.terminate()).toMatchObject({ code: 0, signal: null });
  });

  test('is a full pipe without a reader stops normally', async () => {
    await using database = await createTestDatabase();
    await using pipe = await createPipe();
    const stdout = openSync(pipe.path, constants.O_RDWR);
    await using service = await startService({ ...logging(database.url), stdout });
    while ((await lost(service)) === 0) await ask(service);
    expect(await service.terminate()).toMatchObject({ code: 0, signal: null });
    closeSync(stdout);
  });
});

/** With a line for every request. */
function logging(databaseUrl: string) {
  return { databaseUrl, env: { LOG_LEVEL: 'info' } };
}

async function ask({ api }: TestService): Promise<void> {
  const asked = Array.from({ length: REQUESTS }, () => api.request('GET', '/nowhere'));
  for (const { status } of await Promise.all(asked)) expect(status).toBe(404);
  expect((await api.request('GET', '/livez')).status).toBe(200);
}

async function lost({ api }: TestService): Promise<number> {
  const { text } = await api.request('GET', '/metrics');
  return Number(/^orders_log_lines_lost_total (\d+)$/m.exec(text)?.[1]);
}

/** A named pipe. */
async function createPipe() {
  const folder = await createTestFolder('pipe-');
  const path = `${folder.path}/log`;
  await promisify(execFile)('mkfifo', [path]);
  return { path, [Symbol.asyncDispose]: folder[Symbol.asyncDispose] };
}

test('the log on a terminal contains nothing from callers that controls the terminal or is invisible', () => {
  const nasty = '\u001b[2J\u009b2J\u202e\u2066\u200b';
  const entry = {
    level: 50,
    time: 0,
    msg: `message ${nasty}.`,
    url: `/${nasty}.`,
    err: { type: 'Error', message: `error ${nasty}.`, stack: `Error: error ${nasty}.\n    at x` },
  };
  const printed = createLogPrinter()(`${JSON.stringify(entry)}\n`);
  expect(printed).toMatch(/message .*\\u202e\\u2066\\u200b\./);
  expect(printed).toMatch(/\/.*\\u202e\\u2066\\u200b\./);
  expect(printed).toMatch(/Error: error .*\\u202e\\u2066\\u200b\.\n +at x/);
  expect(printed).not.toMatch(/[\p{Cf}\u009b]/u);
  expect(printableStyledLines(printed)).toBe(printed);
});
