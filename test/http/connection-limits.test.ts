import { once } from 'node:events';
import { createServer } from 'node:net';
import type { AddressInfo } from 'node:net';
import { describe, expect, test } from 'vitest';
import { z } from 'zod';
import { eventually } from '#test/support/poll.ts';
import { rawClient, requestText } from './raw-client.ts';
import type { RawClient } from './raw-client.ts';
import { THING_ID, sampleRoutes, sampleServer } from './sample-server.ts';

const HERE = '203.0.113.9';
const ELSEWHERE = '203.0.113.10';
const get = (...headers: string[]) => requestText('GET', `/v1/things/${THING_ID}`, headers);
const served = async (client: RawClient) => {
  client.socket.write(get());
  expect(await client.until(/\}$/)).toMatch(/^HTTP\/1.1 200 /);
};

/** A server whose connections come from the addresses that a test names. */
async function serverWithAddresses(options: Parameters<typeof sampleServer>[0]) {
  const server = sampleServer(options);
  await server.app.ready();
  const addresses: string[] = [];
  const gateway = createServer((socket) => {
    Object.defineProperty(socket, 'remoteAddress', { value: addresses.shift() });
    server.app.server.emit('connection', socket);
  }).listen(0, '127.0.0.1');
  await once(gateway, 'listening');
  const { port } = z
    .object({ port: z.number() })
    .parse(gateway.address() satisfies AddressInfo | string | null);
  const clients: RawClient[] = [];
  return {
    connectFrom: async (address: string) => {
      addresses.push(address);
      const client = await rawClient(port);
      clients.push(client);
      return client;
    },
    [Symbol.asyncDispose]: async () => {
      for (const { socket } of clients) socket.destroy();
      gateway.close();
      await server[Symbol.asyncDispose]();
    },
  };
}

describe('connections of one address above its limit', () => {
  const limits = { perAddressMax: 2, lingerTimeoutMs: 200, keepAliveTimeoutMs: 600_000 };

  test('get 503 while its others have requests in progress; other addresses are served', async () => {
    const gate = Promise.withResolvers<void>();
    let handled = 0;
    const routes = sampleRoutes(() => {
      handled += 1;
      return gate.promise;
    });
    await using server = await serverWithAddresses({ limits, routes });
    const working = [await server.connectFrom(HERE), await server.connectFrom(HERE)];
    for (const { socket } of working) socket.write(get());
    await eventually(() => handled === 2);
    const refused = await server.connectFrom(HERE);
    expect(await refused.until(/\}$/)).toMatch(/^HTTP\/1.1 503 .*"overloaded"/s);
    expect(refused.received()).toContain('too many connections from this address');
    const other = await server.connectFrom(ELSEWHERE);
    other.socket.write(get());
    await eventually(() => handled === 3);
    gate.resolve();
    for (const client of [...working, other]) await client.until(/\}$/);
  });

  test('replace the one of that address that has been idle longest', async () => {
    await using server = await serverWithAddresses({ limits });
    const other = await server.connectFrom(ELSEWHERE);
    await served(other);
    const [first, second] = [await server.connectFrom(HERE), await server.connectFrom(HERE)];
    for (const client of [first, second, first]) await served(client);
    const newcomer = await server.connectFrom(HERE);
    await served(newcomer);
    expect(await second.ended).toBe('closed');
    for (const { socket } of [other, first, newcomer]) expect(socket.closed).toBe(false);
  });

  test('are accepted when others have ended', async () => {
    await using server = await serverWithAddresses({ limits });
    for (let round = 0; round < 5; round += 1) {
      const client = await server.connectFrom(HERE);
      client.socket.write(get('connection: close'));
      expect(await client.ended).toBe('closed');
      expect(client.received()).toMatch(/^HTTP\/1.1 200 /);
    }
  });

  test.each([
    ['an IPv6 network', '2001:db8:1:2::1', ['2001:db8:1:2::2', '2001:db8:1:2:3::1'], true],
    ['another IPv6 network', '2001:db8:1:2::1', ['2001:db8:1:3::1', '2001:db8:1:4::1'], false],
    ['this host', '127.0.0.1', ['127.0.0.1', '::1'], false],
    ['a trusted proxy', '192.0.2.7', ['192.0.2.7', '192.0.2.7'], false],
  ])('count by network: %s', async (_, first, next, isReplaced) => {
    await using server = await serverWithAddresses({ limits, trustedProxies: ['192.0.2.0/24'] });
    const idle = await server.connectFrom(first);
    await served(idle);
    for (const address of next) await served(await server.connectFrom(address));
    if (isReplaced) expect(await idle.ended).toBe('closed');
    else expect(idle.socket.closed).toBe(false);
  });
});

describe('requests in one packet', () => {
  test('let those of other connections go between them', async () => {
    const order: string[] = [];
    const routes = sampleRoutes(async ({ query }) => void order.push(JSON.stringify(query)));
    await using server = sampleServer({ routes });
    const port = await server.listen();
    const [greedy, modest] = [await rawClient(port), await rawClient(port)];
    for (const client of [greedy, modest]) await served(client);
    const ask = (version: number) =>
      requestText('GET', `/v1/things/${THING_ID}?version=${version}`, []);
    greedy.socket.write(ask(1).repeat(30));
    modest.socket.write(ask(2));
    await eventually(() => order.length === 33);
    expect(order.slice(2, 6)).toContain('{"version":2}');
    for (const { socket } of [greedy, modest]) socket.destroy();
  });

  test('begin one at a time, however many connections send them', async () => {
    let turn = 0;
    let counting = setImmediate(function count() {
      turn += 1;
      counting = setImmediate(count);
    });
    const turns: number[] = [];
    const routes = sampleRoutes(async () => void turns.push(turn));
    await using server = sampleServer({ routes });
    const port = await server.listen();
    const greedy = await Promise.all(Array.from({ length: 10 }, () => rawClient(port)));
    for (const { socket } of greedy) socket.write(get().repeat(20));
    await eventually(() => turns.length === 200);
    clearImmediate(counting);
    // All but the first request of each connection.
    expect(turns.at(-1)! - turns[0]!).toBeGreaterThanOrEqual(180);
    for (const { socket } of greedy) socket.destroy();
  });
});
