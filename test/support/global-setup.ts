import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { Client } from 'pg';
import type { TestProject } from 'vitest/node';
import { kafkaPrograms } from '#dev/kafka-programs.ts';
import { migrate } from '#src/database/migrate.ts';
import { KAFKA_CACHE } from './embedded-servers.ts';
import type { Infra, InfraMode } from './infra.ts';
import { serveOnDemand } from './infra-server.ts';
import { removeRuns, runFolder, thisRun } from './test-runs.ts';
import { IMAGES, startTestKafka, startTestPostgres } from './test-server.ts';
import type { ServerSource } from './test-server.ts';
import { TEMPLATE_DATABASE, urlOfDatabase } from './template-database.ts';

/** Chooses where servers come from, and starts them when the first test asks for one. */
export async function setup(project: TestProject): Promise<() => Promise<void>> {
  const mode = await chosenMode(process.env['TEST_INFRA']);
  const missing = await whatIsMissing(mode);
  for (const [part, reason] of Object.entries(missing)) {
    console.log(`tests that need ${part} are skipped: ${reason}`);
  }
  await removeRuns(mode, 'killed');
  const source = { mode, run: thisRun };
  const server = await serveOnDemand({
    postgres: () => startSharedPostgres(source),
    kafka: async () => (await startTestKafka(source)).address,
  });
  project.provide('infra', { ...source, missing, address: server.address });
  return async () => {
    server.close();
    await removeRuns(mode, 'this');
  };
}

async function chosenMode(wish: string | undefined): Promise<InfraMode> {
  if (wish === 'docker' || wish === 'embedded' || wish === 'none') return wish;
  if (wish) throw new Error(`TEST_INFRA=${wish}: must be docker, embedded or none`);
  return (await dockerAnswers()) && (await hasImages()) ? 'docker' : 'embedded';
}

async function whatIsMissing(mode: InfraMode): Promise<Infra['missing']> {
  if (mode === 'none') return { postgres: 'TEST_INFRA=none', kafka: 'TEST_INFRA=none' };
  if (mode === 'docker' && !(await dockerAnswers())) throw new Error('docker does not answer');
  if (mode === 'docker') return {};
  const options = { folder: runFolder(thisRun), cacheFolder: KAFKA_CACHE, log: console.log };
  return kafkaPrograms(options).then(
    () => ({}),
    (error: Error) => ({ kafka: error.message }),
  );
}

function dockerAnswers(): Promise<boolean> {
  return succeeds('docker', ['version', '--format', '{{.Server.Version}}']);
}

/** Fetches what is not there yet; a machine may have Docker and no way to an image. */
async function hasImages(): Promise<boolean> {
  for (const image of Object.values(IMAGES)) {
    const isThere = await succeeds('docker', ['image', 'inspect', image]);
    if (!isThere) console.log(`Fetching the image ${image}...`);
    if (!isThere && !(await succeeds('docker', ['pull', '--quiet', image]))) return false;
  }
  return true;
}

async function succeeds(command: string, args: readonly string[]): Promise<boolean> {
  try {
    await promisify(execFile)(command, args);
    return true;
  } catch {
    return false;
  }
}

/** Migrates once; every test's database is a copy of the result. */
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
