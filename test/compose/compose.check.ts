import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from 'vitest';
import { readTopic } from '#test/support/kafka.ts';
import { eventually } from '#test/support/poll.ts';
import { createComposeProject, docker } from './compose-project.ts';
import type { ComposeProject } from './compose-project.ts';
import { deliverable } from '#test/support/order-api.ts';

const REPLICAS = 3;
const CALLERS = 6;
const PAUSE_MS = 20;
const COMES_BACK = { withinMs: 120_000, everyMs: 250 };
const newOrder = {
  customerId: 'c-1',
  currency: 'EUR',
  items: [{ sku: 'book', quantity: 2, priceCents: 1250 }],
};

type HttpResponse = Readonly<{
  url: string;
  status: number;
  retryAfter: string | null;
  body: Readonly<{ orderId?: string; code?: string; version?: number }>;
}>;

let project: ComposeProject;
let replicas: string[];

beforeAll(async () => {
  project = await createComposeProject();
  try {
    await project.compose('up', '--detach', '--build', '--scale', `service=${REPLICAS}`);
    replicas = await project.urls('service', 3000);
    await Promise.all(replicas.map(untilReady));
  } catch (error) {
    await printLogs();
    throw error;
  }
});

afterEach(async ({ task }) => {
  if (task.result?.state === 'fail') await printLogs();
});

afterAll(() => project.compose('down', '--volumes'));

describe('an image of the service', () => {
  test('runs as a plain user that can change nothing and has no capability', async () => {
    const script = `
      const { accessSync, constants, readFileSync } = require('node:fs');
      const writable = (path) => { try { accessSync(path, constants.W_OK); return true; } catch { return false; } };
      const status = readFileSync('/proc/self/status', 'utf8');
      console.log(JSON.stringify({
        uid: process.getuid(),
        writable: ['/app', '/app/src/main.ts', '/tmp', '/home/node'].filter(writable),
        capabilities: /CapBnd:\\s*(\\w+)/.exec(status)[1],
        canGainPrivileges: /NoNewPrivs:\\s*(\\d)/.exec(status)[1] === '0',
      }))`;
    expect(JSON.parse(await inService('node', '-e', script))).toEqual({
      uid: 1000,
      writable: [],
      capabilities: '0000000000000000',
      canGainPrivileges: false,
    });
  });

  test('holds what the service runs on, and nothing that is for development', async () => {
    const { devDependencies, optionalDependencies } = JSON.parse(
      await readFile('package.json', 'utf8'),
    );
    const locked = JSON.parse(await readFile('package-lock.json', 'utf8')).packages;
    // A package that the tests use may also be one that fastify needs.
    const isForService = (name: string) => {
      const { dev, optional, devOptional } = locked[`node_modules/${name}`];
      return !(dev || optional || devOptional);
    };
    const unneeded = Object.keys({ ...devDependencies, ...optionalDependencies });
    const packages = (await inService('ls', 'node_modules', 'node_modules/.bin')).split('\n');
    expect(packages).toContain('fastify');
    for (const name of unneeded.filter((each) => !isForService(each))) {
      expect(packages).not.toContain(name.split('/')[0]);
    }
    const files = (await inService('ls', '-A', '/app')).trim().split('\n');
    expect(files).toEqual(['migrations', 'node_modules', 'package.json', 'src']);
  });
});

describe('a container', () => {
  test.each(['service', 'provider-simulator'])('of %s has limits', async (service) => {
    const limits =
      '{{.HostConfig.ReadonlyRootfs}} {{.HostConfig.Memory}} {{.HostConfig.PidsLimit}}';
    expect(new Set(await inspect(service, limits))).toEqual(new Set([`true ${512 * 2 ** 20} 100`]));
  });

  test('has no password in its environment or its command', async () => {
    const passwords = await Promise.all(
      ['service', 'migrate'].map(async (service) => {
        const url = await runOnce(service, 'cat', '/run/secrets/database-url');
        return new URL(url.trim()).password;
      }),
    );
    expect(new Set(passwords.filter((password) => password.length === 32)).size).toBe(2);
    for (const service of ['service', 'postgres', 'migrate', 'passwords']) {
      const shown = await inspect(service, '{{json .Config}}');
      for (const password of passwords) expect(shown.join()).not.toContain(password);
    }
  });

  test('of the service has a user of Postgres that owns nothing and can change no event', async () => {
    const script = `
      import { readFileSync } from 'node:fs';
      import { Client } from 'pg';
      const client = new Client(readFileSync('/run/secrets/database-url', 'utf8'));
      await client.connect();
      const { rows } = await client.query(
        'select count(*)::int as owned from pg_class where relowner = current_user::regrole');
      const refused = [];
      for (const sql of ['delete from events', 'drop table events', 'alter role orders_service superuser']) {
        await client.query(sql).catch(({ code }) => refused.push(code));
      }
      await client.end();
      console.log(JSON.stringify({ ...rows[0], refused }));`;
    const seen = await inService('node', '--input-type=module', '-e', script);
    expect(JSON.parse(seen)).toEqual({ owned: 0, refused: ['42501', '42501', '42501'] });
  });
});

describe('docker compose', () => {
  test('migrates once, before replicas that start together', async () => {
    expect(replicas).toHaveLength(REPLICAS);
    const log = await project.compose('logs', '--no-color', 'migrate', 'service');
    expect(log.match(/applied: 0001_event_store.sql/g)).toHaveLength(1);
    expect(log).not.toContain('schema brought up to date');
    expect(await inspect('service', '{{.RestartCount}}')).toEqual(['0', '0', '0']);
    await eventually(async () => {
      const states = await inspect('service', '{{.State.Health.Status}}');
      return states.every((state) => state === 'healthy');
    }, COMES_BACK);
  });

  test('takes an order through every replica, shows it at once and tells Kafka in order', async () => {
    const [first, second, third] = replicas;
    const placed = await place(first!);
    expect(placed.status).toBe(201);
    const id = placed.body.orderId!;
    const path = `/v1/orders/${id}`;
    const paid = await post(second!, `${path}/pay`, { paymentId: 'pay-1', amountCents: 2500 });
    const shipped = await post(third!, `${path}/ship`, { trackingNumber: 'T-1', carrier: 'post' });
    expect([paid.status, shipped.status]).toEqual([200, 200]);
    for (const url of replicas) {
      const order = await get(url, path);
      expect(order.body).toMatchObject({ status: 'shipped', version: 3 });
    }
    expect(await versionsInKafka([id], 3)).toEqual(new Map([[id, [1, 2, 3]]]));
  });

  test('takes orders while Kafka is stopped, and they arrive when it is back', async () => {
    await project.compose('stop', 'kafka');
    let ids: string[];
    try {
      const responses = await Promise.all(
        Array.from({ length: 10 }, (_, n) => place(replicas[n % REPLICAS]!)),
      );
      expect(responses.map(({ status }) => status)).toEqual(Array(10).fill(201));
      ids = responses.map(({ body }) => body.orderId!);
      for (const url of replicas) expect((await get(url, '/readyz')).status).toBe(200);
    } finally {
      await project.compose('start', 'kafka');
    }
    await untilHealthy('kafka'); // its port accepts connections before the broker is ready
    await untilOutboxIsEmpty();
    expect(await versionsInKafka(ids, 10)).toEqual(new Map(ids.map((id) => [id, [1]])));
  });

  test('loses no order that got 201 when Postgres stops under load, and responds with 503 until it is back', async () => {
    const callers = new AbortController();
    const responses: HttpResponse[] = [];
    const load = Promise.all(
      Array.from({ length: CALLERS }, async (_, n) => {
        while (!callers.signal.aborted) {
          const url = replicas[n % REPLICAS]!;
          for (const ask of [place, list]) {
            responses.push(await ask(url).catch((error: unknown) => noResponse(url, error)));
          }
          await delay(PAUSE_MS);
        }
      }),
    );
    const sees = (status: number, from = 0) =>
      eventually(() => {
        const seen = responses.slice(from).filter((response) => response.status === status);
        return replicas.every((url) => seen.some((response) => response.url === url));
      }, COMES_BACK);
    try {
      await sees(201);
      try {
        await project.compose('stop', 'postgres');
        await sees(503);
      } finally {
        await project.compose('start', 'postgres');
      }
      await sees(201, responses.length);
    } finally {
      callers.abort();
      await load;
    }
    const refused = responses.filter(({ status }) => status !== 201 && status !== 200);
    for (const response of refused) {
      expect(response).toMatchObject({
        status: 503,
        body: { code: expect.stringMatching(/^[a-z_]+$/) },
      });
      expect(Number(response.retryAfter)).toBeGreaterThan(0);
    }
    const ids = responses.flatMap(({ status, body }) => (status === 201 ? body.orderId! : []));
    for (const [n, id] of ids.entries()) {
      const found = await get(replicas[n % REPLICAS]!, `/v1/orders/${id}`);
      expect(found.body).toMatchObject({ orderId: id, version: 1 });
    }
    await untilOutboxIsEmpty();
    expect((await versionsInKafka(ids, ids.length)).size).toBe(ids.length);
  });

  test('fulfils an order with the simulated providers', async () => {
    const url = replicas[0]!;
    const stocked = await ask(url, '/v1/stock/book', jsonRequest('PUT', { onHand: 2 }));
    expect(stocked.status).toBe(201);
    const placed = await post(url, '/v1/orders', {
      ...newOrder,
      ...deliverable,
      fulfilment: 'automatic',
    });
    expect(placed.status).toBe(201);
    await eventually(async () => {
      const order = await get(url, `/v1/orders/${placed.body.orderId}`);
      expect(order.body).toMatchObject({ status: 'shipped', fulfilment: 'completed' });
    }, COMES_BACK);
  });

  test('is closed with AUTH=on, to all but the keys that an operator made', async () => {
    const created = await runOnce(
      'migrate',
      'node',
      'src/main.ts',
      'keys',
      'create',
      '--name=shop',
      '--scopes=orders:read',
    );
    const [key] = /\bosk_\w+/.exec(created) ?? [];
    vi.stubEnv('AUTH', 'on');
    await project.compose(
      'up',
      '--detach',
      '--no-deps',
      '--scale',
      `service=${REPLICAS}`,
      'service',
    );
    replicas = await project.urls('service', 3000);
    await Promise.all(replicas.map(untilReady));
    const [url] = replicas;
    const path = '/v1/orders?limit=1';
    expect((await get(url!, path)).status).toBe(401);
    expect((await ask(url!, path, { headers: { authorization: `Bearer ${key}` } })).status).toBe(
      200,
    );
  });

  test('stops replicas at SIGTERM without loss of time, clients still connected', async () => {
    const ids = await project.containers('service');
    const urls = await project.urls('service', 3000);
    const clients = await Promise.all(urls.map(keepConnected));
    await project.compose('stop', 'service');
    // 1 means that it took more than its 10 s, 137 that it was killed.
    const codes = await Promise.all(
      ids.map((id) => docker(['inspect', '--format', '{{.State.ExitCode}}', id])),
    );
    for (const client of clients) client.destroy();
    expect(codes.map(Number)).toEqual([0, 0, 0]);
  });
});

async function printLogs(): Promise<void> {
  console.log(await project.compose('ps'));
  console.log(await project.compose('logs', '--no-color', '--tail=30'));
}

function place(url: string): Promise<HttpResponse> {
  return post(url, '/v1/orders', newOrder);
}

function list(url: string): Promise<HttpResponse> {
  return get(url, '/v1/orders?limit=1');
}

function post(url: string, path: string, body: unknown): Promise<HttpResponse> {
  return ask(url, path, jsonRequest('POST', body));
}

function jsonRequest(method: string, body: unknown): RequestInit {
  return { method, headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) };
}

function get(url: string, path: string): Promise<HttpResponse> {
  return ask(url, path, {});
}

async function ask(url: string, path: string, request: RequestInit): Promise<HttpResponse> {
  const response = await fetch(`${url}${path}`, {
    ...request,
    signal: AbortSignal.timeout(30_000),
  });
  const body: HttpResponse['body'] = JSON.parse(await response.text());
  return { url, status: response.status, retryAfter: response.headers.get('retry-after'), body };
}

/** A closed connection is not a 503. */
function noResponse(url: string, error: unknown): HttpResponse {
  return { url, status: 0, retryAfter: null, body: { code: String(error) } };
}

async function untilReady(url: string): Promise<void> {
  await eventually(async () => (await get(url, '/readyz')).status === 200, COMES_BACK);
}

async function untilHealthy(service: string): Promise<void> {
  const [id] = await project.containers(service);
  await eventually(async () => {
    const health = await docker(['inspect', '--format', '{{.State.Health.Status}}', id!]);
    expect(health.trim()).toBe('healthy');
  }, COMES_BACK);
}

async function untilOutboxIsEmpty(): Promise<void> {
  await eventually(async () => {
    const { body } = await get(replicas[0]!, '/readyz');
    expect(body).toMatchObject({ outbox: { pendingRows: 0 } });
  }, COMES_BACK);
}

/** The versions of these orders in the order of their messages, without duplicates. */
async function versionsInKafka(
  ids: readonly string[],
  messages: number,
): Promise<Map<string, number[]>> {
  const versions = new Map<string, number[]>();
  const all = await readTopic('order.events', {
    brokers: [project.broker],
    withinMs: 60_000,
    until: (read) =>
      new Set(read.filter(({ key }) => ids.includes(key!)).map(identity)).size >= messages,
  });
  for (const { key, headers } of all) {
    const version = Number(headers['ce_sequence']);
    const seen = versions.get(key!) ?? [];
    if (ids.includes(key!) && !seen.includes(version)) versions.set(key!, [...seen, version]);
  }
  return versions;
}

function identity({ headers }: Readonly<{ headers: Readonly<Record<string, string>> }>): string {
  return headers['ce_id']!;
}

/** A client that keeps its connection open. */
async function keepConnected(url: string) {
  const { hostname, port } = new URL(url);
  const socket = connect(Number(port), hostname);
  socket.on('error', () => {});
  socket.write('GET /livez HTTP/1.1\r\nHost: service\r\n\r\n');
  await once(socket, 'data');
  return socket;
}

function inService(...command: string[]): Promise<string> {
  return project.compose('exec', '-T', 'service', ...command);
}

/** Runs a command in a new container of the service. */
function runOnce(service: string, ...command: string[]): Promise<string> {
  return project.compose('run', '--rm', '--no-deps', '-T', service, ...command);
}

async function inspect(service: string, format: string): Promise<string[]> {
  const ids = await project.containers(service);
  return (await docker(['inspect', '--format', format, ...ids])).trim().split('\n');
}
