import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { startPostgres } from '#dev/embedded-postgres.ts';
import { folders } from '#dev/folders.ts';
import { startKafka } from '#dev/local-kafka.ts';
import type { KafkaExtras } from '#dev/local-kafka.ts';
import type { LocalServer } from '#dev/processes.ts';
import type { InfraMode } from './infra.ts';

/** A Postgres or a Kafka that a test may break and repair. Its address and its data stay. */
export type TestServer = Readonly<{
  /** The URL of the superuser for Postgres, `host:port` for Kafka. */
  address: string;
  /** An orderly shutdown. */
  stop(): Promise<void>;
  /** `kill -9` */
  kill(): Promise<void>;
  /** Starts it again after `stop` or `kill`, and waits until it is ready. */
  start(): Promise<void>;
  /** Freezes it: connections stay open and nothing responds. */
  pause(): Promise<void>;
  resume(): Promise<void>;
  /** Stops it and deletes its data. */
  remove(): Promise<void>;
}>;

/** `run` names the test run, so that everything it started is found again. */
export type ServerSource = Readonly<{ mode: InfraMode; run: string }>;

/** The prefix of the folders of all runs, below the folder for temporary files. */
export const RUN_FOLDER_PREFIX = 'order-service-test-';
/** Migrated, and copied for each test. */
export const TEMPLATE_DATABASE = 'orders_template';

export const POSTGRES_SETTINGS = {
  /** More than one service needs: test files run side by side. */
  max_connections: '300',
  /** It would run at any moment, with a session that a test may count and with new statistics for plans. */
  autovacuum: 'off',
  max_prepared_transactions: '10',
} as const;

const quiet = () => {};

export async function startTestPostgres(source: ServerSource): Promise<TestServer> {
  refuseNone(source);
  if (source.mode === 'docker') return (await docker()).startDockerPostgres(source.run);
  const folder = await serverFolder(source.run, 'postgres-');
  const settings = POSTGRES_SETTINGS;
  const server = await startPostgres({ folder, database: 'postgres', log: quiet, settings });
  return embedded(server.url, folder, server);
}

export async function startTestKafka(source: ServerSource): Promise<TestServer> {
  refuseNone(source);
  if (source.mode === 'docker') return (await docker()).startDockerKafka(source.run);
  const folder = await serverFolder(source.run, 'kafka-');
  const server = await startKafka({ folder, cacheFolder: folders.cache, log: quiet });
  return embedded(server.broker, folder, server);
}

/** The host name or address of the servers that are started here. */
export async function hostOfServers({ mode }: ServerSource): Promise<string> {
  return mode === 'docker' ? (await docker()).dockerHost() : '127.0.0.1';
}

/** A Kafka with more listeners. `address` is that of the listener in plaintext. */
export async function startTestKafkaWith(
  source: ServerSource,
  extras: KafkaExtras,
): Promise<TestServer> {
  refuseNone(source);
  if (source.mode === 'docker') return (await docker()).startDockerKafkaWith(source.run, extras);
  const folder = await serverFolder(source.run, 'kafka-');
  const server = await startKafka({ folder, cacheFolder: folders.cache, log: quiet, extras });
  return embedded(server.broker, folder, server);
}

/** Makes a folder for one server. The folder is deleted at the end of the run. */
export async function serverFolder(run: string, prefix: string): Promise<string> {
  await mkdir(runFolder(run), { recursive: true });
  return mkdtemp(join(runFolder(run), prefix));
}

/** The folder with the data of the embedded servers of a run, one folder each. */
export function runFolder(run: string): string {
  return join(tmpdir(), `${RUN_FOLDER_PREFIX}${run}`);
}

/** The same server and user, in another database. */
export function urlOfDatabase(url: string, database: string): string {
  return Object.assign(new URL(url), { pathname: `/${database}` }).href;
}

/** Loaded on demand only, because the client of Docker takes a while to load. */
function docker() {
  return import('./docker-servers.ts');
}

function refuseNone({ mode }: ServerSource): void {
  if (mode === 'none') throw new Error('TEST_INFRA=none starts no server');
}

function embedded(address: string, folder: string, server: LocalServer): TestServer {
  const { stop, kill, start } = server;
  return {
    address,
    stop,
    kill,
    start,
    pause: () => server.signal('SIGSTOP'),
    resume: () => server.signal('SIGCONT'),
    remove: async () => {
      await server.kill();
      await rm(folder, { recursive: true, force: true });
    },
  };
}
