import { execFile } from 'node:child_process';
import { readdir, rm } from 'node:fs/promises';
import { createServer } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { Client } from 'pg';
import type { TestProject } from 'vitest/node';
import { folders } from '#dev/folders.ts';
import { kafkaPrograms } from '#dev/kafka-programs.ts';
import { killAll, markerOf } from '#dev/processes.ts';
import { migrate } from '#src/database/migrate.ts';
import type { Infra, InfraMode } from './infra.ts';
import { PGBOUNCER } from './pgbouncer.ts';
import {
  RUN_FOLDER_PREFIX,
  runFolder,
  startTestKafka,
  startTestPostgres,
  TEMPLATE_DATABASE,
  urlOfDatabase,
} from './test-servers.ts';
import type { ServerSource } from './test-servers.ts';

const exec = promisify(execFile);
/** A run is named by the process id of its vitest. */
const thisRun = String(process.pid);

/** Chooses where servers come from. A server starts when the first test asks for it. */
export async function setup(project: TestProject): Promise<() => Promise<void>> {
  const mode = await chosenMode(process.env['TEST_INFRA']);
  const missing = { ...(await whatIsMissing(mode)), ...(await withoutPgbouncer()) };
  for (const [part, reason] of Object.entries(missing)) {
    console.log(`tests that need ${part} are skipped: ${reason}`);
  }
  await removeRuns(mode, (run) => !isAlive(Number(run)));
  const source = { mode, run: thisRun };
  const server = await serveOnDemand({
    postgres: () => startSharedPostgres(source),
    kafka: async () => (await startTestKafka(source)).address,
  });
  project.provide('infra', { ...source, missing, address: server.address });
  return async () => {
    server.close();
    await removeRuns(mode, (run) => run === thisRun);
  };
}

async function chosenMode(wish: string | undefined): Promise<InfraMode> {
  if (wish === 'docker' || wish === 'embedded' || wish === 'none') return wish;
  if (wish) throw new Error(`TEST_INFRA=${wish}: must be docker, embedded or none`);
  return (await dockerResponds()) && (await hasImages()) ? 'docker' : 'embedded';
}

async function whatIsMissing(mode: InfraMode): Promise<Infra['missing']> {
  if (mode === 'none') return { postgres: 'TEST_INFRA=none', kafka: 'TEST_INFRA=none' };
  if (mode === 'docker' && !(await dockerResponds())) throw new Error('docker does not respond');
  if (mode === 'docker') return {};
  const options = { folder: runFolder(thisRun), cacheFolder: folders.cache, log: console.log };
  return kafkaPrograms(options).then(
    () => ({}),
    (error: Error) => ({ kafka: error.message }),
  );
}

/** The same program in every mode. It needs a Postgres. */
async function withoutPgbouncer(): Promise<Infra['missing']> {
  if (await succeeds(PGBOUNCER, ['--version'])) return {};
  return { pgbouncer: `${PGBOUNCER} does not run: install the package pgbouncer` };
}

function dockerResponds(): Promise<boolean> {
  return succeeds('docker', ['version', '--format', '{{.Server.Version}}']);
}

/** Pulls the images that are missing. A machine may have Docker and no way to an image. */
async function hasImages(): Promise<boolean> {
  const { IMAGES } = await import('./docker-servers.ts');
  for (const image of Object.values(IMAGES)) {
    if (await succeeds('docker', ['image', 'inspect', image])) continue;
    console.log(`Pulling the image ${image}...`);
    if (!(await succeeds('docker', ['pull', '--quiet', image]))) return false;
  }
  return true;
}

async function succeeds(command: string, args: readonly string[]): Promise<boolean> {
  try {
    await exec(command, args);
    return true;
  } catch {
    return false;
  }
}

/**
 * Serves the addresses of the shared servers to the test files: `GET /kafka` returns the address as text, and
 * starts the server the first time. A run that needs no server starts none.
 */
async function serveOnDemand(
  starters: Readonly<Record<string, () => Promise<string>>>,
): Promise<Readonly<{ address: string; close(): void }>> {
  const started = new Map<string, Promise<string>>();
  const server = createServer((request, response) => {
    const name = request.url?.slice(1) ?? '';
    const address = started.get(name) ?? starters[name]?.() ?? Promise.reject(new Error(name));
    started.set(name, address);
    address.then(
      (text) => response.end(text),
      (error: unknown) => response.writeHead(500).end(`${name} did not start: ${String(error)}`),
    );
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const bound = server.address();
  if (bound === null || typeof bound === 'string') throw new Error('there is no port');
  return { address: `http://127.0.0.1:${bound.port}`, close: () => server.close() };
}

/** Migrates the template once. The database of each test is a copy of it. */
async function startSharedPostgres(source: ServerSource): Promise<string> {
  const { address } = await startTestPostgres(source);
  const owner = new Client({ connectionString: address });
  await owner.connect();
  try {
    await owner.query(`create database ${TEMPLATE_DATABASE}`);
    await migrate(urlOfDatabase(address, TEMPLATE_DATABASE));
    await owner.query(`alter database ${TEMPLATE_DATABASE} with allow_connections false`);
  } finally {
    await owner.end();
  }
  return address;
}

/** Kills all servers of the selected runs and deletes their data. */
async function removeRuns(mode: InfraMode, isWanted: (run: string) => boolean): Promise<void> {
  if (mode === 'docker') {
    const { removeContainers } = await import('./docker-servers.ts');
    await removeContainers(isWanted);
  }
  // The tests of dev/ start embedded servers in every mode.
  const runs = (await readdir(tmpdir()))
    .filter((name) => name.startsWith(RUN_FOLDER_PREFIX))
    .map((name) => name.slice(RUN_FOLDER_PREFIX.length));
  for (const run of runs.filter(isWanted)) {
    const servers = await readdir(runFolder(run));
    await Promise.all(servers.map((server) => killAll(markerOf(join(runFolder(run), server)))));
    await rm(runFolder(run), { recursive: true, force: true });
  }
}

function isAlive(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch {
    return false;
  }
}
