import { spawn } from 'node:child_process';
import { once } from 'node:events';
import type { ChildProcess } from 'node:child_process';
import { readFileSync, readdirSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { Agent, request } from 'node:http';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { startPostgres } from '#dev/embedded-postgres.ts';
import { folders } from '#dev/folders.ts';
import { freePort } from '#dev/ports.ts';

/*
 * What peers that break the rules (bench/abusers.ts) cost everybody else: descriptors and memory of the service, and
 * the latency of normal calls (a new order, then a read of it), first without them, then with them.
 *
 *   node bench/abuse.ts [--idle 10000] [--holders 200] [--pipeliners 12] [--quiet 15] [--abused 45]
 *                       [--rounds 1] [--root <checkout>] [--setting NAME=value ...]
 *
 * `--root` is the checkout whose service is started: another commit can be measured with this script. The limit of
 * open files (ulimit -n) must be above the number of idle connections. Linux only, for it reads /proc.
 */
const { values } = parseArgs({
  options: {
    idle: { type: 'string', default: '10000' },
    holders: { type: 'string', default: '200' },
    pipeliners: { type: 'string', default: '12' },
    quiet: { type: 'string', default: '15' },
    abused: { type: 'string', default: '45' },
    rounds: { type: 'string', default: '1' },
    root: { type: 'string', default: folders.root },
    setting: { type: 'string', multiple: true, default: [] },
  },
});
const READY_MS_MAX = 30_000;
const CALLERS = 8;
const CALL_MS_MAX = 10_000;
const SAMPLE_EVERY_MS = 200;
const AFTER_MS = 5_000;
const folder = await mkdtemp(join(tmpdir(), 'abuse-bench-'));
const postgres = await startPostgres({
  folder: join(folder, 'postgres'),
  database: 'orders',
  log: () => undefined,
  settings: { max_connections: '100' },
});
let service: ChildProcess | undefined;
let abusers: ChildProcess | undefined;
try {
  const port = await freePort();
  service = await startService(port);
  const pid = service.pid ?? 0;
  await callFor(port, 3_000); // warms up
  const ratios: number[] = [];
  for (let round = 1; round <= Number(values.rounds); round += 1) {
    const quiet = await callFor(port, Number(values.quiet) * 1000);
    report('quiet', quiet);
    console.log(`before: ${held(pid)}`);
    abusers = startAbusers(port);
    await once(abusers.stdout ?? abusers, 'data');
    console.log(`idle peers connected: ${held(pid)}`);
    let highestMb = 0;
    const sampling = setInterval(() => {
      highestMb = Math.max(highestMb, memoryMb(pid));
    }, SAMPLE_EVERY_MS);
    const abused = await callFor(port, Number(values.abused) * 1000);
    clearInterval(sampling);
    report('abused', abused);
    console.log(`abused: ${held(pid)}, at most ${highestMb} MB`);
    abusers.kill('SIGKILL');
    await delay(AFTER_MS);
    console.log(`all peers gone: ${held(pid)}`);
    ratios.push(Number(abused.p99Ms) / Number(quiet.p99Ms));
  }
  const median = ratios.toSorted((a, b) => a - b)[Math.floor(ratios.length / 2)] ?? 0;
  console.log(`p99 abused is ${median.toFixed(2)} times p99 quiet (median of rounds)`);
} finally {
  abusers?.kill('SIGKILL');
  service?.kill('SIGKILL');
  await postgres.stop();
  await rm(folder, { recursive: true, force: true });
}

function startAbusers(port: number): ChildProcess {
  const script = fileURLToPath(new URL('abusers.ts', import.meta.url));
  const peers = [values.idle, values.holders, values.pipeliners];
  return spawn(process.execPath, [script, String(port), ...peers], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
}

async function callFor(port: number, durationMs: number) {
  const endsAt = performance.now() + durationMs;
  const agent = new Agent({ keepAlive: true, maxSockets: CALLERS });
  const latenciesMs: number[] = [];
  let failed = 0;
  const timed = async (method: string, path: string, body?: string) => {
    const from = performance.now();
    const response = await call(agent, port, method, path, body).catch(() => undefined);
    latenciesMs.push(performance.now() - from);
    if (response === undefined || response.status >= 300) failed += 1;
    return response?.location;
  };
  const order = JSON.stringify({
    customerId: 'bench',
    currency: 'EUR',
    items: [{ sku: 'book', quantity: 2, priceCents: 1250 }],
  });
  const caller = async () => {
    while (performance.now() < endsAt) {
      const location = await timed('POST', '/v1/orders', order);
      if (location !== undefined) await timed('GET', location);
    }
  };
  await Promise.all(Array.from({ length: CALLERS }, caller));
  agent.destroy();
  const sorted = latenciesMs.toSorted((a, b) => a - b);
  const percentile = (share: number) => (sorted[Math.floor(sorted.length * share)] ?? 0).toFixed(1);
  return {
    perSecond: Math.round((sorted.length * 1000) / durationMs),
    failed,
    p50Ms: percentile(0.5),
    p99Ms: percentile(0.99),
    maxMs: percentile(1 - 1e-9),
  };
}

function call(agent: Agent, port: number, method: string, path: string, body?: string) {
  return new Promise<{ status: number; location: string | undefined }>((done, fail) => {
    const headers = body === undefined ? {} : { 'content-type': 'application/json' };
    const sent = request({ agent, port, host: '127.0.0.1', method, path, headers }, (response) => {
      const { statusCode: status = 0, headers: received } = response;
      response.resume().on('end', () => done({ status, location: received.location }));
      response.on('error', fail);
    });
    sent.setTimeout(CALL_MS_MAX, () => sent.destroy(new Error('no response')));
    sent.on('error', fail).end(body);
  });
}

function report(name: string, calls: Awaited<ReturnType<typeof callFor>>): void {
  const { perSecond, failed, p50Ms, p99Ms, maxMs } = calls;
  console.log(
    `${name}: ${perSecond} calls/s, ${failed} failed, p50 ${p50Ms} ms, p99 ${p99Ms} ms, ` +
      `slowest ${maxMs} ms`,
  );
}

function held(pid: number): string {
  return `${readdirSync(`/proc/${pid}/fd`).length} descriptors, ${memoryMb(pid)} MB`;
}

/** Resident memory. Reading the descriptors as well takes too long while calls are measured. */
function memoryMb(pid: number): number {
  const status = readFileSync(`/proc/${pid}/status`, 'utf8');
  return Math.round(Number(/^VmRSS:\s+(\d+)/m.exec(status)?.[1]) / 1024);
}

async function startService(port: number): Promise<ChildProcess> {
  const child = spawn(process.execPath, ['src/main.ts'], {
    cwd: resolve(values.root),
    env: {
      DATABASE_URL: postgres.url,
      PORT: String(port),
      RELAY: 'off',
      AUTH: 'off',
      LOG_LEVEL: 'info',
      CONNECTIONS_MAX: '15000',
      TRUSTED_PROXIES: 'loopback',
      ...Object.fromEntries(values.setting.map((setting) => setting.split(/=(.*)/s))),
    },
    stdio: ['ignore', 'ignore', 'inherit'],
  });
  const deadline = performance.now() + READY_MS_MAX;
  while (performance.now() < deadline) {
    const response = await fetch(`http://127.0.0.1:${port}/readyz`).catch(() => undefined);
    if (response?.ok) return child;
    await delay(50);
  }
  throw new Error('the service did not get ready');
}
