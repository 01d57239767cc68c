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

/*
 * Orders per second over HTTP, next to pgbench with the same rows on the same Postgres, in turns, so
 * that a noisy machine is noisy for both. Postgres is durable (fsync on), Kafka is real.
 *
 *   node bench/orders.ts [--seconds 10] [--rounds 3] [--connections 128] [--relay on|off]
 *   node bench/orders.ts --alone --rounds 12     from an empty database, two minutes, without pgbench
 */
const { values } = parseArgs({
  options: {
    seconds: { type: 'string', default: '10' },
    rounds: { type: 'string', default: '3' },
    connections: { type: 'string', default: '128' },
    relay: { type: 'string', default: 'on' },
    alone: { type: 'boolean', default: false },
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
const kafka = await startKafka({
  folder: join(folder, 'kafka'),
  cacheFolder: folders.cache,
  log: console.log,
}).catch((error: unknown) => {
  console.log(`without Kafka: ${String(error)}`);
});
let service: ChildProcess | undefined;
try {
  await migrate(postgres.url);
  const port = await freePort();
  service = await startService(port, kafka?.broker ?? '');
  if (!values.alone) {
    await overHttp(port, 3); // both warm up
    await withPgbench(3);
  }
  const rounds = [];
  for (let round = 1; round <= Number(values.rounds); round += 1) {
    const pgbench = values.alone ? Number.NaN : await withPgbench(Number(values.seconds));
    const http = await overHttp(port, Number(values.seconds));
    rounds.push({ pgbench, http: http.perSecond });
    const beside = values.alone
      ? ''
      : `, pgbench ${pgbench}/s, ratio ${(http.perSecond / pgbench).toFixed(2)}`;
    console.log(
      `round ${round}: over HTTP ${http.perSecond}/s (p50 ${http.p50Ms} ms, p99 ${http.p99Ms} ms, ` +
        `${http.failed} failed)${beside}, outbox ${await outboxRows()} rows`,
    );
  }
  const ratios = rounds.map(({ pgbench, http }) => http / pgbench).toSorted((a, b) => a - b);
  const median = ratios[Math.floor(ratios.length / 2)] ?? 0;
  if (!values.alone)
    console.log(`relay ${values.relay}: ${median.toFixed(2)} times pgbench (median of rounds)`);
} finally {
  service?.kill('SIGTERM');
  await kafka?.stop();
  await postgres.stop();
  await rm(folder, { recursive: true, force: true });
}

async function startService(port: number, broker: string): Promise<ChildProcess> {
  const child = spawn(process.execPath, ['src/main.ts'], {
    cwd: folders.root,
    env: {
      DATABASE_URL: postgres.url,
      KAFKA_BROKERS: broker,
      PORT: String(port),
      RELAY: values.relay,
      AUTH: 'off',
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

async function overHttp(port: number, seconds: number) {
  const { stdout } = await run(process.execPath, [
    join(folders.root, 'bench/http-load.ts'),
    ...[port, values.connections, seconds].map(String),
  ]);
  const result = JSON.parse(stdout);
  return { ...result, perSecond: Math.round(result.orders / result.seconds) };
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
