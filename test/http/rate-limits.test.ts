import type { FastifyInstance } from 'fastify';
import { describe, expect, test, vi } from 'vitest';
import { SCOPES } from '#src/auth/principal.ts';
import { unauthenticated } from '#src/http/access.ts';
import { rawClient, requestText } from './raw-client.ts';
import { THING_ID, sampleRoutes, sampleServer } from './sample-server.ts';

const PATH = `/v1/things/${THING_ID}`;
const HERE = '203.0.113.9';
const ELSEWHERE = '203.0.113.10';

/** The time stands still, so that no second ends within a test. */
function limitedServer(options: Parameters<typeof sampleServer>[0] = {}) {
  vi.useFakeTimers({ toFake: ['Date'] });
  const server = sampleServer({ rateLimits: { perAddress: 2, perPrincipal: 0 }, ...options });
  return {
    ...server,
    async [Symbol.asyncDispose]() {
      vi.useRealTimers();
      await server[Symbol.asyncDispose]();
    },
  };
}

function ask(app: FastifyInstance, remoteAddress: string, headers = {}, url = PATH) {
  return app.inject({ url, remoteAddress, headers });
}

/** The statuses of requests that were sent one after the other. */
async function statuses(app: FastifyInstance, ...requests: [string, Record<string, string>?][]) {
  const got: number[] = [];
  for (const [address, headers] of requests)
    got.push((await ask(app, address, headers)).statusCode);
  return got;
}

describe('above the limit of an address', () => {
  test('a request gets 429 with the time to wait, and nothing is done', async () => {
    let handled = 0;
    const routes = sampleRoutes(async () => void (handled += 1));
    await using server = limitedServer({ routes });
    expect(await statuses(server.app, [HERE], [HERE])).toStrictEqual([200, 200]);
    const refused = await ask(server.app, HERE);
    expect(handled).toBe(2);
    expect(refused.statusCode).toBe(429);
    expect(refused.headers).toMatchObject({
      'content-type': 'application/problem+json; charset=utf-8',
      'cache-control': 'no-store',
      'retry-after': '1',
      'ratelimit-limit': '2',
      'ratelimit-remaining': '0',
      'ratelimit-reset': '1',
    });
    expect(refused.json()).toMatchObject({
      type: '/docs/problems#rate_limited',
      code: 'rate_limited',
      status: 429,
      requestId: refused.headers['x-request-id'],
      detail: expect.stringContaining('more than 2 requests in one second'),
    });
  });

  test('other addresses are served', async () => {
    await using server = limitedServer();
    expect(await statuses(server.app, [HERE], [HERE], [HERE], [ELSEWHERE])).toStrictEqual([
      200, 200, 429, 200,
    ]);
  });

  test('requests are served again when the second has passed', async () => {
    await using server = limitedServer();
    await statuses(server.app, [HERE], [HERE], [HERE]);
    vi.setSystemTime(Date.now() + 1_000);
    expect(await statuses(server.app, [HERE])).toStrictEqual([200]);
  });

  test.each([
    ['without a route', '/nope', {}, 404],
    ['with a wrong header', PATH, { expect: 'a' }, 417],
    ['whose path cannot be read', '/%zz', {}, 400],
    ['whose path is too long', `/v1/things/${'a'.repeat(300)}`, {}, 414],
  ])('a request %s gets 429 too', async (_, url, headers, status) => {
    await using server = limitedServer();
    const got: number[] = [];
    for (let sent = 0; sent < 3; sent += 1) {
      got.push((await ask(server.app, HERE, headers, url)).statusCode);
    }
    expect(got).toStrictEqual([status, status, 429]);
  });
});

describe('the response below the limit', () => {
  test('shows what is left', async () => {
    await using server = limitedServer();
    const { headers } = await ask(server.app, HERE);
    expect(headers).toMatchObject({ 'ratelimit-limit': '2', 'ratelimit-remaining': '1' });
  });
});

describe('a refused token', () => {
  test('counts as ten requests', async () => {
    const authentication = async () => {
      throw unauthenticated('No.', 'invalid_token');
    };
    await using server = limitedServer({
      authentication,
      rateLimits: { perAddress: 20, perPrincipal: 0 },
    });
    expect(await statuses(server.app, [HERE], [HERE], [HERE])).toStrictEqual([401, 401, 429]);
  });
});

describe('above the limit of a principal', () => {
  const rateLimits = { perAddress: 100, perPrincipal: 2 };
  const authentication = async ({ authorization = '' }) => ({
    id: authorization,
    scopes: new Set(SCOPES),
  });
  const as = (id: string): Record<string, string> => ({ authorization: id });

  test('a request gets 429, from whichever address, and others are served', async () => {
    await using server = limitedServer({ authentication, rateLimits });
    const requests: [string, Record<string, string>][] = [
      [HERE, as('a')],
      [ELSEWHERE, as('a')],
      [HERE, as('a')],
      [HERE, as('b')],
    ];
    expect(await statuses(server.app, ...requests)).toStrictEqual([200, 200, 429, 200]);
    const refused = await ask(server.app, HERE, as('a'));
    expect(refused.headers).toMatchObject({ 'retry-after': '1', 'ratelimit-limit': '2' });
    expect(refused.json()).toMatchObject({
      code: 'rate_limited',
      detail: expect.stringContaining('This principal has sent more than 2 requests'),
    });
  });

  test('a body is not read', async () => {
    await using server = limitedServer({ authentication, rateLimits });
    const post = () =>
      server.app.inject({
        method: 'POST',
        url: '/v1/things',
        remoteAddress: HERE,
        headers: { 'content-type': 'application/json', ...as('a') },
        payload: '{',
      });
    expect([await post(), await post(), await post()].map((got) => got.statusCode)).toStrictEqual([
      400, 400, 429,
    ]);
  });

  test('HEAD counts once, as GET does', async () => {
    await using server = limitedServer({ authentication, rateLimits });
    const head = () =>
      server.app.inject({ method: 'HEAD', url: PATH, remoteAddress: HERE, headers: as('a') });
    expect([await head(), await head(), await head()].map((got) => got.statusCode)).toStrictEqual([
      200, 200, 429,
    ]);
  });

  test('everybody is served on this host, and while nobody has to say who they are', async () => {
    await using known = limitedServer({ authentication, rateLimits });
    const local: [string, Record<string, string>] = ['127.0.0.1', as('a')];
    expect(await statuses(known.app, local, local, local)).toStrictEqual([200, 200, 200]);
    await using open = limitedServer({ rateLimits });
    expect(await statuses(open.app, [HERE], [HERE], [HERE])).toStrictEqual([200, 200, 200]);
  });
});

describe('the address of a caller', () => {
  test.each([
    ['of IPv6 is its network', '2001:db8:1:2::1', '2001:db8:1:2:ffff::9', 429],
    ['of another IPv6 network is another one', '2001:db8:1:2::1', '2001:db8:1:3::1', 200],
    ['of IPv4 is the same in an IPv6 socket', HERE, `::ffff:${HERE}`, 429],
  ])('%s', async (_, first, second, status) => {
    await using server = limitedServer();
    await statuses(server.app, [first], [first]);
    expect(await statuses(server.app, [second])).toStrictEqual([status]);
  });

  test.each(['127.0.0.1', '127.8.9.1', '::1', '::ffff:127.0.0.1'])(
    'on this host is not limited: %s',
    async (address) => {
      await using server = limitedServer();
      expect(await statuses(server.app, [address], [address], [address])).toStrictEqual([
        200, 200, 200,
      ]);
    },
  );

  test.each(['x-forwarded-for', 'forwarded', 'x-real-ip', 'x-client-ip'])(
    'is not changed by a forged %s',
    async (header) => {
      await using server = limitedServer({ trustedProxies: ['192.0.2.1'] });
      const forged = (value: string): [string, Record<string, string>] => [
        HERE,
        { [header]: value },
      ];
      const requests = [forged('198.51.100.1'), forged('198.51.100.2'), forged('127.0.0.1')];
      expect(await statuses(server.app, ...requests)).toStrictEqual([200, 200, 429]);
    },
  );

  test('is the one that a trusted proxy names', async () => {
    await using server = limitedServer({ trustedProxies: ['192.0.2.0/24'] });
    const by = (client: string): [string, Record<string, string>] => [
      '192.0.2.7',
      { 'x-forwarded-for': client },
    ];
    const requests = [by(HERE), by(HERE), by(ELSEWHERE), by(HERE)];
    expect(await statuses(server.app, ...requests)).toStrictEqual([200, 200, 200, 429]);
  });

  test('is not what the caller put before the address that a trusted proxy added', async () => {
    await using server = limitedServer({ trustedProxies: ['192.0.2.1'] });
    const by = (forged: string): [string, Record<string, string>] => [
      '192.0.2.1',
      { 'x-forwarded-for': `${forged}, ${HERE}` },
    ];
    expect(await statuses(server.app, by('1.1.1.1'), by('2.2.2.2'), by('127.0.0.1'))).toStrictEqual(
      [200, 200, 429],
    );
  });

  test('may change from one request of a connection to the next', async () => {
    const trustedProxies = ['127.0.0.1'];
    await using server = limitedServer({
      trustedProxies,
      rateLimits: { perAddress: 1, perPrincipal: 0 },
    });
    const proxy = await rawClient(await server.listen());
    for (const client of [HERE, ELSEWHERE, HERE]) {
      proxy.socket.write(requestText('GET', PATH, [`x-forwarded-for: ${client}`]));
    }
    await proxy.until(/rate_limited.*\}$/s);
    expect(proxy.received().match(/HTTP\/1\.1 \d+/g)).toStrictEqual([
      'HTTP/1.1 200',
      'HTTP/1.1 200',
      'HTTP/1.1 429',
    ]);
    proxy.socket.destroy();
  });

  test('is that of the proxy if the proxy names no address', async () => {
    await using server = limitedServer({ trustedProxies: ['192.0.2.1'] });
    const by = (text: string): [string, Record<string, string>] => [
      '192.0.2.1',
      { 'x-forwarded-for': text },
    ];
    expect(await statuses(server.app, by('unknown'), by('x'.repeat(5_000)), by('a'))).toStrictEqual(
      [200, 200, 429],
    );
  });
});

describe('many addresses', () => {
  test('are counted in bounded memory: those that sent nothing for longest are forgotten', async () => {
    await using server = limitedServer({
      rateLimits: { perAddress: 1, perPrincipal: 0, addressesMax: 20 },
    });
    await statuses(server.app, [HERE]);
    expect(await statuses(server.app, [HERE])).toStrictEqual([429]);
    for (let host = 0; host < 20; host += 1) await ask(server.app, `10.0.0.${host}`);
    expect(await statuses(server.app, [HERE])).toStrictEqual([200]);
  });
});

test('0 is no limit', async () => {
  await using server = limitedServer({ rateLimits: { perAddress: 0, perPrincipal: 0 } });
  const { statusCode, headers } = await ask(server.app, HERE);
  expect(statusCode).toBe(200);
  expect(headers).not.toHaveProperty('ratelimit-limit');
});
