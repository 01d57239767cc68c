import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { readFileSync, readdirSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { Agent, request } from 'node:http';
import { connect } from 'node:net';
import type { Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { startPostgres } from '#dev/embedded-postgres.ts';
import { folders } from '#dev/folders.ts';
import { freePort } from '#dev/ports.ts';

/*
 * What peers that break the rules cost everybody else: descriptors and memory of the service, and the
 * latency of normal calls (a new order, then a read of it), first without and then with
 *
 * - peers that send half a header, half a body or more of a refused body, a byte a second, and never close;
 * - peers that send packets of 2,000 GET /metrics, and come again when they are cut.
 *
 *   node bench/abuse.ts [--holders 200] [--pipeliners 10] [--quiet 15] [--abused 45] [--root <checkout>]
 *
 * `--root` is the checkout whose service is started: another commit can be measured with this script.
 * Linux only, for it reads /proc.
 */
const { values } = parseArgs({
  options: {
    holders: { type: 'string', default: '200' },
    pipeliners: { type: 'string', default: '10' },
    quiet: { type: 'string', default: '15' },
    abused: { type: 'string', default: '45' },
    root: { type: 'string', default: folders.root },
  },
});
const READY_MS_MAX = 30_000;
const CALLERS = 8;
const CALL_MS_MAX = 10_000;
const PACKET = 'GET /metrics HTTP/1.1\r\nhost: a\r\n\r\n'.repeat(2_000);
const PACKET_EVERY_MS = 200;
const DRIP_EVERY_MS = 1_000;
const SAMPLE_EVERY_MS = 200;
const JSON_BODY = 'content-type: application/json\r\ncontent-length: 5000\r\n\r\n{';
const BEGINNINGS = [
  'GET /livez HTTP/1.1\r\nhost: a\r\nx: ',
  `POST /v1/orders HTTP/1.1\r\nhost: a\r\n${JSON_BODY}`,
  `POST /nope HTTP/1.1\r\nhost: a\r\n${JSON_BODY}`,
  'POST /v1/orders HTTP/1.1\r\nhost: a\r\ncontent-type: text/plain\r\ncontent-length: 5000\r\n\r\n{',
];

const folder = await mkdtemp(join(tmpdir(), 'abuse-bench-'));
const postgres = await startPostgres({
  folder: join(folder, 'postgres'),
  database: 'orders',
  log: () => undefined,
  settings: { max_connections: '100' },
});
let service: ChildProcess | undefined;
const peers = new Set<Socket>();
try {
  const port = await freePort();
  service = await startService(port);
  const pid = service.pid ?? 0;
  await callFor(port, 3_000); // warms up
  const before = sample(pid);
  const quiet = await callFor(port, Number(values.quiet) * 1000);
  report('quiet', quiet, before);

  const worst = { descriptors: 0, rssMb: 0 };
  const sampling = setInterval(() => {
    const now = sample(pid);
    worst.descriptors = Math.max(worst.descriptors, now.descriptors);
    worst.rssMb = Math.max(worst.rssMb, now.rssMb);
  }, SAMPLE_EVERY_MS);
  const abuse = new AbortController();
  for (let peer = 0; peer < Number(values.holders); peer += 1) hold(port, peer);
  for (let peer = 0; peer < Number(values.pipeliners); peer += 1) pipeline(port, abuse.signal);
  const abused = await callFor(port, Number(values.abused) * 1000);
  clearInterval(sampling);
  report('abused, highest', abused, worst);
  abuse.abort();
  await delay(3_000);
  console.log(`peers that never close still there: ${told(sample(pid))}`);
  for (const peer of peers) peer.destroy();
  await delay(3_000);
  console.log(`all peers gone: ${told(sample(pid))}`);
} finally {
  for (const peer of peers) peer.destroy();
  service?.kill('SIGKILL');
  await postgres.stop();
  await rm(folder, { recursive: true, force: true });
}

/** Sends the beginning of a request, then a byte a second; the end of the other side is ignored. */
function hold(port: number, index: number): void {
  const socket = connect({ port, host: '127.0.0.1', allowHalfOpen: true });
  peers.add(socket);
  socket.on('error', () => undefined).resume();
  socket.write(BEGINNINGS[index % BEGINNINGS.length] ?? '');
  const drip = setInterval(() => socket.write('a'), DRIP_EVERY_MS);
  socket.on('close', () => clearInterval(drip));
}

/** A packet again and again, as far as the other side reads; a new connection when it is cut. */
function pipeline(port: number, signal: AbortSignal): void {
  const socket = connect({ port, host: '127.0.0.1' });
  peers.add(socket);
  socket.on('error', () => undefined).resume();
  const send = () => {
    if (signal.aborted) socket.destroy();
    else if (socket.writableLength === 0) socket.write(PACKET);
  };
  const sending = setInterval(send, PACKET_EVERY_MS);
  socket.on('connect', send).on('close', () => {
    clearInterval(sending);
    peers.delete(socket);
    if (!signal.aborted) setTimeout(() => pipeline(port, signal), PACKET_EVERY_MS);
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

function report(name: string, calls: Awaited<ReturnType<typeof callFor>>, held: Held): void {
  const { perSecond, failed, p50Ms, p99Ms, maxMs } = calls;
  console.log(
    `${name}: ${perSecond} calls/s, ${failed} failed, p50 ${p50Ms} ms, p99 ${p99Ms} ms, ` +
      `slowest ${maxMs} ms; ${told(held)}`,
  );
}

type Held = Readonly<{ descriptors: number; rssMb: number }>;

function told({ descriptors, rssMb }: Held): string {
  return `${descriptors} descriptors, ${rssMb} MB`;
}

function sample(pid: number): Held {
  const status = readFileSync(`/proc/${pid}/status`, 'utf8');
  const rssKb = Number(/^VmRSS:\s+(\d+)/m.exec(status)?.[1]);
  return { descriptors: readdirSync(`/proc/${pid}/fd`).length, rssMb: Math.round(rssKb / 1024) };
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
