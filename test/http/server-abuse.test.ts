import { METHODS } from 'node:http';
import { once } from 'node:events';
import { connect } from 'node:net';
import type { Socket } from 'node:net';
import { setImmediate as turn } from 'node:timers/promises';
import { errorCodes } from 'fastify';
import type { FastifyPluginAsyncZod } from 'fastify-type-provider-zod';
import { afterEach, describe, expect, test } from 'vitest';
import { z } from 'zod';
import { createMetrics } from '#src/http/metrics.ts';
import { frameworkProblem } from '#src/http/problem.ts';
import { eventually } from '#test/support/poll.ts';
import { rawClient, requestText } from './raw-client.ts';
import { THING_ID, goodThing, sampleRoutes, sampleServer } from './sample-server.ts';

/*
 * Peers that break the rules of HTTP, or that keep them only to hold the connection. The peers never close
 * their connections: the server does.
 */
const JSON_TYPE = 'content-type: application/json';
const body = JSON.stringify(goodThing);
const length = `content-length: ${body.length}`;
const post = (...headers: string[]) =>
  requestText('POST', '/v1/things', [JSON_TYPE, length, ...headers], body);
const get = (...headers: string[]) => requestText('GET', `/v1/things/${THING_ID}`, headers);
const statuses = (text: string) =>
  [...text.matchAll(/HTTP\/1\.1 (\d+)/g)].map(([, status]) => Number(status));
/** Short where a test waits for a timeout, and longer than any test where none may occur. */
const SHORT = { headersTimeoutMs: 200, requestTimeoutMs: 400, lingerTimeoutMs: 200 };
const LONG_MS = 600_000;
const LONG = {
  headersTimeoutMs: LONG_MS,
  requestTimeoutMs: LONG_MS,
  keepAliveTimeoutMs: LONG_MS,
  connectionTimeoutMs: LONG_MS,
  responseTimeoutMs: LONG_MS,
  lingerTimeoutMs: LONG_MS,
};

const peers: Socket[] = [];
afterEach(() => {
  for (const peer of peers.splice(0)) peer.destroy();
});

/** A peer that sends `first`, then `drip` every 20 ms. It does not close when the server does. */
async function peerThatNeverCloses(port: number, first: string, drip: string): Promise<Socket> {
  const socket = connect({ port, host: '127.0.0.1', allowHalfOpen: true });
  peers.push(socket);
  socket.on('error', () => undefined);
  await once(socket, 'connect');
  socket.write(first);
  const dripping = setInterval(() => socket.write(drip), 20);
  socket.once('close', () => clearInterval(dripping));
  return socket;
}

function connections({ app }: ReturnType<typeof sampleServer>): Promise<number> {
  return new Promise((resolve, reject) => {
    app.server.getConnections((error, count) => (error ? reject(error) : resolve(count)));
  });
}

describe('a peer that never closes', () => {
  const halfABody = [JSON_TYPE, 'content-length: 500'];
  test.each([
    ['a header without end', 'GET / HTTP/1.1\r\nhost: x\r\na: ', 'a'],
    ['a request line without end', 'GET /', 'a'],
    ['a body without end', requestText('POST', '/v1/things', halfABody, '{'), ' '],
    ['more of a body that got 404', requestText('POST', '/nope', halfABody, '{'), ' '],
    [
      'more of a body that got 415',
      requestText('POST', '/v1/things', ['content-length: 500']),
      ' ',
    ],
    ['more of a body with a GET', requestText('GET', `/v1/things/${THING_ID}`, halfABody), ' '],
    ['rubbish after a response', get(), '\u0000'],
    ['rubbish after a last response', get('connection: close'), 'x'],
    ['rubbish', 'hello\r\n\r\n', 'x'],
    ['CONNECT', 'CONNECT localhost:1 HTTP/1.1\r\nhost: localhost\r\n\r\n', 'x'],
  ])('and sends %s is disconnected', async (_, first, drip) => {
    await using server = sampleServer({ limits: SHORT });
    await peerThatNeverCloses(await server.listen(), first, drip);
    await eventually(async () => (await connections(server)) === 1);
    await eventually(async () => (await connections(server)) === 0);
  });

  test('and sends empty lines between two requests is disconnected', async () => {
    await using server = sampleServer({ limits: { ...SHORT, keepAliveTimeoutMs: 200 } });
    const peer = await peerThatNeverCloses(await server.listen(), get(), '\r\n');
    await once(peer, 'data');
    await eventually(async () => (await connections(server)) === 0);
  });

  test('and reads nothing is disconnected', async () => {
    const large = 'x'.repeat(64 * 1024 * 1024);
    const routes: FastifyPluginAsyncZod = async (app) => {
      app.get('/large', { config: { access: 'public' } }, async (_, reply) =>
        reply.type('text/plain').send(large),
      );
    };
    await using server = sampleServer({ routes, limits: { ...SHORT, responseTimeoutMs: 200 } });
    const client = await rawClient(await server.listen());
    peers.push(client.socket);
    client.socket.pause();
    client.socket.write(requestText('GET', '/large', []));
    await eventually(async () => (await connections(server)) === 1);
    await eventually(async () => (await connections(server)) === 0);
  });

  test('gets its last response first, even if it goes on sending', async () => {
    await using server = sampleServer({ limits: SHORT });
    const client = await rawClient(await server.listen());
    peers.push(client.socket);
    client.socket.write(`${get('connection: close')}${'x'.repeat(1_000_000)}`);
    expect(await client.ended).toBe('closed');
    expect(statuses(client.received())).toStrictEqual([200]);
  });

  test('gets nothing done after its 408', async () => {
    let handled = 0;
    const routes = sampleRoutes(async () => void (handled += 1));
    await using server = sampleServer({ routes, limits: { ...LONG, headersTimeoutMs: 200 } });
    const client = await rawClient(await server.listen());
    peers.push(client.socket);
    const request = post();
    client.socket.write(request.slice(0, 20));
    await client.until(/HTTP\/1\.1 408/);
    client.socket.write(request.slice(20));
    // The server reads what another connection sends after it.
    const other = await rawClient(await portOf(server));
    other.socket.write(get('connection: close'));
    await other.ended;
    await turn();
    expect(handled).toBe(1);
    expect(statuses(client.received())).toStrictEqual([408]);
  });
});

describe('connections above the limit', () => {
  const limits = { ...LONG, connectionsMax: 2 };

  test('get 503 while all others have a request in progress', async () => {
    const gate = Promise.withResolvers<void>();
    const metrics = createMetrics();
    let handled = 0;
    const routes = sampleRoutes(() => {
      handled += 1;
      return gate.promise;
    });
    await using server = sampleServer({
      metrics,
      routes,
      limits: { ...limits, lingerTimeoutMs: 200 },
    });
    const port = await server.listen();
    const working = await Promise.all([rawClient(port), rawClient(port)]);
    for (const { socket } of working) socket.write(get());
    await eventually(() => handled === 2);
    const refused = await rawClient(port);
    peers.push(refused.socket);
    expect(await refused.until(/"code":"overloaded"/)).toMatch(
      /^HTTP\/1.1 503 .*retry-after: 1\r\n/s,
    );
    expect(await refused.ended).toBe('closed');
    gate.resolve();
    for (const { until } of working) expect(await until(/\}$/)).toMatch(/^HTTP\/1.1 200 /);
    expect(await metrics.text()).toMatch(
      /"_OTHER",http_route="",http_response_status_code="503"\} 1/,
    );
    for (const { socket } of working) socket.destroy();
  });

  test('replace the one that has been idle longest', async () => {
    await using server = sampleServer({ limits });
    const port = await server.listen();
    const idle = await rawClient(port);
    idle.socket.write(get());
    await idle.until(/\}$/);
    const later = await rawClient(port);
    later.socket.write(get());
    await later.until(/\}$/);
    const newcomer = await rawClient(port);
    expect(await idle.ended).toBe('closed');
    for (const client of [newcomer, later]) {
      client.socket.write(get('connection: close'));
      expect(await client.ended).toBe('closed');
    }
    expect(statuses(newcomer.received())).toStrictEqual([200]);
    expect(statuses(later.received())).toStrictEqual([200, 200]);
  });
});

describe('requests in one packet', () => {
  test('are handled one after the other, up to a limit, and then the connection ends', async () => {
    let underWay = 0;
    let most = 0;
    let handled = 0;
    const routes = sampleRoutes(async () => {
      most = Math.max(most, (underWay += 1));
      await turn();
      handled += 1;
      underWay -= 1;
    });
    await using server = sampleServer({ routes, limits: { ...SHORT, pipelinedMax: 5 } });
    const client = await rawClient(await server.listen());
    peers.push(client.socket);
    client.socket.write(get().repeat(2_000));
    expect(await client.ended).toBe('closed');
    expect(statuses(client.received())).toStrictEqual([200, 200, 200, 200, 200]);
    expect(client.received().match(/connection: close/g)).toHaveLength(1);
    expect({ most, handled }).toStrictEqual({ most: 1, handled: 5 });
  });

  test('are not parsed above the limit', async () => {
    let parsed = 0;
    await using server = sampleServer({ limits: { ...SHORT, pipelinedMax: 5 } });
    server.app.server.on('request', () => (parsed += 1));
    const client = await rawClient(await server.listen());
    client.socket.write(get().repeat(2_000));
    expect(await client.ended).toBe('closed');
    expect(statuses(client.received())).toHaveLength(5);
    expect(parsed).toBe(5);
  });

  test('at the limit leave the connection open', async () => {
    await using server = sampleServer({ limits: { ...LONG, pipelinedMax: 5 } });
    const client = await rawClient(await server.listen());
    for (let round = 1; round <= 3; round += 1) {
      client.socket.write(get().repeat(5));
      await eventually(() => statuses(client.received()).length === round * 5);
      // Once another connection has its response, the server has removed the last of them.
      const other = await rawClient(await portOf(server));
      other.socket.write(get('connection: close'));
      await other.ended;
    }
    client.socket.destroy();
  });

  test('leave the connection open if one asks for an upgrade, which is ignored', async () => {
    await using server = sampleServer({ limits: LONG });
    const client = await rawClient(await server.listen());
    client.socket.write(get() + get('connection: upgrade', 'upgrade: h2c'));
    await eventually(() => statuses(client.received()).length === 2);
    client.socket.write(get('connection: close'));
    expect(await client.ended).toBe('closed');
    expect(statuses(client.received())).toStrictEqual([200, 200, 200]);
  });

  test('below the limit get their responses in order, and the connection stays open', async () => {
    await using server = sampleServer({ limits: LONG });
    const client = await rawClient(await server.listen());
    const bad = requestText('POST', '/v1/things', [JSON_TYPE, 'content-length: 1'], '{');
    client.socket.write(post() + bad + get() + requestText('GET', '/nope', []));
    await client.until(/route_not_found/);
    client.socket.write(get('connection: close'));
    expect(await client.ended).toBe('closed');
    expect(statuses(client.received())).toStrictEqual([201, 400, 200, 404, 200]);
  });

  test('behind one that closes the connection are not handled', async () => {
    let handled = 0;
    const routes = sampleRoutes(async () => void (handled += 1));
    await using server = sampleServer({ routes, limits: SHORT });
    const client = await rawClient(await server.listen());
    client.socket.write(get('connection: close') + post());
    expect(await client.ended).toBe('closed');
    expect(statuses(client.received())).toStrictEqual([200]);
    expect(handled).toBe(1);
  });
});

describe('a request with something wrong behind it', () => {
  test.each([
    ['one byte', '}'],
    ['rubbish', 'rubbish\r\n\r\n'],
    ['a request that is not valid', 'GET / HTTP/1.1\r\nhost: x\r\nbad header\r\n\r\n'],
    ['a header that is too large', `GET / HTTP/1.1\r\nhost: x\r\na: ${'x'.repeat(20_000)}\r\n\r\n`],
  ])('(%s) gets its own response, which is the last', async (_, behind) => {
    let handled = 0;
    const routes = sampleRoutes(async () => {
      handled += 1;
      await turn();
    });
    await using server = sampleServer({ routes, limits: SHORT });
    const client = await rawClient(await server.listen());
    client.socket.write(post() + behind);
    expect(await client.ended).toBe('closed');
    expect(statuses(client.received())).toStrictEqual([201]);
    expect(client.received()).toMatch(/connection: close/i);
    expect(handled).toBe(1);
    expect(server.lines).toContainEqual(
      expect.objectContaining({ msg: 'request refused before it was read' }),
    );
  });

  test('(CONNECT) gets its own response, which is the last', async () => {
    await using server = sampleServer({ limits: SHORT });
    const client = await rawClient(await server.listen());
    client.socket.write(`${post()}CONNECT localhost:80 HTTP/1.1\r\nhost: localhost\r\n\r\n`);
    expect(await client.ended).toBe('closed');
    expect(statuses(client.received())).toStrictEqual([201]);
  });

  test('gets its response after those before it', async () => {
    await using server = sampleServer({ limits: SHORT });
    const client = await rawClient(await server.listen());
    client.socket.write(`${get()}${post()}${get()}}`);
    expect(await client.ended).toBe('closed');
    expect(statuses(client.received())).toStrictEqual([200, 201, 200]);
  });

  test('in its own body (a bad chunk) gets 400 after the responses before it', async () => {
    let handled = 0;
    const routes = sampleRoutes(async () => {
      handled += 1;
      await turn();
    });
    await using server = sampleServer({ routes, limits: SHORT });
    const client = await rawClient(await server.listen());
    const chunked = requestText('POST', '/v1/things', [JSON_TYPE, 'transfer-encoding: chunked']);
    client.socket.write(`${post()}${chunked}zz\r\n`);
    expect(await client.ended).toBe('closed');
    expect(statuses(client.received())).toStrictEqual([201, 400]);
    expect(handled).toBe(1);
  });

  test('that never ends gets its response after the timeout of the rest', async () => {
    const gate = Promise.withResolvers<void>();
    const routes = sampleRoutes(() => gate.promise);
    await using server = sampleServer({ routes, limits: { ...LONG, headersTimeoutMs: 200 } });
    const client = await rawClient(await server.listen());
    peers.push(client.socket);
    client.socket.write(`${post()}GET / HTTP/1.1\r\n`);
    await eventually(() => server.lines.some(({ status }) => status === 408));
    gate.resolve();
    expect(statuses(await client.until(/HTTP\/1\.1 201[^]*\}$/))).toStrictEqual([201]);
  });
});

describe('an endless body of a request that needs none', () => {
  const endless = 'content-length: 90000000000';
  test.each([
    ['POST', '/nope', [JSON_TYPE, endless], 404],
    ['DELETE', '/v1/things', [JSON_TYPE, endless], 405],
    ['POST', '/v1/things', [JSON_TYPE, endless], 413],
    ['POST', '/v1/things', ['content-type: text/plain', endless], 415],
    ['POST', '/v1/things', ['content-type: text/plain', 'transfer-encoding: chunked'], 415],
    ['POST', '/v1/things', [JSON_TYPE, endless, 'host: two'], 400],
    ['POST', '/v1/things/%zz', [JSON_TYPE, endless], 400],
    ['POST', '/v1/things', [JSON_TYPE, 'transfer-encoding: gzip, chunked'], 501],
    ['GET', `/v1/things/${THING_ID}`, [JSON_TYPE, endless], 200],
    ['GET', `/v1/things/${THING_ID}`, ['transfer-encoding: chunked'], 200],
  ])('(%s %s %j) is read up to a limit', async (method, path, headers, status) => {
    await using server = sampleServer();
    const client = await rawClient(await server.listen());
    peers.push(client.socket);
    client.socket.write(requestText(method, path, headers));
    const chunk = headers.join(' ').includes('chunked')
      ? `${(64 * 1024).toString(16)}\r\n${' '.repeat(64 * 1024)}\r\n`
      : ' '.repeat(64 * 1024);
    const pour = () => {
      while (!client.socket.destroyed && client.socket.write(chunk));
    };
    client.socket.on('drain', pour);
    pour();
    await client.ended;
    expect(server.lines).toMatchObject([{ msg: 'request', status }]);
    expect(client.socket.bytesWritten).toBeLessThan(96 * 1024 * 1024);
  });

  test('below the limit leaves the connection open', async () => {
    await using server = sampleServer();
    const client = await rawClient(await server.listen());
    const large = 1_000_000;
    const headers = [JSON_TYPE, `content-length: ${large}`];
    for (const [method, path] of [
      ['POST', '/nope'],
      ['GET', `/v1/things/${THING_ID}`],
    ] as const) {
      client.socket.write(requestText(method, path, headers));
      client.socket.write(' '.repeat(large));
    }
    client.socket.write(get('connection: close'));
    expect(await client.ended).toBe('closed');
    expect(statuses(client.received())).toStrictEqual([404, 200, 200]);
  });
});

describe('bodies that are held in memory', () => {
  test('have a limit in total; above it a request gets 503 and can be retried', async () => {
    const gate = Promise.withResolvers<void>();
    let handled = 0;
    const routes = sampleRoutes(async () => {
      handled += 1;
      await gate.promise;
    });
    const limits = { ...LONG, heldBytesMax: body.length * 2 };
    await using server = sampleServer({ routes, limits });
    const port = await server.listen();
    const held = await Promise.all([rawClient(port), rawClient(port)]);
    for (const { socket } of held) socket.write(post());
    await eventually(() => handled === 2);
    const turnedAway = await rawClient(port);
    turnedAway.socket.write(post());
    expect(await turnedAway.until(/"code":"overloaded"/)).toMatch(/503 .*retry-after: 1\r\n/s);
    gate.resolve();
    for (const { until } of held) await until(/HTTP\/1\.1 201[^]*\}$/);
    turnedAway.socket.write(post('connection: close'));
    expect(await turnedAway.ended).toBe('closed');
    expect(statuses(turnedAway.received())).toStrictEqual([503, 201]);
    for (const { socket } of held) socket.destroy();
  });

  test('are released by callers that leave, are refused or close', async () => {
    const limits = { ...LONG, lingerTimeoutMs: 200, heldBytesMax: body.length };
    await using server = sampleServer({ limits });
    const port = await server.listen();
    const leaving = await rawClient(port);
    leaving.socket.write(post().slice(0, -1));
    await eventually(async () => (await connections(server)) === 1);
    leaving.socket.destroy();
    await eventually(async () => (await connections(server)) === 0);
    const wrong = body.replace('"one"', '0');
    const refused = requestText(
      'POST',
      '/v1/things',
      [JSON_TYPE, `content-length: ${wrong.length}`],
      wrong,
    );
    const client = await rawClient(port);
    client.socket.write(refused + post());
    await client.until(/HTTP\/1\.1 201[^]*\}$/);
    for (let again = 0; again < 3; again += 1) {
      const last = await rawClient(port);
      last.socket.write(post('connection: close'));
      expect(await last.ended).toBe('closed');
      expect(statuses(last.received())).toStrictEqual([201]);
    }
    client.socket.destroy();
  });
});

describe('every method that the parser knows', () => {
  const known = METHODS.filter((method) => method !== 'CONNECT');
  test.each(known)('%s gets 404 or 405 where no route has it', async (method) => {
    await using server = sampleServer();
    const client = await rawClient(await server.listen());
    client.socket.write(requestText(method, '/nope', []));
    const types = [[], [JSON_TYPE, length], ['content-type: text/plain', length]];
    for (const headers of types) {
      const content = headers.length === 0 ? '' : body;
      client.socket.write(requestText(method, `/v1/things/${THING_ID}/poke`, headers, content));
    }
    client.socket.write(requestText('GET', '/nope', ['connection: close']));
    expect(await client.ended).toBe('closed');
    const onPath = method === 'POST' ? [204, 400, 415] : [405, 405, 405];
    expect(statuses(client.received())).toStrictEqual([404, ...onPath, 404]);
    if (method !== 'POST') expect(client.received().match(/allow: POST\r\n/g)).toHaveLength(3);
  });

  test('CONNECT gets 501', async () => {
    await using server = sampleServer();
    const client = await rawClient(await server.listen());
    client.socket.write('CONNECT localhost:80 HTTP/1.1\r\nhost: localhost\r\n\r\n');
    expect(await client.ended).toBe('closed');
    expect(client.received()).toMatch(/^HTTP\/1.1 501 [^]*"code":"not_implemented"/);
  });
});

test('every refusal by Fastify becomes a problem of the same status, and every fault of the server a 500', () => {
  const given = Object.entries(errorCodes).map(([code, FrameworkError]) => {
    const error = new FrameworkError();
    return { code, status: error.statusCode ?? 500, problem: frameworkProblem(error)?.status };
  });
  expect(given.length).toBeGreaterThan(50);
  const refusals = given.filter(({ status }) => status < 500);
  expect(refusals.length).toBeGreaterThan(10);
  for (const { code, status, problem } of refusals) {
    const expected = code === 'FST_ERR_ROUTE_MISSING_CONTENT_TYPE' ? 415 : status;
    expect({ code, problem }).toStrictEqual({ code, problem: expected });
  }
  for (const { code, problem } of given.filter(({ status }) => status >= 500)) {
    expect({ code, problem }).toStrictEqual({ code, problem: undefined });
  }
});

describe('what is not a request', () => {
  test('(HTTP/2) gets 400', async () => {
    await using server = sampleServer({ limits: SHORT });
    const client = await rawClient(await server.listen());
    client.socket.write('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n');
    expect(await client.ended).toBe('closed');
    expect(statuses(client.received())).toStrictEqual([400]);
  });

  test('is counted, logged under the id of its problem, and gets the headers of every response', async () => {
    const metrics = createMetrics();
    await using server = sampleServer({ metrics, limits: SHORT });
    const port = await server.listen();
    const told = [];
    for (const text of [
      'hello\r\n\r\n',
      'GET / HTTP/1.1\r\n',
      `GET / HTTP/1.1\r\nhost: x\r\na: ${'x'.repeat(20_000)}\r\n\r\n`,
      get('expect: the-unexpected', 'connection: close'),
    ]) {
      const client = await rawClient(port);
      client.socket.write(text);
      await client.ended;
      const [head = '', content = ''] = client.received().split('\r\n\r\n');
      expect(head).toMatch(/^HTTP\/1.1 4\d\d /);
      expect(head).toContain('cache-control: ');
      expect(head).toContain("content-security-policy: default-src 'none'");
      expect(head).toContain('x-content-type-options: nosniff');
      const { requestId, status } = problem.parse(JSON.parse(content));
      expect(head).toContain(`x-request-id: ${requestId}`);
      told.push({ requestId, status });
    }
    expect(told.map(({ status }) => status)).toStrictEqual([400, 408, 431, 417]);
    expect(server.lines).toMatchObject(told);
    const text = await metrics.text();
    for (const { status } of told) {
      expect(text).toMatch(new RegExp(`duration_seconds_count\\{.*status_code="${status}"\\} 1`));
    }
  });

  test('does not fill the log', async () => {
    const metrics = createMetrics();
    await using server = sampleServer({ metrics, limits: SHORT });
    const port = await server.listen();
    const flood = Array.from({ length: 200 }, async () => {
      const client = await rawClient(port);
      client.socket.write('hello\r\n\r\n');
      await client.ended;
    });
    await Promise.all(flood);
    expect(await metrics.text()).toMatch(/duration_seconds_count\{.*status_code="400"\} 200/);
    const secondsAtMost = 19;
    expect(server.lines.length).toBeLessThan(secondsAtMost * 10);
  });
});

const problem = z.looseObject({ requestId: z.string(), status: z.number() });

describe('the Host', () => {
  test.each([
    'localhost',
    'localhost:3000',
    'a.b-c.example',
    '127.0.0.1:1',
    '[::1]:3000',
    '[::1]',
    'a_b',
    'a:',
    '',
  ])('%j is accepted', async (host) => {
    expect(await statusFor([`host: ${host}`])).toBe(200);
  });
  test.each(['a b', 'a/b', 'a@b', 'a:b', 'a:1:2', '[::1', '::1', 'a?b', 'a#b', 'a%2', '<a>', 'ä'])(
    '%j is refused',
    async (host) => {
      expect(await statusFor([`host: ${host}`])).toBe(400);
    },
  );
});

describe('the Transfer-Encoding', () => {
  const post = (coding: string) => ['host: x', JSON_TYPE, `transfer-encoding: ${coding}`];
  test.each([
    ['chunked', 201],
    ['Chunked', 201],
    ['gzip, chunked', 501],
    ['identity, chunked', 501],
    ['gzip', 400],
    ['chunked, gzip', 400],
    ['chunked, chunked', 400],
  ])('%j gets %i', async (coding, status) => {
    const chunks = `${body.length.toString(16)}\r\n${body}\r\n0\r\n\r\n`;
    expect(await statusFor(post(coding), 'POST /v1/things', chunks)).toBe(status);
  });
});

async function statusFor(headers: string[], line = `GET /v1/things/${THING_ID}`, content = '') {
  await using server = sampleServer({ limits: SHORT });
  const client = await rawClient(await server.listen());
  const all = [...headers, 'connection: close'].join('\r\n');
  client.socket.write(Buffer.from(`${line} HTTP/1.1\r\n${all}\r\n\r\n${content}`, 'latin1'));
  await client.ended;
  return statuses(client.received())[0];
}

async function portOf({ app }: ReturnType<typeof sampleServer>): Promise<number> {
  return z.object({ port: z.number() }).parse(app.server.address()).port;
}
