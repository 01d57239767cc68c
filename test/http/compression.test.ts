import { gunzipSync } from 'node:zlib';
import { describe, expect, test } from 'vitest';
import { z } from 'zod';
import { ifMatchHolds, entityTags, versionETag } from '#src/http/entity-tags.ts';
import { sendText } from '#src/http/responses.ts';
import { sampleServer } from './sample-server.ts';

const LARGE = JSON.stringify({ data: Array.from({ length: 300 }, (_, index) => `row ${index}`) });
const DOCUMENT = Buffer.from(LARGE.replace('row', 'document'));
const config = { access: 'public' } as const;

/** Reads of a versioned resource, a list and a document, each of them large, and a command. */
const largeServer = () =>
  sampleServer({
    routes: async (app) => {
      app.get('/versioned', { config }, async (_, reply) =>
        sendText(reply, { status: 200, etag: versionETag(3, 'stuck'), body: LARGE }),
      );
      app.get('/list', { config }, async (_, reply) => reply.send(JSON.parse(LARGE)));
      app.get('/document', { config }, async (_, reply) => reply.type('text/plain').send(DOCUMENT));
      app.get('/text', { config }, async (_, reply) => reply.type('text/plain').send(LARGE));
      app.get('/small', { config }, async (_, reply) => reply.send({ data: ['row'] }));
      app.get('/missing', { config }, async (_, reply) => reply.code(404).send(JSON.parse(LARGE)));
      app.post('/command', { config, schema: { body: z.strictObject({}) } }, async (_, reply) =>
        sendText(reply, { status: 200, etag: versionETag(3), body: LARGE }),
      );
    },
  });
const gzip = { 'accept-encoding': 'gzip' };

describe('a large read', () => {
  test.each([
    ['/versioned', '"v3-stuck-gzip"', LARGE],
    ['/list', /^W\/"[\w-]+"$/, LARGE],
    ['/document', /^W\/"[\w-]+"$/, String(DOCUMENT)],
  ])('is compressed for a caller that accepts gzip: %s', async (url, etag, text) => {
    await using server = largeServer();
    for (const headers of [gzip, { 'accept-encoding': 'br;q=1, GZIP;q=0.5' }]) {
      const response = await server.app.inject({ url, headers });
      expect(response.headers).toMatchObject({
        'content-encoding': 'gzip',
        'content-length': String(response.rawPayload.length),
        vary: 'accept-encoding',
        etag: expect.stringMatching(etag),
      });
      expect(response.rawPayload.length).toBeLessThan(text.length / 2);
      expect(String(gunzipSync(response.rawPayload))).toBe(text);
      const head = await server.app.inject({ url, headers, method: 'HEAD' });
      expect(head.body).toBe('');
      for (const name of ['etag', 'content-encoding', 'content-length', 'vary']) {
        expect(head.headers[name], name).toBe(response.headers[name]);
      }
    }
  });

  test.each([{}, { 'accept-encoding': 'br' }, { 'accept-encoding': 'gzip;q=0, identity' }])(
    'is sent as it is to any other caller: %j',
    async (headers) => {
      await using server = largeServer();
      const response = await server.app.inject({ url: '/versioned', headers });
      expect(response.headers['content-encoding']).toBeUndefined();
      expect(response.headers).toMatchObject({ vary: 'accept-encoding', etag: '"v3-stuck"' });
      expect(response.body).toBe(LARGE);
    },
  );

  test.each(['/versioned', '/list', '/document'])(
    'is 304 for the tag of the form that the caller has: %s',
    async (url) => {
      await using server = largeServer();
      for (const headers of [gzip, {}]) {
        const { headers: first } = await server.app.inject({ url, headers });
        const again = await server.app.inject({
          url,
          headers: { ...headers, 'if-none-match': String(first['etag']) },
        });
        expect(again.statusCode).toBe(304);
        expect(again.rawPayload.length).toBe(0);
        expect(again.headers).toMatchObject({ etag: first['etag'], vary: 'accept-encoding' });
        expect(again.headers['content-encoding']).toBeUndefined();
      }
    },
  );

  test('has a tag that names the same version for If-Match as that of the plain form', () => {
    for (const tag of ['"v3"', '"v3-stuck"', '"v3-gzip"', '"v3-stuck-gzip"']) {
      expect(ifMatchHolds(entityTags.parse(tag), 3), tag).toBe(true);
      expect(ifMatchHolds(entityTags.parse(tag), 4), tag).toBe(false);
      expect(ifMatchHolds(entityTags.parse(`W/${tag}`), 3), tag).toBe(false);
    }
  });
});

test.each(['/small', '/text', '/missing'])('%s is never compressed', async (url) => {
  await using server = largeServer();
  const response = await server.app.inject({ url, headers: gzip });
  expect(response.headers['content-encoding']).toBeUndefined();
  expect(response.headers['vary']).toBeUndefined();
  expect(response.json()).toHaveProperty('data');
});

test('neither a command nor a problem is ever compressed: they repeat what their caller sent', async () => {
  await using server = largeServer();
  const send = (payload: Readonly<Record<string, unknown>>) =>
    server.app.inject({ method: 'POST', url: '/command', headers: gzip, payload });
  const command = await send({});
  expect(command.headers['content-encoding']).toBeUndefined();
  expect(command.body).toBe(LARGE);
  const members = Array.from({ length: 100 }, (_, index) => [`unknown${index}`, 1]);
  const problem = await send(Object.fromEntries(members));
  expect(problem.body.length).toBeGreaterThan(2000);
  expect(problem.headers['content-encoding']).toBeUndefined();
});
