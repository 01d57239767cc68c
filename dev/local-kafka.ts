import { execFile, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, open, rm, symlink, writeFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { promisify } from 'node:util';
import { createKafkaClient } from '#src/outbox/kafkajs-client.ts';
import { serverEnvironment } from './environment.ts';
import { kafkaPrograms } from './kafka-programs.ts';
import type { KafkaProgramOptions, KafkaPrograms } from './kafka-programs.ts';
import { keptPort } from './ports.ts';
import {
  findProcesses,
  hasEnded,
  killAll,
  markerOf,
  outputOf,
  signalAll,
  startError,
  terminate,
} from './processes.ts';
import type { LocalServer } from './processes.ts';

const START_MS_MAX = 60_000;
const REUSE_MS_MAX = 10_000;
const STOP_MS_MAX = 15_000;
const POLL_MS = 100;
const SETTINGS = 'server.properties';
const LIBRARIES = 'libraries';
const QUIET = '-Dorg.slf4j.simpleLogger.defaultLogLevel=warn';

/** One node that is broker and controller. The internal topics are small and have one replica. */
export const NODE_SETTINGS = {
  'node.id': 1,
  'process.roles': 'broker,controller',
  'controller.listener.names': 'CONTROLLER',
  'auto.create.topics.enable': false,
  // After a kill, the controller refuses the broker until its last session has expired.
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
} as const;

/** What a broker has besides a listener in plaintext. Tests use it. */
export type KafkaExtras = Readonly<{
  /** `protocol` is one of Kafka's security protocols. */
  listeners: readonly Readonly<{ name: string; protocol: string; port: number }>[];
  settings: Readonly<Record<string, string>>;
  /** For the program that creates the data folder. */
  formatOptions: readonly string[];
}>;

const NO_EXTRAS: KafkaExtras = { listeners: [], settings: {}, formatOptions: [] };

/** A real Apache Kafka 4.3.1: one broker on a port of 127.0.0.1. The port stays the same. */
export type LocalKafka = LocalServer & Readonly<{ /** `host:port` */ broker: string }>;

type Server = KafkaPrograms &
  Readonly<{
    log: (line: string) => void;
    folder: string;
    logFile: string;
    marker: string;
    broker: string;
    extras: KafkaExtras;
  }>;

/**
 * Starts the broker on the folder, or reuses the broker that an earlier process left running there. The broker
 * never creates a topic by itself.
 * @throws an Error whose message says why there can be no local broker
 */
export async function startKafka(
  options: KafkaProgramOptions & Readonly<{ extras?: KafkaExtras }>,
): Promise<LocalKafka> {
  const folder = resolve(options.folder);
  const cacheFolder = resolve(options.cacheFolder);
  await mkdir(folder, { recursive: true });
  const programs = await kafkaPrograms({ ...options, folder, cacheFolder });
  const server = await prepare(folder, programs, options.log, options.extras ?? NO_EXTRAS);
  await startServer(server);
  return {
    broker: server.broker,
    start: () => startServer(server),
    kill: () => killAll(server.marker),
    stop: () => terminate(server.marker, STOP_MS_MAX),
    signal: (name) => signalAll(server.marker, name),
  };
}

async function prepare(
  folder: string,
  programs: KafkaPrograms,
  log: (line: string) => void,
  extras: KafkaExtras,
): Promise<Server> {
  const marker = markerOf(folder);
  const isOurs = async () => (await findProcesses(marker)).length > 0;
  const port = await keptPort(join(folder, 'port'), isOurs);
  const controllerPort = await keptPort(join(folder, 'controller-port'), isOurs);
  const logFile = join(folder, 'kafka.log');
  const broker = `127.0.0.1:${port}`;
  const server = { ...programs, log, folder, logFile, marker, broker, extras };
  const address = { bind: '127.0.0.1', host: '127.0.0.1', port, controllerPort };
  await writeFile(join(folder, SETTINGS), kafkaProperties(address, extras));
  if (!existsSync(join(folder, 'data', 'meta.properties'))) {
    log('Kafka 4.3.1: creating the data folder...');
    await format(server);
  }
  return server;
}

async function format(server: Server): Promise<void> {
  const cluster = randomBytes(16).toString('base64url');
  const options = ['format', '--ignore-formatted', `--cluster-id=${cluster}`, '--config', SETTINGS];
  const tool = ['kafka.tools.StorageTool', ...options, ...server.extras.formatOptions];
  const args = [...(await jvmArguments(server)), ...tool];
  await promisify(execFile)(server.java, args, optionsOf(server)).catch((error: unknown) => {
    const [problem = ''] = outputOf(error).trim().split('\n');
    throw new Error(
      `Kafka could not create its data folder in ${server.folder}: ${problem || String(error)}`,
    );
  });
}

/** The content of `server.properties`. Clients reach the broker at `host`, it listens at `bind`. */
export function kafkaProperties(
  address: Readonly<{ bind: string; host: string; port: number; controllerPort: number }>,
  extras: KafkaExtras,
): string {
  const { bind, host, port, controllerPort } = address;
  const plaintext = { name: 'PLAINTEXT', protocol: 'PLAINTEXT', port };
  const listeners = [plaintext, ...extras.listeners];
  const at = (where: string) => listeners.map((each) => `${each.name}://${where}:${each.port}`);
  const protocols = listeners.map(({ name, protocol }) => `${name}:${protocol}`);
  const settings = {
    ...NODE_SETTINGS,
    listeners: [...at(bind), `CONTROLLER://127.0.0.1:${controllerPort}`].join(),
    'advertised.listeners': at(host).join(),
    'listener.security.protocol.map': [...protocols, 'CONTROLLER:PLAINTEXT'].join(),
    'controller.quorum.voters': `1@127.0.0.1:${controllerPort}`,
    'log.dirs': 'data',
    ...extras.settings,
  };
  return Object.entries(settings)
    .map(([name, value]) => `${name}=${String(value).replaceAll('\n', '\\n')}\n`)
    .join('');
}

async function startServer(server: Server): Promise<void> {
  if ((await findProcesses(server.marker)).length > 0) {
    if (await respondsWithin(server, REUSE_MS_MAX, () => false)) return;
    server.log('Kafka 4.3.1: replacing a broker that does not respond...');
    await killAll(server.marker);
  }
  const child = await spawnServer(server);
  if (await respondsWithin(server, START_MS_MAX, () => hasEnded(child))) return;
  await killAll(server.marker);
  throw await startError('Kafka', server.logFile);
}

/** The broker gets a process group of its own, so that a Ctrl-C in the terminal does not reach it. */
async function spawnServer(server: Server) {
  const jvm = ['-Xmx512m', '-XX:+UseSerialGC', QUIET, ...(await jvmArguments(server))];
  const log = await open(server.logFile, 'a');
  const child = spawn(server.java, [...jvm, 'kafka.Kafka', SETTINGS], {
    ...optionsOf(server),
    detached: true,
    stdio: ['ignore', log.fd, log.fd],
  });
  child.on('error', () => {}); // a program that cannot start does not respond, which is reported then
  child.unref();
  await log.close();
  return child;
}

/**
 * Java works in the broker's folder and uses relative names only. In an absolute name, Kafka would misread a
 * comma in `log.dirs`, a colon in a class path and every letter of the properties that is not ASCII.
 */
function optionsOf({ folder }: Server) {
  return { cwd: folder, env: serverEnvironment() };
}

/** The marker, and a class path that leads through a link to the jars. */
async function jvmArguments({ folder, libraries, marker }: Server): Promise<string[]> {
  await rm(join(folder, LIBRARIES), { force: true });
  await symlink(libraries, join(folder, LIBRARIES));
  return [`-Dmarker=${marker}`, '-cp', join(LIBRARIES, '*')];
}

async function respondsWithin(server: Server, ms: number, hasFailed: () => boolean) {
  const deadline = performance.now() + ms;
  while (performance.now() < deadline && !hasFailed()) {
    if (await kafkaResponds(server.broker)) return true;
    await delay(POLL_MS);
  }
  return false;
}

/** Whether a broker is registered with its controller and ready for clients. */
export async function kafkaResponds(broker: string): Promise<boolean> {
  const { kafka } = createKafkaClient({ brokers: [broker] }, { debug: () => {} });
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
