import { mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { localUrl, withoutBrackets } from './addresses.ts';
import { startPostgres } from './embedded-postgres.ts';
import { removePostgresVariables, serviceEnvironment } from './environment.ts';
import { folders } from './folders.ts';
import { startKafka } from './local-kafka.ts';
import { startProviders } from './local-providers.ts';
import { freePort, isFree } from './ports.ts';
import { findProcesses, killAll, markerOf } from './processes.ts';
import { isServiceRunning, startService, stopService, untilReady } from './service.ts';
import type { Service } from './service.ts';
import { welcome } from './welcome.ts';

/**
 * npm start. The environment may hold the settings of the service (npm run config). HOST and PORT say where
 * it listens; DATABASE_URL, KAFKA_BROKERS, PAYMENT_URL and SHIPPING_URL name servers that are there already,
 * and are then not brought up. Nothing else of it reaches the servers that are.
 */

/** A server that the service needs. */
type Server = Readonly<{ stop(): Promise<void> }>;
type Brokers = Readonly<{ brokers: string; withoutKafka: string | undefined }>;

const { DATABASE_URL, KAFKA_BROKERS, PAYMENT_URL, SHIPPING_URL } = process.env;
const host = withoutBrackets(process.env['HOST'] || '127.0.0.1');
const { PORT } = process.env;
/** Of the service alone, if it works on a Postgres that is not brought up here. */
const postgresVariables = removePostgresVariables();
/** One Ctrl-C comes twice: from the terminal, and from npm, which passes its own on. */
const SAME_SIGNAL_MS = 1_000;
const pidFile = join(folders.data, 'start.pid');
/** For the operator's commands, which run beside this one. */
const databaseUrlFile = join(folders.data, 'database-url');
const startedAt = performance.now();
const stopping = new AbortController();
const servers: Server[] = [];
let stopAskedAt = 0;
let bringingUp: Promise<unknown> = Promise.resolve();
let service: Service | undefined;

await refuseSecondStart();
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
  process.on(signal, onSignal);
}
try {
  await start();
} catch (error) {
  // What is half started when a signal comes may fail of it, and needs no words.
  if (!stopping.signal.aborted) {
    console.error(`\n${messageOf(error)}`);
    await end(1);
  }
}

async function start(): Promise<void> {
  const port = await servicePort();
  const all = [bringUpPostgres(), bringUpKafka(), bringUpProviders()] as const;
  bringingUp = Promise.allSettled(all);
  const [database, { brokers, withoutKafka }, providers] = await Promise.all(all);
  if (stopping.signal.aborted) return;
  service = startService({
    ...serviceEnvironment(),
    ...(DATABASE_URL ? postgresVariables : {}),
    DATABASE_URL: database,
    KAFKA_BROKERS: brokers,
    ...providers,
    HOST: host,
    PORT: String(port),
  });
  void service.ended.then(endAfterService);
  const url = localUrl(host, port);
  if (await untilReady(url, service)) {
    const seconds = ((performance.now() - startedAt) / 1000).toFixed(1);
    const shown = DATABASE_URL ? withoutPassword(DATABASE_URL) : database;
    console.log(
      welcome({
        seconds,
        url,
        database: shown,
        brokers,
        withoutKafka,
        providers: providers.PAYMENT_URL,
      }),
    );
  } else if (!stopping.signal.aborted) {
    throw new Error(`The service does not get ready: ${url}/readyz does not answer 200.`);
  }
}

async function bringUpPostgres(): Promise<string> {
  if (DATABASE_URL) {
    console.log(`Postgres: that of DATABASE_URL, ${withoutPassword(DATABASE_URL)}`);
    return DATABASE_URL;
  }
  const { postgres: folder } = folders;
  const postgres = await startPostgres({ folder, database: 'orders', log: console.log });
  servers.push(postgres);
  await writeFile(databaseUrlFile, postgres.url, { mode: 0o600 });
  console.log(`Postgres 18: ready on port ${postgres.port}.`);
  return postgres.url;
}

async function bringUpKafka(): Promise<Brokers> {
  if (KAFKA_BROKERS) {
    console.log(`Kafka: that of KAFKA_BROKERS, ${KAFKA_BROKERS}`);
    return { brokers: KAFKA_BROKERS, withoutKafka: undefined };
  }
  const kafka = await startKafka({
    folder: folders.kafka,
    cacheFolder: folders.cache,
    log: console.log,
    signal: stopping.signal,
  }).catch((error: unknown) => ({ reason: messageOf(error) }));
  if ('reason' in kafka) return { brokers: '', withoutKafka: kafka.reason };
  servers.push(kafka);
  console.log(`Kafka 4.3.1: ready at ${kafka.broker}.`);
  return { brokers: kafka.broker, withoutKafka: undefined };
}

/** Settings of the service: the simulator, unless real providers are named. */
async function bringUpProviders() {
  if (PAYMENT_URL && SHIPPING_URL) return { PAYMENT_URL, SHIPPING_URL };
  const providers = await startProviders();
  servers.push(providers);
  console.log(`Payment and shipping simulator: ready at ${providers.url}.`);
  return { PAYMENT_URL: providers.url, SHIPPING_URL: providers.url };
}

/** The service's port, once a service that a killed start left behind has given it up. */
async function servicePort(): Promise<number> {
  if (await isServiceRunning()) {
    console.log('Ending the service that an earlier start left running...');
    await stopService();
  }
  const port = Number(PORT || '3000');
  if (!Number.isInteger(port) || port < 0 || port > 65_535) {
    throw new Error(`PORT=${PORT} is not a port.`);
  }
  try {
    if (port === 0) return await freePort(host);
    if (await isFree(host, port)) return port;
  } catch (error) {
    throw new Error(
      `The service cannot listen on HOST=${host}, PORT=${port}: ${messageOf(error)}`,
      { cause: error },
    );
  }
  throw new Error(
    `Port ${port} of ${host} is in use by another program. Choose another: PORT=3001 npm start`,
  );
}

async function refuseSecondStart(): Promise<void> {
  await mkdir(folders.data, { recursive: true });
  const earlier = Number(await readFile(pidFile, 'utf8').catch(() => ''));
  const starts = await findProcesses('dev/start.ts');
  if (starts.some(({ pid }) => pid === earlier)) {
    console.error(`npm start runs here already, as process ${earlier}. End it first.`);
    process.exit(1);
  }
  await writeFile(pidFile, String(process.pid));
}

function onSignal(): void {
  if (!stopping.signal.aborted) {
    stopAskedAt = performance.now();
    void end(0);
  } else if (performance.now() - stopAskedAt > SAME_SIGNAL_MS) {
    void endAtOnce();
  }
}

async function endAfterService(code: number | NodeJS.Signals): Promise<void> {
  if (stopping.signal.aborted) return;
  console.error(`\nThe service ended by itself (${code}); what it says stands above.`);
  await end(typeof code === 'number' && code > 0 ? code : 1);
}

/** The service first, for what it still writes while it drains; then the servers. */
async function end(code: number): Promise<never> {
  stopping.abort();
  if (service || servers.length > 0) console.log('\nStopping; once more Ctrl-C ends it at once...');
  await service?.stop();
  await bringingUp;
  await Promise.allSettled(servers.map((server) => server.stop()));
  await rm(pidFile, { force: true });
  process.exit(code);
}

/** By what marks them: those that are still starting are not among the servers yet. */
async function endAtOnce(): Promise<never> {
  await service?.kill();
  await Promise.all([folders.postgres, folders.kafka].map((folder) => killAll(markerOf(folder))));
  process.exit(130); // and the simulator ends with this process
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

function withoutPassword(url: string): string {
  return URL.canParse(url) ? Object.assign(new URL(url), { password: '' }).href : url;
}
