/**
 * Installs the packages if there are none or package-lock.json has changed. Otherwise it does and prints
 * nothing. It runs before anything is installed, so it works on Node 20 and imports no package.
 */
import { spawn, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const NODE_MIN = 24;
const PROGRESS_EVERY_MS = 3_000;
const PARENT_LOOK_EVERY_MS = 200;
/** These options override the environment and the user's .npmrc. */
const NPM_CI =
  // Node itself and Postgres are optional packages.
  'ci --include=dev --include=optional --bin-links --install-strategy=hoisted --no-global ' +
  '--location=project --no-dry-run --no-package-lock-only --package-lock --no-engine-strict ' +
  '--loglevel=error --no-progress';
const root = fileURLToPath(new URL('..', import.meta.url));
const lock = readFileSync(join(root, 'package-lock.json'), 'utf8');
/** Written last, so that an interrupted install is repeated. */
const stampFile = join(root, 'node_modules', '.installed');
const installedNode = join(root, 'node_modules', '.bin', 'node');

const stamp = [createHash('sha256').update(lock).digest('hex'), process.platform, process.arch];
const isInstalled = existsSync(stampFile) && readFileSync(stampFile, 'utf8') === stamp.join(' ');

if (root.includes(delimiter)) {
  fail(
    `Programs in ${root} cannot be found because its name contains "${delimiter}": move the checkout.`,
  );
}
if (!isInstalled) {
  await install();
  writeFileSync(stampFile, stamp.join(' '));
}
if (majorOf(process.version) < NODE_MIN && !existsSync(installedNode)) {
  fail(
    `This needs Node ${NODE_MIN} or later. You have ${process.version}, and npm has no Node ${NODE_MIN} ` +
      `for ${process.platform} on ${process.arch}. Install it from https://nodejs.org, or use Docker.`,
  );
}

async function install() {
  const packages = expectedPackages();
  const startedAt = Date.now();
  console.log(
    `Installing about ${packages.length} packages with npm ci (first time, or after an update)`,
  );
  const progress = setInterval(() => {
    const there = packages.filter((path) => existsSync(join(root, path, 'package.json'))).length;
    const seconds = Math.round((Date.now() - startedAt) / 1000);
    console.log(`  ${seconds} s: ${there} packages installed`);
  }, PROGRESS_EVERY_MS);
  const problem = await npmCi();
  clearInterval(progress);
  if (problem !== undefined) {
    fail(
      `The packages could not be installed: ${problem}. The output of npm is above.\n` +
        'Installing needs the network. Fix the problem and run the same command again.',
    );
  }
  removeNodeThatCannotRun();
}

/** Returns what went wrong, if anything did. */
function npmCi() {
  const { npm_execpath: npm, npm_node_execpath: node = process.execPath } = process.env;
  const args = NPM_CI.split(' ');
  const child = npm
    ? spawn(node, [npm, ...args], { cwd: root, stdio: 'inherit' })
    : spawn('npm', args, { cwd: root, stdio: 'inherit' });
  endWithParent(child);
  return new Promise((resolve) => {
    child.on('error', (error) => resolve(`npm did not start (${error.message})`));
    child.on('exit', (code, signal) => {
      resolve(code === 0 ? undefined : `npm ci ended with ${code ?? signal}`);
    });
  });
}

/** The shell that runs npm's scripts passes no signal on when it dies. Only the new parent id shows it. */
function endWithParent(child) {
  const parent = process.ppid;
  const look = setInterval(() => {
    if (process.ppid === parent) return;
    child.kill('SIGTERM');
    process.exit(1);
  }, PARENT_LOOK_EVERY_MS);
  look.unref();
}

/** The folders that npm creates on this machine, and a few that only other platforms need. */
function expectedPackages() {
  return Object.entries(JSON.parse(lock).packages)
    .filter(([path, { os, cpu }]) => {
      return path !== '' && fits(os, process.platform) && fits(cpu, process.arch);
    })
    .map(([path]) => path);
}

function fits(allowed, value) {
  return allowed === undefined || allowed.includes(value);
}

/** npm puts it first in the PATH. If its C library is missing, it would hide a Node that works. */
function removeNodeThatCannotRun() {
  if (existsSync(installedNode) && spawnSync(installedNode, ['--version']).status !== 0) {
    rmSync(installedNode);
  }
}

function majorOf(version) {
  return Number(version.slice(1).split('.')[0]);
}

function fail(text) {
  console.error(`\n${text}`);
  process.exit(1);
}
