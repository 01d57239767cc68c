import { spawn, spawnSync } from 'node:child_process';
import { cp, mkdir, readFile, readlink, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { folders } from '#dev/folders.ts';
import { findProcesses } from '#dev/processes.ts';
import { eventually } from '#test/support/poll.ts';
import { createTestFolder } from '#test/support/test-folder.ts';

/** Replaces npm: records each call, and ends or hangs as the environment says. */
const STAND_IN = `
  import { appendFileSync, mkdirSync, rmSync } from 'node:fs';
  rmSync('node_modules', { recursive: true, force: true });
  mkdirSync('node_modules');
  appendFileSync('calls', process.argv.slice(2).join(' ') + '\\n');
  if (process.env.NPM_HANGS) setInterval(() => {}, 60_000);
  else process.exit(Number(process.env.NPM_EXIT ?? 0));
`;

describe('installing the packages', () => {
  test('happens once, and says nothing when there is nothing to do', async () => {
    await using checkout = await createCheckout();
    expect(checkout.install().stdout).toContain('Installing about 1 packages');
    expect(checkout.install()).toMatchObject({ status: 0, stdout: '', stderr: '' });
    expect(await checkout.calls()).toHaveLength(1);
  });

  test('happens again when package-lock.json has changed or the packages are gone', async () => {
    await using checkout = await createCheckout();
    checkout.install();
    await checkout.lock('1.0.1');
    checkout.install();
    expect(await checkout.calls()).toHaveLength(2);
    await rm(join(checkout.path, 'node_modules'), { recursive: true });
    checkout.install();
    expect(await checkout.calls()).toHaveLength(3);
  });

  test('happens again after one that was cut off', async () => {
    await using checkout = await createCheckout();
    const failed = checkout.install({ NPM_EXIT: '7' });
    expect(failed.status).toBe(1);
    expect(failed.stderr).toContain('npm ci ended with 7');
    expect(checkout.install().status).toBe(0);
    expect(await checkout.calls()).toHaveLength(2);
  });

  test('takes the packages for development and of this platform, whatever the environment says', async () => {
    await using checkout = await createCheckout();
    checkout.install({ NODE_ENV: 'production' });
    expect(await checkout.calls()).toEqual([expect.stringContaining('--include=dev')]);
    expect(await checkout.calls()).toEqual([expect.stringContaining('--include=optional')]);
  });

  test('ends with the shell that runs it, which passes no signal on', async () => {
    await using checkout = await createCheckout();
    const shell = spawn('sh', ['-c', `"${process.execPath}" dev/install.mjs; echo`], {
      cwd: checkout.path,
      env: { ...checkout.env, NPM_HANGS: '1' },
      stdio: 'ignore',
    });
    const running = () => findProcesses(join(checkout.path, 'npm.mjs'));
    await eventually(async () => (await running()).length > 0 && (await checkout.calls()).length);
    shell.kill('SIGTERM');
    await eventually(async () => (await running()).length === 0);
    const installs = await findProcesses('dev/install.mjs');
    const here = await Promise.all(
      installs.map(({ pid }) => readlink(`/proc/${pid}/cwd`).catch(() => '')),
    );
    expect(here).not.toContain(checkout.path);
  });

  test('is refused in a folder that no path of programs can name', async () => {
    await using checkout = await createCheckout('a:b');
    const refused = checkout.install();
    expect(refused.status).toBe(1);
    expect(refused.stderr).toContain('move the checkout');
    await expect(checkout.calls()).rejects.toThrow('ENOENT');
  });
});

async function createCheckout(name = 'checkout') {
  const folder = await createTestFolder('install-');
  const path = join(folder.path, name);
  const lock = (version: string) =>
    writeFile(
      join(path, 'package-lock.json'),
      JSON.stringify({ packages: { '': {}, 'node_modules/a': { version } } }),
    );
  const env = { ...process.env, npm_execpath: join(path, 'npm.mjs') };
  await mkdir(join(path, 'dev'), { recursive: true });
  await cp(join(folders.root, 'dev', 'install.mjs'), join(path, 'dev', 'install.mjs'));
  await writeFile(join(path, 'npm.mjs'), STAND_IN);
  await lock('1.0.0');
  return {
    path,
    env,
    lock,
    install: (more: NodeJS.ProcessEnv = {}) =>
      spawnSync(process.execPath, [join(path, 'dev', 'install.mjs')], {
        encoding: 'utf8',
        env: { ...env, ...more },
      }),
    calls: async () => (await readFile(join(path, 'calls'), 'utf8')).trim().split('\n'),
    [Symbol.asyncDispose]: () => folder[Symbol.asyncDispose](),
  };
}
