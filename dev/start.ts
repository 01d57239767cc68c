import { mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { withoutPassword } from '#src/config-values.ts';
import { settingNames } from '#src/config.ts';
import { isLoopback } from '#src/network/loopback.ts';
import { startPostgres } from './embedded-postgres.ts';
import { removePostgresVariables, serviceEnvironment } from './environment.ts';
import { folders } from './folders.ts';
import { startKafka } from './local-kafka.ts';
import { freePort, isFree, localUrl, withoutBrackets } from './ports.ts';
import { findProcesses, killAll, markerOf } from './processes.ts';
import { createProviderSimulator } from './provider-simulator/provider-simulator.ts';
import { isServiceRunning, killService, startService, stopService, untilReady } from './service.ts';

/*
 * npm start. The environment may contain the settings of the service (npm run config). HOST and PORT say where
 * it listens. DATABASE_URL (or DATABASE_URL_FILE), KAFKA_BROKERS, and PAYMENT_URL with SHIPPING_URL name servers
 * that exist already; npm start does not bring those up. No other variable reaches the servers that it does bring up.
 */

type Broker = Readonly<{ brokers: string; problem?: string }>;
type Postgres = Readonly<{ settings: NodeJS.ProcessEnv; shown: string }>;

const { DATABASE_URL, DATABASE_URL_FILE } = process.env;
const { KAFKA_BROKERS, PAYMENT_URL, SHIPPING_URL, PORT } = process.env;
const host = withoutBrackets(process.env['HOST'] || '127.0.0.1');
/** Open to this machine, closed to the network, unless the environment says otherwise. */
const auth = process.env['AUTH'] || (isLoopback(host) ? 'off' : 'on');
/** For the service only, and only with a database of the user's own. */
const postgresVariables = removePostgresVariables();
/** The local Kafka has no TLS and no login, whatever the environment says of other brokers. */
const plaintext = Object.fromEntries(
  settingNames.filter((name) => /^KAFKA_(TLS|SASL)/.test(name)).map((name) => [name, '']),
);
/** One Ctrl-C arrives twice: from the terminal, and from npm, which forwards its own. */
const SAME_SIGNAL_MS = 1_000;
const SAMPLE_ORDER = {
  customerId: 'c-1',
  currency: 'EUR',
  items: [{ sku: 'book', quantity: 2, priceCents: 1250 }],
  payment: { method: 'pm_card_ok' },
  shippingAddress: {
    name: 'Ada Example',
    line1: '1 Sample Street',
    postalCode: '10115',
    city: 'Berlin',
    country: 'DE',
  },
};
const pidFile = join(folders.data, 'start.pid');
/** For dev/operate.ts. */
const databaseUrlFile = join(folders.data, 'database-url');
const startedAt = performance.now();
const stopping = new AbortController();
/** Stop what was brought up, in any order. */
const stops: (() => Promise<void>)[] = [];
let stopRequestedAt = 0;
let bringingUp: Promise<unknown> = Promise.resolve();
let hasService = false;

await refuseSecondStart();
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
  process.on(signal, onSignal);
}
try {
  await start();
} catch (error) {
  // A signal may break what is still starting. That needs no message.
  if (!stopping.signal.aborted) {
    console.error(`\n${messageOf(error)}`);
    await end(1);
  }
}

async function start(): Promise<void> {
  const port = await servicePort();
  const all = [bringUpPostgres(), bringUpKafka(), bringUpProviders()] as const;
  bringingUp = Promise.allSettled(all);
  const [database, broker, providers] = await Promise.all(all);
  if (stopping.signal.aborted) return;
  const service = startService({
    ...serviceEnvironment(),
    AUTH: auth,
    ...database.settings,
    KAFKA_BROKERS: broker.brokers,
    ...(KAFKA_BROKERS ? {} : plaintext),
    ...providers,
    HOST: host,
    PORT: String(port),
  });
  hasService = true;
  void service.ended.then(endAfterService);
  const url = localUrl(host, port);
  if (await untilReady(url, service)) {
    console.log(welcome(url, database, broker, providers.PAYMENT_URL));
  } else if (!stopping.signal.aborted) {
    throw new Error(`The service does not get ready: ${url}/readyz does not return 200.`);
  }
}

async function bringUpPostgres(): Promise<Postgres> {
  if (DATABASE_URL || DATABASE_URL_FILE) {
    const shown = DATABASE_URL ? withoutPassword(DATABASE_URL) : 'named in its file';
    console.log(`Postgres: using ${DATABASE_URL ? 'DATABASE_URL' : 'DATABASE_URL_FILE'}, ${shown}`);
    return { settings: postgresVariables, shown };
  }
  const { postgres: folder } = folders;
  const postgres = await startPostgres({ folder, database: 'orders', log: console.log });
  stops.push(postgres.stop);
  await writeFile(databaseUrlFile, postgres.url, { mode: 0o600 });
  console.log(`Postgres 18: ready on port ${postgres.port}.`);
  const noOwner = { MIGRATIONS_DATABASE_URL: '', MIGRATIONS_DATABASE_URL_FILE: '' };
  return { settings: { DATABASE_URL: postgres.url, ...noOwner }, shown: postgres.url };
}

/** Without a broker the service still takes orders, so a problem with Kafka ends nothing. */
async function bringUpKafka(): Promise<Broker> {
  if (KAFKA_BROKERS) {
    console.log(`Kafka: using KAFKA_BROKERS, ${KAFKA_BROKERS}`);
    return { brokers: KAFKA_BROKERS };
  }
  try {
    const kafka = await startKafka({
      folder: folders.kafka,
      cacheFolder: folders.cache,
      log: console.log,
      signal: stopping.signal,
    });
    stops.push(kafka.stop);
    console.log(`Kafka 4.3.1: ready at ${kafka.broker}.`);
    return { brokers: kafka.broker };
  } catch (error) {
    return { brokers: '', problem: messageOf(error) };
  }
}

/** Starts the simulator in this process, unless the environment names real providers. */
async function bringUpProviders() {
  if (PAYMENT_URL && SHIPPING_URL) return { PAYMENT_URL, SHIPPING_URL };
  const ledgerFile = join(folders.data, 'provider-ledger.jsonl');
  const simulator = createProviderSimulator({ ledgerFile });
  const url = await simulator.listen();
  stops.push(simulator.close);
  console.log(`Payment and shipping simulator: ready at ${url}.`);
  return { PAYMENT_URL: url, SHIPPING_URL: url };
}

/** Returns the service's port when a service that a killed start left running has given it up. */
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
    console.error(`npm start is already running here, as process ${earlier}. Stop it first.`);
    process.exit(1);
  }
  await writeFile(pidFile, String(process.pid));
}

function onSignal(): void {
  if (!stopping.signal.aborted) {
    stopRequestedAt = performance.now();
    void end(0);
  } else if (performance.now() - stopRequestedAt > SAME_SIGNAL_MS) {
    void endAtOnce();
  }
}

async function endAfterService(code: number | NodeJS.Signals): Promise<void> {
  if (stopping.signal.aborted) return;
  console.error(`\nThe service ended by itself (${code}). Its output is above.`);
  await end(typeof code === 'number' && code > 0 ? code : 1);
}

/** Stops the service first, because it still needs the servers while it drains. */
async function end(code: number): Promise<never> {
  stopping.abort();
  if (hasService || stops.length > 0) console.log('\nStopping. Press Ctrl-C again to end at once.');
  if (hasService) await stopService();
  await bringingUp;
  await Promise.allSettled(stops.map((stop) => stop()));
  await rm(pidFile, { force: true });
  process.exit(code);
}

/** Kills by marker, because servers that are still starting have no stop function yet. */
async function endAtOnce(): Promise<never> {
  if (hasService) await killService();
  await Promise.all([folders.postgres, folders.kafka].map((folder) => killAll(markerOf(folder))));
  process.exit(130);
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** Where everything is, and a first order to paste. */
function welcome(url: string, database: Postgres, broker: Broker, providers: string): string {
  const seconds = ((performance.now() - startedAt) / 1000).toFixed(1);
  const next = broker.problem
    ? `Events wait in the outbox until there is a broker. Local Kafka needs Java 17 and Maven: fix the problem
above and start again, or set KAFKA_BROKERS, or run docker compose up -d --build.`
    : `See its event in Kafka:

  npm run tail`;
  const [access, header] =
    auth === 'off'
      ? ['open: whoever reaches this address may do anything (AUTH=off)', '']
      : ['needs an API key: see npm run keys', ' -H "authorization: Bearer $KEY"'];
  return `
Ready in ${seconds} s.

  Service   ${url}
  Access    ${access}
  Docs      ${url}/docs
  Metrics   ${url}/metrics
  Postgres  ${database.shown}
  Kafka     ${broker.problem ? `none: ${broker.problem}` : broker.brokers}
  Providers ${providers}

Place an order:

  curl -si ${url}/v1/orders${header} -H 'content-type: application/json' \\
    -d '${JSON.stringify(SAMPLE_ORDER)}'

Or add stock, and let the service take payment and ship by itself:

  curl -s -X PUT ${url}/v1/stock/book${header} -H 'content-type: application/json' -d '{"onHand":10}'
  curl -si ${url}/v1/orders${header} -H 'content-type: application/json' \\
    -d '${JSON.stringify({ ...SAMPLE_ORDER, fulfilment: 'automatic' })}'

${next}

Ctrl-C ends it all. Stored data is kept.
`;
}
