import { execFile, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, open, readFile, writeFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { promisify } from 'node:util';
import { createKafkaClient } from '#src/outbox/kafka-client.ts';
import { kafkaLibraries } from './kafka-libraries.ts';
import type { KafkaUnavailable } from './kafka-libraries.ts';
import { keptPort } from './ports.ts';
import {
  findProcesses,
  hasEnded,
  killAll,
  markerOf,
  signalAll,
  waitUntilGone,
} from './processes.ts';

const START_MS_MAX = 60_000;
const REUSE_MS_MAX = 10_000;
const STOP_MS_MAX = 15_000;
const POLL_MS = 100;
const QUIET = '-Dorg.slf4j.simpleLogger.defaultLogLevel=warn';

export type LocalKafkaOptions = Readonly<{
  /** The broker's data, settings, log and ports are kept in here. */
  folder: string;
  /** Where the jars go; brokers may share it. */
  cacheFolder: string;
  log: (line: string) => void;
  /** Breaks off a fetch from Maven. */
  signal?: AbortSignal;
}>;

/** A real Apache Kafka 4.3.1, one broker on a port of 127.0.0.1 that stays the same. */
export type LocalKafka = Readonly<{
  /** `host:port` */
  broker: string;
  stop(): Promise<void>;
  /** `kill -9` */
  kill(): Promise<void>;
  /** After `stop` or `kill`: the same data, the same port. */
  start(): Promise<void>;
  signal(name: NodeJS.Signals): Promise<void>;
}>;

type Server = Readonly<{
  log: (line: string) => void;
  libraries: string;
  folder: string;
  logFile: string;
  marker: string;
  broker: string;
}>;

/**
 * Starts the broker on the folder, or goes on with one that an earlier process left running there.
 * It outlives this process unless it is stopped. Topics are never created by themselves.
 */
export async function startKafka(
  options: LocalKafkaOptions,
): Promise<LocalKafka | KafkaUnavailable> {
  const libraries = await kafkaLibraries({
    ...options,
    cacheFolder: resolve(options.cacheFolder),
  });
  if (typeof libraries !== 'string') return libraries;
  const folder = resolve(options.folder);
  await mkdir(folder, { recursive: true });
  const server = await prepare(folder, libraries, options.log);
  const signal = (name: NodeJS.Signals) => signalAll(server.marker, name);
  const kafka = {
    broker: server.broker,
    start: () => startServer(server),
    kill: () => killAll(server.marker),
    stop: async () => {
      await signal('SIGTERM');
      if (!(await waitUntilGone(server.marker, STOP_MS_MAX))) await killAll(server.marker);
    },
    signal,
  };
  await kafka.start();
  return kafka;
}

async function prepare(
  folder: string,
  libraries: string,
  log: (line: string) => void,
): Promise<Server> {
  const marker = markerOf(folder);
  const isOurs = async () => (await findProcesses(marker)).length > 0;
  const port = await keptPort(join(folder, 'port'), isOurs);
  const controllerPort = await keptPort(join(folder, 'controller-port'), isOurs);
  await writeFile(join(folder, 'server.properties'), properties(folder, port, controllerPort));
  if (!existsSync(join(folder, 'data', 'meta.properties'))) {
    log('Kafka 4.3.1: creating the data folder...');
    const cluster = randomBytes(16).toString('base64url');
    const format = ['format', '--ignore-formatted', `--cluster-id=${cluster}`];
    const args = [...classPath(libraries), 'kafka.tools.StorageTool', ...format];
    await promisify(execFile)('java', [...args, '--config', join(folder, 'server.properties')]);
  }
  const logFile = join(folder, 'kafka.log');
  return { log, libraries, folder, logFile, marker, broker: `127.0.0.1:${port}` };
}

/** One node that is broker and controller, with the internal topics small and on one replica. */
function properties(folder: string, port: number, controllerPort: number): string {
  const settings = {
    'node.id': 1,
    'process.roles': 'broker,controller',
    listeners: `PLAINTEXT://127.0.0.1:${port},CONTROLLER://127.0.0.1:${controllerPort}`,
    'advertised.listeners': `PLAINTEXT://127.0.0.1:${port}`,
    'listener.security.protocol.map': 'PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT',
    'controller.listener.names': 'CONTROLLER',
    'controller.quorum.voters': `1@127.0.0.1:${controllerPort}`,
    'log.dirs': join(folder, 'data'),
    'auto.create.topics.enable': false,
    // After a kill the controller refuses the broker until its last session has run out.
    'broker.heartbeat.interval.ms': 400,
    'broker.session.timeout.ms': 2000,
    'offsets.topic.replication.factor': 1,
    'offsets.topic.num.partitions': 1,
    'transaction.state.log.replication.factor': 1,
    'transaction.state.log.min.isr': 1,
    'transaction.state.log.num.partitions': 1,
    'share.coordinator.state.topic.replication.factor': 1,
    'share.coordinator.state.topic.min.isr': 1,
    'group.initial.rebalance.delay.ms': 0,
  };
  return Object.entries(settings)
    .map(([name, value]) => `${name}=${value}\n`)
    .join('');
}

async function startServer(server: Server): Promise<void> {
  if ((await findProcesses(server.marker)).length > 0) {
    if (await answersWithin(server, REUSE_MS_MAX, () => false)) return;
    server.log('Kafka 4.3.1: replacing a broker that does not answer...');
    await killAll(server.marker);
  }
  const child = await spawnServer(server);
  if (await answersWithin(server, START_MS_MAX, () => hasEnded(child))) return;
  await killAll(server.marker);
  const lines = (await readFile(server.logFile, 'utf8')).trim().split('\n').slice(-5);
  throw new Error(`Kafka did not start (${server.logFile}):\n${lines.join('\n')}`);
}

/** In a process group of its own, so that a Ctrl-C in the terminal does not reach it. */
async function spawnServer(server: Server) {
  const jvm = ['-Xmx512m', '-XX:+UseSerialGC', `-Dmarker=${server.marker}`, QUIET];
  const main = [...classPath(server.libraries), 'kafka.Kafka'];
  const log = await open(server.logFile, 'a');
  const child = spawn('java', [...jvm, ...main, join(server.folder, 'server.properties')], {
    detached: true,
    stdio: ['ignore', log.fd, log.fd],
  });
  child.on('error', () => {}); // what could not start does not answer, which is told then
  child.unref();
  await log.close();
  return child;
}

function classPath(libraries: string): string[] {
  return ['-cp', join(libraries, '*')];
}

async function answersWithin(server: Server, ms: number, hasFailed: () => boolean) {
  const deadline = performance.now() + ms;
  while (performance.now() < deadline && !hasFailed()) {
    if (await answers(server.broker)) return true;
    await delay(POLL_MS);
  }
  return false;
}

/** Whether a Kafka broker is there, registered with its controller and ready for clients. */
export async function answers(broker: string): Promise<boolean> {
  const { kafka } = createKafkaClient([broker], { debug: () => {} });
  const admin = kafka.admin({ retry: { retries: 0 } });
  try {
    await admin.connect();
    const { brokers } = await admin.describeCluster();
    return brokers.length > 0;
  } catch {
    return false;
  } finally {
    await admin.disconnect().catch(() => {});
  }
}
