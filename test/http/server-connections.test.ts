import { describe, expect, test } from 'vitest';
import { eventually } from '#test/support/poll.ts';
import { rawClient, requestText } from './raw-client.ts';
import { THING_ID, goodThing, sampleRoutes, sampleServer } from './sample-server.ts';

const JSON_TYPE = 'content-type: application/json';
const body = JSON.stringify(goodThing);
const goodPost = (...headers: string[]) =>
  requestText(
    'POST',
    '/v1/things',
    [JSON_TYPE, `content-length: ${body.length}`, ...headers],
    body,
  );
const goodGet = (...headers: string[]) => requestText('GET', `/v1/things/${THING_ID}`, headers);
const responses = (text: string) => text.match(/HTTP\/1\.1 \d+/g) ?? [];

describe('a body above the limit', () => {
  const large = Buffer.alloc(10 * 1024 * 1024, ' ');

  test('of 10 MB gets 413, not a reset', async () => {
    await using server = sampleServer();
    const client = await rawClient(await server.listen());
    client.socket.write(
      requestText('POST', '/v1/things', [JSON_TYPE, `content-length: ${large.length}`]),
    );
    client.socket.write(large);
    expect(await client.until(/"requestId"/)).toContain('"code":"body_too_large"');
    client.socket.write(goodPost('connection: close'));
    expect(await client.ended).toBe('closed');
    expect(responses(client.received())).toStrictEqual(['HTTP/1.1 413', 'HTTP/1.1 201']);
  });

  test.each(['accept: a', 'expect: 100-continue'])(
    'sent in chunks gets 413 too (%s)',
    async (header) => {
      await using server = sampleServer();
      const client = await rawClient(await server.listen());
      const chunked = 'transfer-encoding: chunked';
      client.socket.write(requestText('POST', '/v1/things', [JSON_TYPE, chunked, header]));
      const chunk = large.subarray(0, 64 * 1024);
      for (let sent = 0; sent < large.length; sent += chunk.length) {
        client.socket.write(`${chunk.length.toString(16)}\r\n`);
        client.socket.write(chunk);
        client.socket.write('\r\n');
      }
      client.socket.write('0\r\n\r\n');
      expect(await client.until(/"requestId"/)).toMatch(/HTTP\/1.1 413 /);
      client.socket.write(goodPost('connection: close'));
      expect(await client.ended).toBe('closed');
      expect(client.received()).toMatch(/HTTP\/1.1 201 /);
    },
  );

  test('that never ends gets a response, and its connection ends', async () => {
    await using server = sampleServer();
    const client = await rawClient(await server.listen());
    client.socket.write(
      requestText('POST', '/v1/things', [JSON_TYPE, 'transfer-encoding: chunked']),
    );
    const chunk = `${(64 * 1024).toString(16)}\r\n${' '.repeat(64 * 1024)}\r\n`;
    const pour = () => {
      while (!client.socket.destroyed && client.socket.write(chunk));
    };
    client.socket.on('drain', pour);
    pour();
    await client.ended;
    expect(server.lines).toMatchObject([{ msg: 'request', status: 413 }]);
    // The size is bounded, not only the 5 s for which the rest is read.
    expect(client.socket.bytesWritten).toBeLessThan(64 * 1024 * 1024);
  });

  test.each([
    ['/v1/things', JSON_TYPE, 413],
    ['/v1/things', 'content-type: text/plain', 415],
    ['/nope', JSON_TYPE, 404],
    ['/v1/things/%zz', JSON_TYPE, 400],
  ])(
    'that is announced to %s as %s gets no 100 Continue',
    async (path, type, status) => {
      await using server = sampleServer();
      const client = await rawClient(await server.listen());
      const length = `content-length: ${large.length}`;
      client.socket.write(requestText('POST', path, [type, length, 'expect: 100-continue']));
      expect(await client.ended).toBe('closed');
      expect(responses(client.received())).toStrictEqual([`HTTP/1.1 ${status}`]);
    },
    4_500,
  );

  test('is one byte larger', async () => {
    await using server = sampleServer({ limits: { bodyBytesMax: body.length } });
    const post = (payload: string) =>
      server.app.inject({
        method: 'POST',
        url: '/v1/things',
        headers: { 'content-type': 'application/json' },
        payload,
      });
    expect((await post(body)).statusCode).toBe(201);
    expect((await post(`${body} `)).statusCode).toBe(413);
  });
});

describe('a body within the limit', () => {
  test('that is announced gets 100 Continue', async () => {
    await using server = sampleServer();
    const client = await rawClient(await server.listen());
    const head = [JSON_TYPE, `content-length: ${body.length}`, 'expect: 100-continue'];
    client.socket.write(requestText('POST', '/v1/things', head));
    await client.until(/100 Continue/);
    client.socket.write(body);
    expect(await client.until(/HTTP\/1\.1 201/)).toContain('HTTP/1.1 201');
  });

  test('cut short by its caller is logged as 499, not as an error', async () => {
    await using server = sampleServer();
    const client = await rawClient(await server.listen());
    client.socket.write(requestText('POST', '/v1/things', [JSON_TYPE, 'content-length: 500'], '{'));
    await eventually(async () => (await connections(server)) === 1);
    client.socket.destroy();
    await eventually(() => server.lines.length > 0);
    expect(server.lines).toMatchObject([{ msg: 'request', status: 499, aborted: true }]);
  });

  test('that was refused leaves the connection open', async () => {
    await using server = sampleServer();
    const client = await rawClient(await server.listen());
    client.socket.write(requestText('POST', '/v1/things', [JSON_TYPE, 'content-length: 1'], '{'));
    await client.until(/malformed_json/);
    client.socket.write(goodPost());
    expect(responses(await client.until(/HTTP\/1\.1 201/))).toStrictEqual([
      'HTTP/1.1 400',
      'HTTP/1.1 201',
    ]);
    client.socket.destroy();
  });
});

describe('a response', () => {
  test.each([
    ['HTTP/1.1', 'accept: a', /^Connection: keep-alive\r\nKeep-Alive: timeout=72\r$/m],
    ['HTTP/1.1', 'connection: close', /^Connection: close\r$/m],
    ['HTTP/1.0', 'connection: keep-alive', /^Connection: keep-alive\r$/m],
    ['HTTP/1.0', 'accept: a', /^Connection: close\r$/m],
  ])('to %s with %s tells whether the connection stays open', async (version, header, line) => {
    await using server = sampleServer();
    const client = await rawClient(await server.listen());
    client.socket.write(goodGet(header).replace('HTTP/1.1', version));
    expect(await client.until(/\r\n\r\n/)).toMatch(line);
    client.socket.destroy();
  });
});

describe('a header sent twice', () => {
  test.each([
    ['Idempotency-Key: a', 'idempotency-key: b', 'header/Idempotency-Key'],
    ['Idempotency-Key: a', 'Idempotency-Key: a', 'header/Idempotency-Key'],
    ['Authorization: a', 'authorization: b', 'header/Authorization'],
    ['Accept: a', 'Content-Type: text/plain', 'header/Content-Type'],
    ['Accept: a', 'Host: other', 'header/Host'],
  ])('(%s, %s) is refused', async (first, second, pointer) => {
    await using server = sampleServer();
    const client = await rawClient(await server.listen());
    client.socket.write(goodPost(first, second, 'connection: close'));
    await client.ended;
    expect(client.received()).toMatch(/^HTTP\/1.1 400 /);
    expect(client.received()).toContain(
      `"errors":[{"pointer":"${pointer}","message":"must be sent once only"}]`,
    );
  });

  test('is refused by the parser if it is Content-Length', async () => {
    await using server = sampleServer();
    const client = await rawClient(await server.listen());
    client.socket.write(goodPost('content-length: 3'));
    await client.ended;
    expect(client.received()).toMatch(/^HTTP\/1.1 400 /);
    expect(client.received()).toContain('"code":"malformed_request"');
  });

  test('that may occur twice is accepted', async () => {
    await using server = sampleServer();
    const client = await rawClient(await server.listen());
    client.socket.write(
      goodPost('accept: a', 'accept: b', 'x-more: 1', 'x-more: 2', 'connection: close'),
    );
    await client.ended;
    expect(client.received()).toMatch(/^HTTP\/1.1 201 /);
  });
});

describe('what is not HTTP', () => {
  test.each([
    ['hello\r\n\r\n', 400, 'malformed_request'],
    ['GET / HTTP/1.1\r\nconnection: close\r\n\r\n', 400, 'invalid_request'],
    ['GET / HTTP/1.1\r\nhost: x\r\nbad header\r\n\r\n', 400, 'malformed_request'],
    [`GET / HTTP/1.1\r\nhost: x\r\na: ${'x'.repeat(20_000)}\r\n\r\n`, 431, 'headers_too_large'],
    [
      'POST /v1/things HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n',
      400,
      'malformed_request',
    ],
  ])('%j gets %i', async (text, status, code) => {
    await using server = sampleServer();
    const client = await rawClient(await server.listen());
    client.socket.write(text);
    await client.ended;
    expect(client.received()).toMatch(new RegExp(`^HTTP/1.1 ${status} `));
    expect(client.received()).toContain('content-type: application/problem+json');
    expect(client.received()).toContain(`"code":"${code}"`);
  });
});

describe('a slow caller', () => {
  const limits = { headersTimeoutMs: 200, requestTimeoutMs: 400 };

  test('gets 408 while its body is incomplete, and others are served', async () => {
    await using server = sampleServer({ limits });
    const port = await server.listen();
    const slow = await rawClient(port);
    slow.socket.write(requestText('POST', '/v1/things', [JSON_TYPE, 'content-length: 500'], '{'));
    const other = await rawClient(port);
    other.socket.write(goodPost('connection: close'));
    await other.ended;
    expect(other.received()).toMatch(/^HTTP\/1.1 201 /);
    await slow.ended;
    expect(slow.received()).toMatch(/^HTTP\/1.1 408 /);
    expect(slow.received()).toContain('"code":"request_timeout"');
  });

  test('gets 408 while its headers are incomplete', async () => {
    await using server = sampleServer({ limits });
    const client = await rawClient(await server.listen());
    client.socket.write('GET / HTTP/1.1\r\nhost: x\r\n');
    await client.ended;
    expect(client.received()).toMatch(/^HTTP\/1.1 408 /);
  });

  test('that sends nothing at all is disconnected', async () => {
    await using server = sampleServer({ limits });
    const client = await rawClient(await server.listen());
    expect(await client.ended).toBe('closed');
  });

  test('is disconnected between two requests', async () => {
    await using server = sampleServer({ limits: { keepAliveTimeoutMs: 100 } });
    const client = await rawClient(await server.listen());
    client.socket.write(goodGet());
    await client.until(/200 OK/);
    expect(await client.ended).toBe('closed');
  });
});

describe('closing', { timeout: 120_000 }, () => {
  /** Longer than any test takes, so no timeout ends a connection here. */
  const LONG_MS = 300_000;
  const limits = {
    headersTimeoutMs: LONG_MS,
    requestTimeoutMs: LONG_MS,
    keepAliveTimeoutMs: LONG_MS,
    connectionTimeoutMs: LONG_MS,
    closeTimeoutMs: LONG_MS,
  };

  test('completes the request in progress on a kept-alive connection, and does not wait for more', async () => {
    const reached = Promise.withResolvers<void>();
    const gate = Promise.withResolvers<void>();
    const server = sampleServer({
      limits,
      routes: sampleRoutes(async () => {
        reached.resolve();
        await gate.promise;
      }),
    });
    server.app.addHook('preClose', (done) => {
      gate.resolve();
      done();
    });
    const client = await rawClient(await server.listen());
    client.socket.write(goodGet('connection: keep-alive'));
    await reached.promise;
    await server.app.close();
    expect(await client.ended).toBe('closed');
    expect(client.received()).toContain('HTTP/1.1 200');
    expect(client.received().toLowerCase()).toContain('connection: close');
  });

  test('serves requests that still come on an open connection', async () => {
    const gate = Promise.withResolvers<void>();
    let requests = 0;
    const server = sampleServer({
      limits,
      routes: sampleRoutes(async () => {
        requests += 1;
        if (requests === 1) await gate.promise;
      }),
    });
    const port = await server.listen();
    const first = await rawClient(port);
    const second = await rawClient(port);
    first.socket.write(goodGet());
    // Half a request keeps the connection busy while the server starts to close.
    const request = goodGet();
    second.socket.write(request.slice(0, 10));
    await eventually(() => requests === 1);
    await eventually(async () => (await connections(server)) === 2);
    const closed = server.app.close();
    second.socket.write(request.slice(10));
    expect(await second.until(/\}$/)).toContain('HTTP/1.1 200');
    gate.resolve();
    await closed;
    expect(await first.ended).toBe('closed');
  });

  test('ends connections that are idle or never sent a byte', async () => {
    const server = sampleServer({ limits });
    const port = await server.listen();
    const idle = await rawClient(port);
    idle.socket.write(goodGet());
    await idle.until(/200 OK/);
    const silent = await rawClient(port);
    await eventually(async () => (await connections(server)) === 2);
    await server.app.close();
    expect(await Promise.all([idle.ended, silent.ended])).toStrictEqual(['closed', 'closed']);
  });

  test('disconnects what does not end in time', async () => {
    const reached = Promise.withResolvers<void>();
    const server = sampleServer({
      routes: sampleRoutes(() => {
        reached.resolve();
        return new Promise(() => undefined);
      }),
      limits: { closeTimeoutMs: 100 },
    });
    const client = await rawClient(await server.listen());
    client.socket.write(goodGet());
    await reached.promise;
    await server.app.close();
    await client.ended;
    await eventually(() => server.lines.length > 0);
    expect(server.lines).toMatchObject([{ msg: 'request', status: 499, aborted: true }]);
  });
});

function connections({ app }: ReturnType<typeof sampleServer>): Promise<number> {
  return new Promise((resolve, reject) => {
    app.server.getConnections((error, count) => (error ? reject(error) : resolve(count)));
  });
}
