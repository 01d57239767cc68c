import { connect, createServer } from 'node:net';
import type { Socket } from 'node:net';
import { once } from 'node:events';
import { inspect } from 'node:util';
import { Worker } from 'node:worker_threads';
import { describe, expect, test } from 'vitest';
import { createHttpPaymentProvider } from '#src/fulfilment/providers/http-providers.ts';
import { CallNotMade } from '#src/sagas/saga-call.ts';
import { createProviderClient } from '#src/fulfilment/providers/provider-client.ts';

const SECRET = 'sk_live_51H8xQ2eZvKYlo2C';
const request = { key: 'k', orderId: 'o1', amountCents: 1999, currency: 'EUR' };
const limits = { timeoutMs: 30_000, callsMax: 4 };

const http = (status: string, body: string, headers = '') =>
  `HTTP/1.1 ${status}\r\ncontent-length: ${Buffer.byteLength(body)}\r\n${headers}\r\n${body}`;
const captured = JSON.stringify({ ...request, paymentId: 'pay_1' });

const MAY_ANSWER = 0;
const HAS_ANSWERED = 1;
/** A provider in a thread of its own, which responds to one request when it is told to. */
const PROVIDER_THREAD = `
  const { createServer } = require('node:http');
  const { parentPort, workerData: { flags, captured } } = require('node:worker_threads');
  const server = createServer((request, response) => {
    parentPort.postMessage('asked');
    Atomics.wait(flags, ${MAY_ANSWER}, 0);
    response.writeHead(201).end(captured, () => {
      Atomics.store(flags, ${HAS_ANSWERED}, 1);
      Atomics.notify(flags, ${HAS_ANSWERED});
    });
  });
  server.listen(0, '127.0.0.1', () => parentPort.postMessage(server.address().port));
`;

/** A server that responds to each request with whatever bytes it is told to. */
async function startRawServer(respond: (socket: Socket, request: string) => void) {
  const sockets = new Set<Socket>();
  const requests: string[] = [];
  const server = createServer((socket) => {
    sockets.add(socket);
    socket.on('error', () => undefined);
    socket.on('data', (data) => {
      requests.push(data.toString());
      respond(socket, data.toString());
    });
  });
  const { promise, resolve } = Promise.withResolvers<undefined>();
  server.listen(0, '127.0.0.1', () => resolve(undefined));
  await promise;
  const address = server.address();
  const port = typeof address === 'object' && address ? address.port : 0;
  return {
    url: `http://127.0.0.1:${port}`,
    requests,
    [Symbol.asyncDispose]: async () => {
      const closed = Promise.withResolvers<undefined>();
      server.close(() => closed.resolve(undefined));
      for (const socket of sockets) socket.destroy();
      await closed.promise;
    },
  };
}

describe('a request to a provider', () => {
  test('carries the key, the API key and JSON', async () => {
    await using server = await startRawServer((socket) => socket.write(http('201 Yes', captured)));
    const url = `${server.url}/eu/`;
    const payments = createHttpPaymentProvider({ url, apiKey: SECRET, ...limits });
    expect(await payments.capture(request)).toMatchObject({ outcome: 'ok' });
    const [head = '', body = ''] = server.requests.join('').split('\r\n\r\n');
    expect(head).toMatch(/^POST \/eu\/v2\/payments\/captures HTTP\/1\.1\r\n/);
    expect(head).toContain('\r\nidempotency-key: k\r\n');
    expect(head).toContain(`\r\nauthorization: Bearer ${SECRET}\r\n`);
    expect(JSON.parse(body)).toEqual({ orderId: 'o1', amountCents: 1999, currency: 'EUR' });
  });

  test('does not follow a redirect', async () => {
    await using server = await startRawServer((socket) =>
      socket.write(http('307 Elsewhere', '', 'location: /elsewhere\r\n')),
    );
    const payments = createHttpPaymentProvider({ url: server.url, apiKey: SECRET, ...limits });
    expect(await payments.capture(request)).toEqual({
      outcome: 'unknown',
      reason: 'response 307 is empty',
    });
    expect(server.requests).toHaveLength(1);
  });

  test('is sent once, whatever happens to the connection', async () => {
    await using server = await startRawServer((socket) => socket.resetAndDestroy());
    const payments = createHttpPaymentProvider({ url: server.url, ...limits });
    expect(await payments.capture(request)).toEqual({
      outcome: 'unknown',
      reason: 'connection lost (ECONNRESET)',
    });
    expect(server.requests).toHaveLength(1);
  });

  test('is given up at its timeout, also in the middle of a response', async () => {
    await using server = await startRawServer((socket, text) => {
      if (text.startsWith('POST')) socket.write(http('201 Yes', captured).slice(0, -5));
    });
    const payments = createHttpPaymentProvider({ url: server.url, timeoutMs: 1_000, callsMax: 4 });
    const late = { outcome: 'unknown', reason: 'no response in 1000 ms' };
    const outcomes = [payments.capture(request), payments.lookUpCapture(request)];
    expect(await Promise.all<unknown>(outcomes)).toEqual([late, late]);
  });

  test("is given up with the caller's signal, before or after it was sent", async () => {
    const sent = Promise.withResolvers<undefined>();
    const cut = Promise.withResolvers<undefined>();
    await using server = await startRawServer((socket) => {
      socket.on('close', () => cut.resolve(undefined));
      sent.resolve(undefined);
    });
    const payments = createHttpPaymentProvider({ url: server.url, ...limits });
    const leaving = new AbortController();
    const outcome = payments.capture(request, leaving.signal);
    await sent.promise;
    leaving.abort(new Error(SECRET));
    expect(await outcome).toEqual({ outcome: 'unknown', reason: 'stopped waiting' });
    await cut.promise;
    await expect(payments.capture(request, leaving.signal)).rejects.toBeInstanceOf(CallNotMade);
    expect(server.requests).toHaveLength(1);
  });

  test('accepts a response that came in time, even if this process was too busy to read it', async () => {
    const flags = new Int32Array(new SharedArrayBuffer(8));
    const provider = new Worker(PROVIDER_THREAD, { eval: true, workerData: { flags, captured } });
    const [port] = await once(provider, 'message');
    const url = `http://127.0.0.1:${String(port)}`;
    const payments = createHttpPaymentProvider({ url, timeoutMs: 1_000, callsMax: 1 });
    const outcome = payments.capture(request);
    await once(provider, 'message'); // it was asked, and waits for `MAY_ANSWER`
    const isOverAt = performance.now() + 1_100;
    Atomics.store(flags, MAY_ANSWER, 1);
    Atomics.notify(flags, MAY_ANSWER);
    Atomics.wait(flags, HAS_ANSWERED, 0);
    while (performance.now() < isOverAt);
    expect(await outcome).toMatchObject({ outcome: 'ok' });
    await provider.terminate();
  });

  test('waits for a place when too many are under way, and is not sent if it gives up', async () => {
    const sent = Promise.withResolvers<undefined>();
    const responses: Socket[] = [];
    await using server = await startRawServer((socket) => {
      responses.push(socket);
      sent.resolve(undefined);
    });
    const payments = createHttpPaymentProvider({ url: server.url, timeoutMs: 30_000, callsMax: 1 });
    const first = payments.capture(request);
    await sent.promise;
    const leaving = new AbortController();
    const second = payments.capture(request, leaving.signal);
    leaving.abort();
    await expect(second).rejects.toBeInstanceOf(CallNotMade);
    responses[0]!.write(http('201 Yes', captured));
    expect(await first).toMatchObject({ outcome: 'ok' });
    expect(server.requests).toHaveLength(1);
  });
});

describe('a response of a provider', () => {
  test.each([
    [
      'bytes that are not UTF-8',
      Buffer.from(captured.replace('pay_1', '\xff'), 'latin1'),
      'response 201 is not JSON',
    ],
    ['more than 64 KiB', Buffer.from(`"${'x'.repeat(64 * 1024)}"`), 'response 201 is too large'],
    ['nothing', Buffer.from(''), 'response 201 is empty'],
  ])('with %s is unknown', async (_, body, reason) => {
    await using server = await startRawServer((socket) => {
      socket.write(`HTTP/1.1 201 Yes\r\ncontent-length: ${body.length}\r\n\r\n`);
      socket.write(body);
    });
    const payments = createHttpPaymentProvider({ url: server.url, ...limits });
    expect(await payments.capture(request)).toEqual({ outcome: 'unknown', reason });
  });

  test('about the refund of another payment is unknown', async () => {
    const refunded = { ...request, paymentId: 'pay_2', refundId: 'ref_1' };
    await using server = await startRawServer((socket, text) =>
      socket.write(http(text.startsWith('GET') ? '200 Yes' : '201 Yes', JSON.stringify(refunded))),
    );
    const payments = createHttpPaymentProvider({ url: server.url, ...limits });
    const { key: _, orderId: __, ...stated } = refunded;
    const outcome = { outcome: 'unknown', stated };
    expect(await payments.refund({ ...request, paymentId: 'pay_1' })).toMatchObject(outcome);
    expect(await payments.lookUpRefund({ ...request, paymentId: 'pay_1' })).toMatchObject(outcome);
    const right = await payments.refund({ ...request, paymentId: 'pay_2' });
    expect(right).toEqual({ outcome: 'ok', result: stated });
  });

  test('is cut off at 64 KiB if it never ends', async () => {
    const cut = Promise.withResolvers<undefined>();
    await using server = await startRawServer((socket) => {
      const chunk = 'x'.repeat(1024);
      socket.on('close', () => cut.resolve(undefined));
      socket.write('HTTP/1.1 201 Yes\r\ntransfer-encoding: chunked\r\n\r\n');
      const pour = () => {
        while (socket.writable && socket.write(`400\r\n${chunk}\r\n`));
      };
      socket.on('drain', pour);
      pour();
    });
    const payments = createHttpPaymentProvider({ url: server.url, ...limits });
    expect(await payments.capture(request)).toEqual({
      outcome: 'unknown',
      reason: 'response 201 is too large',
    });
    await cut.promise;
  });

  test.each([
    ['no HTTP', 'hello\r\n\r\n'],
    ['a head that never ends', `HTTP/1.1 200 OK\r\nx: ${'y'.repeat(100_000)}`],
  ])('that is %s is unknown', async (_, bytes) => {
    await using server = await startRawServer((socket) => socket.end(bytes));
    const payments = createHttpPaymentProvider({ url: server.url, ...limits });
    expect(await payments.capture(request)).toMatchObject({
      outcome: 'unknown',
      reason: expect.stringMatching(/^connection lost/),
    });
  });
});

describe('a provider that cannot be reached', () => {
  test('because nothing listens at its address has applied nothing', async () => {
    const server = await startRawServer(() => undefined);
    await server[Symbol.asyncDispose]();
    const payments = createHttpPaymentProvider({ url: server.url, ...limits });
    expect(await payments.capture(request)).toEqual({
      outcome: 'not_applied',
      reason: 'no connection (ECONNREFUSED)',
    });
    expect(await payments.lookUpCapture(request)).toMatchObject({ outcome: 'unknown' });
    expect(await payments.cancelCapture(request)).toMatchObject({ outcome: 'unknown' });
  });

  test('because its name does not exist has applied nothing', async () => {
    const payments = createHttpPaymentProvider({ url: 'http://provider.invalid', ...limits });
    expect(await payments.capture(request)).toMatchObject({
      outcome: 'not_applied',
      reason: expect.stringMatching(/^no connection/),
    });
  });
});

test('a call that is given up while it connects has applied nothing', async () => {
  await using server = await startDeafServer();
  const { port } = server;
  const payments = createHttpPaymentProvider({
    url: `http://127.0.0.1:${port}`,
    timeoutMs: 50,
    callsMax: 4,
  });
  expect(await payments.capture(request)).toEqual({
    outcome: 'not_applied',
    reason: 'no response in 50 ms',
  });
});

test('a key that HTTP cannot carry is not sent', async () => {
  await using server = await startRawServer(() => undefined);
  const payments = createHttpPaymentProvider({ url: server.url, ...limits });
  const outcome = await payments.capture({ ...request, key: 'k\r\nx: y' });
  expect(outcome).toMatchObject({ outcome: 'not_applied' });
  expect(server.requests).toEqual([]);
});

describe('the API key of a provider', () => {
  test.each([
    ['a reset', (socket: Socket) => socket.resetAndDestroy()],
    [
      'a refusal that quotes it',
      (socket: Socket, text: string) => socket.write(quoting('402', text)),
    ],
    ['a 400 that quotes it', (socket: Socket, text: string) => socket.write(quoting('400', text))],
    ['a page that quotes it', (socket: Socket, text: string) => socket.write(http('500 No', text))],
  ])('is in no outcome, after %s', async (_, respond) => {
    await using server = await startRawServer(respond);
    const payments = createHttpPaymentProvider({ url: server.url, apiKey: SECRET, ...limits });
    const outcome = await payments.capture(request);
    expect(server.requests.join('')).toContain(SECRET);
    expect(inspect(outcome, { depth: null, showHidden: true })).not.toContain(SECRET);
  });

  test.each([`${SECRET}\n`, `${SECRET} x`, `${SECRET}\r\nx: y`, `${SECRET}é`, ''])(
    'is refused at the start if it is not a token, and the error does not show it: %j',
    (apiKey) => {
      const create = () => createProviderClient({ url: 'http://127.0.0.1', apiKey, ...limits });
      expect(create).toThrow(/^a provider API key has a character it may not have$/);
    },
  );
});

test.each(['', 'provider', 'ftp://h', 'http://user:pass@h', 'http://h?x=1', 'http://h#x'])(
  'a provider URL that cannot work is refused at the start: %j',
  (url) => {
    expect(() => createProviderClient({ url, ...limits })).toThrow(
      /^a provider URL is http or https/,
    );
  },
);

/** A server that accepts nobody, in a thread that sleeps; its queue is full, so connecting hangs. */
async function startDeafServer() {
  const code = `
    const { parentPort } = require('node:worker_threads');
    const server = require('node:net').createServer();
    server.listen({ host: '127.0.0.1', port: 0, backlog: 1 }, () => {
      parentPort.postMessage(server.address().port);
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);
    });`;
  const worker = new Worker(code, { eval: true });
  const [port]: number[] = await once(worker, 'message');
  const queued = [connect(port!, '127.0.0.1'), connect(port!, '127.0.0.1')];
  for (const socket of queued) socket.on('error', () => undefined);
  await Promise.all(queued.map((socket) => once(socket, 'connect')));
  return {
    port: port!,
    [Symbol.asyncDispose]: async () => {
      for (const socket of queued) socket.destroy();
      await worker.terminate();
    },
  };
}

/** What a careless provider says: the head of the request, in every field. */
function quoting(status: string, text: string): string {
  const message = text.split('\r\n').join(' ');
  const word = status === '402' ? 'refused' : 'not_applied';
  return http(`${status} No`, JSON.stringify({ outcome: word, key: 'k', code: message, message }));
}
