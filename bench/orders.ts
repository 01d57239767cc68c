import { execFile, spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { openSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { parseArgs, promisify } from 'node:util';
import { Client } from 'pg';
import { startPostgres } from '#dev/embedded-postgres.ts';
import { folders } from '#dev/folders.ts';
import { startKafka } from '#dev/local-kafka.ts';
import { freePort } from '#dev/ports.ts';
import { migrate } from '#src/database/migrate.ts';
import { createAuthority } from '#test/support/certificates.ts';
import { startIdentityProvider } from '#test/support/identity-provider.ts';
import { PASSWORDS, secureListeners } from '#test/support/secure-listeners.ts';

/*
 * Orders per second over HTTP, next to pgbench with the same rows on the same Postgres, in turns, so
 * that a noisy machine is noisy for both. Postgres is durable (fsync on), Kafka is real.
 *
 *   node bench/orders.ts [--seconds 10] [--rounds 3] [--connections 128] [--relay on|off]
 *   node bench/orders.ts --alone --rounds 12     from an empty database, two minutes, without pgbench
 *   node bench/orders.ts --alone --relay off --auth off,key,jwt     a service for each, in turns
 *   node bench/orders.ts --alone --tls           the broker with TLS and a login
 */
const { values } = parseArgs({
  options: {
    seconds: { type: 'string', default: '10' },
    rounds: { type: 'string', default: '3' },
    connections: { type: 'string', default: '128' },
    relay: { type: 'string', default: 'on' },
    auth: { type: 'string', default: 'off' },
    alone: { type: 'boolean', default: false },
    tls: { type: 'boolean', default: false },
    log: { type: 'string', default: '' },
    'log-level': { type: 'string', default: 'info' },
  },
});
const run = promisify(execFile);
const READY_MS_MAX = 30_000;

const folder = await mkdtemp(join(tmpdir(), 'orders-bench-'));
const postgres = await startPostgres({
  folder: join(folder, 'postgres'),
  database: 'orders',
  log: console.log,
  settings: { max_connections: '200' },
});
const authority = await createAuthority(folder, 'ca');
const { extras, ports } = await secureListeners(authority);
const kafka = await startKafka({
  folder: join(folder, 'kafka'),
  cacheFolder: folders.cache,
  log: console.log,
  ...(values.tls && { extras }),
}).catch((error: unknown) => {
  console.log(`without Kafka: ${String(error)}`);
});
const provider = await startIdentityProvider();
const services: Service[] = [];
try {
  await migrate(postgres.url);
  for (const auth of values.auth.split(',')) {
    services.push(await startService(auth, kafka?.broker ?? ''));
  }
  if (!values.alone) {
    for (const service of services) await overHttp(service, 3); // all warm up
    await withPgbench(3);
  }
  const rounds = [];
  for (let round = 1; round <= Number(values.rounds); round += 1) {
    const pgbench = values.alone ? Number.NaN : await withPgbench(Number(values.seconds));
    for (const service of services) {
      const http = await overHttp(service, Number(values.seconds));
      rounds.push({ auth: service.auth, pgbench, http: http.perSecond, cpu: http.cpuUs });
      const beside = values.alone
        ? ''
        : `, pgbench ${pgbench}/s, ratio ${(http.perSecond / pgbench).toFixed(2)}`;
      console.log(
        `round ${round}: auth ${service.auth}, over HTTP ${http.perSecond}/s (p50 ${http.p50Ms} ms, ` +
          `p99 ${http.p99Ms} ms, ${http.failed} failed), ${http.cpuUs} us of CPU each${beside}, ` +
          `outbox ${await outboxRows()} rows`,
      );
    }
  }
  for (const { auth } of services) {
    const own = rounds.filter((round) => round.auth === auth);
    const ratio = median(own.map(({ pgbench, http }) => http / pgbench));
    const beside = values.alone ? '' : `, ${ratio.toFixed(2)} times pgbench`;
    console.log(
      `auth ${auth}, relay ${values.relay}: ${median(own.map(({ http }) => http))}/s, ` +
        `${median(own.map(({ cpu }) => cpu))} us of CPU each${beside} (medians of rounds)`,
    );
  }
} finally {
  for (const { child } of services) child.kill('SIGTERM');
  await provider[Symbol.asyncDispose]();
  await kafka?.stop();
  await postgres.stop();
  await rm(folder, { recursive: true, force: true });
}

/** How the service reaches Kafka. */
function kafkaSettings(broker: string): Readonly<Record<string, string>> {
  if (!values.tls) return { KAFKA_BROKERS: broker };
  return {
    KAFKA_BROKERS: `127.0.0.1:${ports.login}`,
    KAFKA_TLS: 'on',
    KAFKA_TLS_CA_FILE: authority.caFile,
    KAFKA_SASL_MECHANISM: 'scram-sha-512',
    KAFKA_SASL_USERNAME: 'orders',
    KAFKA_SASL_PASSWORD: PASSWORDS.orders,
  };
}

type Service = Readonly<{ auth: string; port: number; token: string; child: ChildProcess }>;

/** A service that asks for nothing (`off`), an API key (`key`) or a JWT (`jwt`), and what it asks for. */
async function startService(auth: string, broker: string): Promise<Service> {
  const port = await freePort();
  const child = await spawnService(port, broker, {
    ...provider.env,
    AUTH: auth === 'off' ? 'off' : 'on',
  });
  const scope = 'orders:write';
  if (auth === 'key') return { auth, port, token: await createKey(scope), child };
  const token =
    auth === 'jwt' ? await provider.token({ claims: { scope: `${scope} orders:all` } }) : '';
  return { auth, port, token, child };
}

async function createKey(scope: string): Promise<string> {
  const args = ['src/main.ts', 'keys', 'create', '--name', 'bench', '--scopes', scope];
  const env = { DATABASE_URL: postgres.url };
  const { stdout } = await run(process.execPath, args, { cwd: folders.root, env });
  return stdout.split('\n')[0] ?? '';
}

function median(numbers: readonly number[]): number {
  return numbers.toSorted((a, b) => a - b)[Math.floor(numbers.length / 2)] ?? 0;
}

async function spawnService(
  port: number,
  broker: string,
  settings: Readonly<Record<string, string>>,
): Promise<ChildProcess> {
  const child = spawn(process.execPath, ['src/main.ts'], {
    cwd: folders.root,
    env: {
      DATABASE_URL: postgres.url,
      ...kafkaSettings(broker),
      PORT: String(port),
      RELAY: values.relay,
      ...settings,
      LOG_LEVEL: values['log-level'],
      OUTBOX_MAX_ROWS: '10000000',
    },
    stdio: ['ignore', values.log === '' ? 'ignore' : openSync(values.log, 'w'), 'inherit'],
  });
  const deadline = performance.now() + READY_MS_MAX;
  while (performance.now() < deadline) {
    const response = await fetch(`http://127.0.0.1:${port}/readyz`).catch(() => undefined);
    if (response?.ok) return child;
    await delay(50);
  }
  throw new Error('the service did not get ready');
}

async function overHttp({ port, token }: Service, seconds: number) {
  const cpuBefore = await cpuSeconds(port);
  const { stdout } = await run(process.execPath, [
    join(folders.root, 'bench/http-load.ts'),
    ...[port, values.connections, seconds, token].map(String),
  ]);
  const cpu = (await cpuSeconds(port)) - cpuBefore;
  const result = JSON.parse(stdout);
  return {
    ...result,
    perSecond: Math.round(result.orders / result.seconds),
    cpuUs: Math.round((cpu / result.orders) * 1e6),
  };
}

async function cpuSeconds(port: number): Promise<number> {
  const text = await (await fetch(`http://127.0.0.1:${port}/metrics`)).text();
  return Number(/^process_cpu_seconds_total ([\d.]+)/m.exec(text)?.[1]);
}

/** One order a transaction, prepared, with as many clients as there are HTTP connections. */
async function withPgbench(seconds: number): Promise<number> {
  const options = `-n -M prepared -c ${values.connections} -j 2 -T ${seconds}`.split(' ');
  const script = join(folders.root, 'bench/place-order.sql');
  const { stdout } = await run('pgbench', [...options, '-f', script, postgres.url]);
  await query(`delete from outbox_events where topic = 'pgbench'`);
  return Math.round(Number(/tps = ([\d.]+)/.exec(stdout)?.[1]));
}

async function outboxRows(): Promise<number> {
  const [row] = await query('select count(*)::int as rows from outbox_events');
  return row.rows;
}

async function query(sql: string) {
  const client = new Client({ connectionString: postgres.url });
  await client.connect();
  try {
    return (await client.query(sql)).rows;
  } finally {
    await client.end();
  }
}
