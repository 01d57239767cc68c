import { describe, expect, test } from 'vitest';
import { sampleServer, THING_ID } from './sample-server.ts';

const SHOP = 'https://shop.example';
const EVIL = 'https://evil.example';
const url = `/v1/things/${THING_ID}`;
const shopServer = (rateLimits?: Readonly<{ perAddress: number; perPrincipal: number }>) =>
  sampleServer({ allowedOrigins: [SHOP], ...(rateLimits && { rateLimits }) });
const preflight = (origin: string) =>
  ({
    method: 'OPTIONS',
    url,
    headers: {
      origin,
      'access-control-request-method': 'POST',
      'access-control-request-headers': 'authorization,content-type',
    },
  }) as const;

describe('a page of an allowed origin', () => {
  test('may ask what it may send', async () => {
    await using server = shopServer();
    const response = await server.app.inject(preflight(SHOP));
    expect(response.statusCode).toBe(204);
    expect(response.headers).toMatchObject({
      'access-control-allow-origin': SHOP,
      'access-control-allow-methods': 'GET, HEAD, POST, PUT, DELETE',
      'access-control-allow-headers': expect.stringMatching(
        /^Authorization, .*Idempotency-Key, If-Match/,
      ),
      'access-control-max-age': '600',
      vary: 'origin',
    });
    expect(response.headers['access-control-allow-credentials']).toBeUndefined();
  });

  test('may read responses, their headers and problems', async () => {
    await using server = shopServer();
    for (const path of [url, '/nope', `${url}?x=%ff`, '/%ff']) {
      const response = await server.app.inject({ url: path, headers: { origin: SHOP } });
      expect(response.headers, path).toMatchObject({
        'access-control-allow-origin': SHOP,
        'access-control-expose-headers': expect.stringMatching(/X-Request-Id.*ETag.*Location/),
        vary: 'origin',
      });
    }
  });

  test('may send a command without a JSON body', async () => {
    await using server = shopServer();
    const headers = { origin: SHOP, 'sec-fetch-site': 'cross-site' };
    const response = await server.app.inject({ method: 'POST', url: `${url}/poke`, headers });
    expect(response.statusCode).toBe(204);
  });
});

describe('a page of any other origin', () => {
  test.each([EVIL, 'null', `${SHOP}:444`, `${SHOP}.evil.example`, 'http://shop.example'])(
    'gets no permission and no response to read: %s',
    async (origin) => {
      await using server = shopServer();
      const asked = await server.app.inject(preflight(origin));
      const read = await server.app.inject({ url, headers: { origin } });
      expect(asked.statusCode).toBe(405);
      expect(read.statusCode).toBe(200);
      for (const { headers } of [asked, read]) {
        expect(Object.keys(headers).filter((name) => name.startsWith('access-control'))).toEqual(
          [],
        );
        expect(headers['vary']).toBe('origin');
      }
      const headers = { origin, 'sec-fetch-site': 'cross-site' };
      const poke = await server.app.inject({ method: 'POST', url: `${url}/poke`, headers });
      expect(poke.json()).toMatchObject({ code: 'cross_origin' });
    },
  );
});

test('no page of another origin has any permission if none is configured', async () => {
  await using server = sampleServer();
  const asked = await server.app.inject(preflight(SHOP));
  expect(asked.statusCode).toBe(405);
  const read = await server.app.inject({ url, headers: { origin: SHOP } });
  for (const { headers } of [asked, read]) {
    expect(Object.keys(headers).filter((name) => /^access-control|^vary/.test(name))).toEqual([]);
  }
});

test('OPTIONS that is no preflight is refused as ever', async () => {
  await using server = shopServer();
  const response = await server.app.inject({ method: 'OPTIONS', url, headers: { origin: SHOP } });
  expect(response.statusCode).toBe(405);
});

test('preflights count towards the limit of an address, and the refusal can be read', async () => {
  await using server = shopServer({ perAddress: 1, perPrincipal: 0 });
  const asked = { ...preflight(SHOP), remoteAddress: '192.0.2.1' };
  await server.app.inject(asked);
  const refused = await server.app.inject(asked);
  expect(refused.statusCode).toBe(429);
  expect(refused.headers['access-control-allow-origin']).toBe(SHOP);
});
