import { mkdtempDisposable } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { bearer, createKey } from '#test/support/api-keys.ts';
import { createAuthority } from '#test/support/certificates.ts';
import { createTestDatabase } from '#test/support/database.ts';
import type { TestDatabase } from '#test/support/database.ts';
import type { HttpResponse } from '#test/support/http-client.ts';
import { startIdentityProvider } from '#test/support/identity-provider.ts';
import type { IdentityProvider, TokenOptions } from '#test/support/identity-provider.ts';
import { skipReason } from '#test/support/infra.ts';
import { eventually } from '#test/support/poll.ts';
import { refusalOf } from '#test/support/saga/api.ts';
import { startService } from '#test/support/service.ts';
import type { TestService } from '#test/support/service.ts';

/*
 * G10 while the identity provider is away, comes back and changes its keys. The tests follow one service from its
 * start, so each begins where the one before it ended.
 */
describe.skipIf(skipReason('postgres'))('a service and its identity provider', () => {
  let database: TestDatabase;
  let provider: IdentityProvider;
  let service: TestService;

  beforeAll(async () => {
    database = await createTestDatabase();
    provider = await startIdentityProvider();
    await provider.leave();
    service = await startService({ databaseUrl: database.url, env: provider.env });
  });
  afterAll(async () => {
    await service[Symbol.asyncDispose]();
    await provider[Symbol.asyncDispose]();
    await database[Symbol.asyncDispose]();
  });

  const read = (authorization: string): Promise<HttpResponse> =>
    service.api.request('GET', '/v1/orders', { headers: { authorization } });
  const readAs = async (options: TokenOptions = {}) =>
    read(`Bearer ${await provider.token(options)}`);
  const named = (sub: string, kid = provider.key().kid) => ({ claims: { sub }, header: { kid } });
  /** As many customers, each with a token of its own, at the same time. */
  const statusesOf = async (count: number, kidOf?: (n: number) => string) => {
    const tokens = Array.from({ length: count }, (_, n) => named(`c-${n}`, kidOf?.(n)));
    const responses = await Promise.all(tokens.map((options) => readAs(options)));
    return [...new Set(responses.map(({ status }) => status))];
  };

  test('starts without it: tokens get 503 and when to retry, API keys work', async () => {
    const refused = await readAs();
    expect(refusalOf(refused)).toBe('503 authentication_unavailable');
    expect(Number(refused.headers['retry-after'])).toBeGreaterThanOrEqual(1);
    expect(refused.text).not.toContain(provider.url);
    expect(refusalOf(await read('Bearer'))).toBe('401 unauthenticated');
    const key = await createKey(database.url);
    await eventually(async () => (await read(bearer(key).authorization)).status === 200);
    expect(service.log().join('\n')).toMatch(/JWT_JWKS_URL: connect ECONNREFUSED/);
  });

  test('accepts tokens once it is there', async () => {
    await provider.comeBack();
    await eventually(async () => (await readAs()).status === 200);
    expect(await statusesOf(50)).toEqual([200]);
    expect(provider.fetches()).toBe(1);
  });

  test('accepts them also while it is away again', async () => {
    await provider.leave();
    expect(await statusesOf(50)).toEqual([200]);
    expect(refusalOf(await readAs({ claims: { aud: 'other' } }))).toBe('401 unauthenticated');
  });

  test('asks to wait for a new key while it is away, and takes it in one fetch', async () => {
    await provider.rotate('ES256');
    const before = provider.fetches();
    // Only after the pause that follows every fetch is an unknown key a reason to ask.
    await eventually(async () => refusalOf(await readAs()) === '503 authentication_unavailable');
    await provider.comeBack();
    await eventually(async () => (await readAs()).status === 200);
    expect(await statusesOf(100)).toEqual([200]);
    expect(provider.fetches()).toBe(before + 1);
  });

  test('refuses keys that nobody has, and does not ask for each', async () => {
    const before = provider.fetches();
    const startedAt = performance.now();
    expect(await statusesOf(500, (n) => `garbage-${n}`)).toEqual([401]);
    // At most one fetch in 5 s.
    const fetchesMax = 1 + Math.ceil((performance.now() - startedAt) / 5_000);
    expect(provider.fetches() - before).toBeLessThanOrEqual(fetchesMax);
  });

  test('refuses the key that was replaced', async () => {
    const old = provider.key();
    await provider.rotate();
    await eventually(async () => (await readAs()).status === 200);
    const refused = await readAs({ key: old });
    expect(refusalOf(refused)).toBe('401 unauthenticated');
    expect(refused.text).toContain('does not publish');
  });

  test('stops while it does not respond', async () => {
    provider.respond(() => {});
    const waiting = statusesOf(1, () => 'unknown').catch(() => []);
    expect(await service.terminate()).toMatchObject({ code: 0 });
    await waiting;
  });
});

test.skipIf(skipReason('postgres'))(
  'a service reaches an identity provider with a certificate of an own authority',
  async () => {
    await using folder = await mkdtempDisposable(join(tmpdir(), 'jwks-'));
    const authority = await createAuthority(folder.path, 'own');
    await using provider = await startIdentityProvider(await authority.sign('id'));
    await using database = await createTestDatabase();
    const env = { ...provider.env, NODE_EXTRA_CA_CERTS: authority.caFile };
    await using service = await startService({ databaseUrl: database.url, env });
    const headers = bearer(await provider.token());
    const { status, text } = await service.api.request('GET', '/v1/orders', { headers });
    expect({ status, text }).toMatchObject({ status: 200 });
  },
);
