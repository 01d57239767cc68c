import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { startPostgres } from '#dev/embedded-postgres.ts';
import { startKafka } from '#dev/local-kafka.ts';
import { runFolder } from './test-runs.ts';
import { POSTGRES_SETTINGS } from './test-server.ts';
import type { TestServer } from './test-server.ts';

/** Kept from run to run. */
export const KAFKA_CACHE = fileURLToPath(new URL('../../.data/cache', import.meta.url));
const quiet = () => {};

export async function startEmbeddedPostgres(run: string): Promise<TestServer> {
  const folder = await serverFolder(run, 'postgres-');
  const server = await startPostgres({
    folder,
    database: 'postgres',
    log: quiet,
    settings: POSTGRES_SETTINGS,
  });
  return asTestServer(server.url, folder, server);
}

export async function startEmbeddedKafka(run: string): Promise<TestServer> {
  const folder = await serverFolder(run, 'kafka-');
  const server = await startKafka({ folder, cacheFolder: KAFKA_CACHE, log: quiet });
  return asTestServer(server.broker, folder, server);
}

function asTestServer(
  address: string,
  folder: string,
  server: Readonly<{
    stop(): Promise<void>;
    kill(): Promise<void>;
    start(): Promise<void>;
    signal(name: NodeJS.Signals): Promise<void>;
  }>,
): TestServer {
  return {
    address,
    stop: server.stop,
    kill: server.kill,
    start: server.start,
    pause: () => server.signal('SIGSTOP'),
    resume: () => server.signal('SIGCONT'),
    remove: async () => {
      await server.kill();
      await rm(folder, { recursive: true, force: true });
    },
  };
}

async function serverFolder(run: string, prefix: string): Promise<string> {
  await mkdir(runFolder(run), { recursive: true });
  return mkdtemp(join(runFolder(run), prefix));
}
