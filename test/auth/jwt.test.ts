import { mkdtempDisposable } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pino } from 'pino';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { createKeySet } from '#src/auth/jwks.ts';
import type { KeySetOptions } from '#src/auth/jwks.ts';
import { createJwtAuthenticator } from '#src/auth/jwt.ts';
import type { JwtOptions } from '#src/auth/jwt.ts';
import { Problem } from '#src/http/problem.ts';
import { createAuthority } from '#test/support/certificates.ts';
import {
  AUDIENCE,
  CRITICAL,
  createSigningKey,
  ISSUER,
  publicKeyAsSecretToken,
  startIdentityProvider,
  unsignedToken,
} from '#test/support/identity-provider.ts';
import type { IdentityProvider, TokenOptions } from '#test/support/identity-provider.ts';
import { eventually } from '#test/support/poll.ts';

const UNAVAILABLE = { code: 'authentication_unavailable', status: 503 };
const log = pino({ level: 'silent' });
const seconds = () => Math.floor(Date.now() / 1000);

/** What the service makes of the tokens of a provider. */
function trusting(
  url: string,
  {
    limits = { cooldownMs: 60_000, retryMs: 60_000 },
    ...options
  }: Partial<JwtOptions> & Pick<KeySetOptions, 'limits'> = {},
) {
  const keys = createKeySet({ url, log, limits });
  const trust = { issuer: ISSUER, audience: AUDIENCE, customerClaim: 'sub', ageSecondsMax: 86_400 };
  const authenticate = createJwtAuthenticator({ keys, ...trust, ...options });
  return { authenticate, keys };
}

const refusal = (work: Promise<unknown>): Promise<string> =>
  work.then(
    () => 'accepted',
    (error: unknown) => {
      if (error instanceof Problem && error.code === 'unauthenticated') return error.message;
      throw error;
    },
  );

describe('a JWT', () => {
  let provider: IdentityProvider;
  let authenticate: ReturnType<typeof trusting>['authenticate'];

  beforeAll(async () => {
    provider = await startIdentityProvider();
    ({ authenticate } = trusting(provider.url));
  });
  afterAll(() => provider[Symbol.asyncDispose]());

  test('belongs to a customer', async () => {
    const principal = await authenticate(await provider.token({ claims: { sub: 'c-7' } }));
    expect(principal).toEqual({
      id: expect.stringMatching(/^jwt:[0-9a-f]{12}\|c-7$/),
      scopes: new Set(['orders:read', 'orders:write']),
      customerId: 'c-7',
    });
  });

  test('with the scope orders:all belongs to a service', async () => {
    const claims = { sub: 'shop', scope: 'orders:all stock:write' };
    const principal = await authenticate(await provider.token({ claims }));
    expect(principal).toEqual({
      id: expect.stringMatching(/\|shop$/),
      scopes: new Set(['orders:all', 'stock:write']),
    });
  });

  test.each<[string, Record<string, unknown>, readonly string[]]>([
    ['scope', { scope: 'a b' }, ['a', 'b']],
    ['scope with many spaces', { scope: ' a  b ' }, ['a', 'b']],
    ['scp as a list', { scope: undefined, scp: ['a', 'b'] }, ['a', 'b']],
    ['scp as a string', { scope: undefined, scp: 'a b' }, ['a', 'b']],
    ['scope before scp', { scope: 'a', scp: ['orders:all'] }, ['a']],
    ['neither', { scope: undefined }, []],
  ])('has the scopes of %s', async (_, claims, scopes) => {
    const principal = await authenticate(await provider.token({ claims }));
    expect([...principal.scopes]).toEqual(scopes);
    expect(principal.customerId).toBe('c-1');
  });

  test('names the customer in the claim that is configured', async () => {
    const { authenticate } = trusting(provider.url, { customerClaim: 'https://shop/customer' });
    const claims = { 'https://shop/customer': 'c-9', sub: 'user-1' };
    const principal = await authenticate(await provider.token({ claims }));
    expect(principal).toMatchObject({ customerId: 'c-9', id: expect.stringMatching(/\|user-1$/) });
    expect(await refusal(authenticate(await provider.token()))).toMatch(/no claim https:\/\/shop/);
  });

  test.each(['__proto__', 'constructor', 'toString'])(
    'has no claim %s unless it says so',
    async (customerClaim) => {
      const { authenticate } = trusting(provider.url, { customerClaim });
      expect(await refusal(authenticate(await provider.token()))).toMatch(/no claim/);
    },
  );

  test('of another issuer belongs to somebody else', async () => {
    const there = trusting(provider.url, { issuer: 'https://other/' });
    const here = await authenticate(await provider.token());
    const other = await there.authenticate(
      await provider.token({ claims: { iss: 'https://other/' } }),
    );
    expect(other.id).not.toBe(here.id);
    expect(other.customerId).toBe(here.customerId);
  });

  test.each(['RS256', 'PS256', 'ES256', 'ES384', 'EdDSA'])('may be signed with %s', async (alg) => {
    await using other = await startIdentityProvider();
    await other.rotate(alg);
    const { authenticate } = trusting(other.url);
    expect(await authenticate(await other.token())).toMatchObject({ customerId: 'c-1' });
  });

  test.each<[string, TokenOptions, RegExp]>([
    ['expired', { claims: { exp: seconds() - 60 } }, /has expired/],
    ['without exp', { claims: { exp: undefined } }, /claim exp .* missing/],
    [
      'with an exp that is text',
      { claims: { exp: `${seconds() + 60}` } },
      /claim exp .* not valid/,
    ],
    ['not yet valid', { claims: { nbf: seconds() + 60 } }, /not valid yet/],
    ['issued in the future', { claims: { iat: seconds() + 60 } }, /issued in the future/],
    ['older than a day', { claims: { iat: seconds() - 86_500 } }, /too old/],
    ['without iat', { claims: { iat: undefined } }, /claim iat .* missing/],
    ['for another audience', { claims: { aud: 'stock' } }, /another service/],
    ['for a part of the audience', { claims: { aud: 'order' } }, /another service/],
    ['without an audience', { claims: { aud: undefined } }, /claim aud .* missing/],
    ['of another issuer', { claims: { iss: 'https://evil/' } }, /another issuer/],
    ['of the issuer without its slash', { claims: { iss: ISSUER.slice(0, -1) } }, /another issuer/],
    ['of several issuers', { claims: { iss: [ISSUER] } }, /another issuer/],
    ['without an issuer', { claims: { iss: undefined } }, /claim iss .* missing/],
    ['without a subject', { claims: { sub: undefined } }, /claim sub .* missing/],
    ['with an empty subject', { claims: { sub: '' } }, /no claim sub/],
    ['with a subject that is a number', { claims: { sub: 7 } }, /no claim sub/],
    ['with a subject that is a list', { claims: { sub: ['c-1'] } }, /no claim sub/],
    ['with U+0000 in its subject', { claims: { sub: 'c\u0000' } }, /no claim sub/],
    ['with half a character', { claims: { sub: '\ud800' } }, /no claim sub/],
    ['with a long customer', { claims: { sub: 'c'.repeat(65) } }, /no claim sub/],
    [
      'with a long subject',
      { claims: { sub: 'c'.repeat(256), scope: 'orders:all' } },
      /no claim sub/,
    ],
    ['with scopes that are numbers', { claims: { scope: 7 } }, /scopes/],
    ['with scopes that are objects', { claims: { scope: undefined, scp: [{}] } }, /scopes/],
    ['for a logout', { header: { typ: 'logout+jwt' } }, /not an access token/],
    ['of an unknown type', { header: { typ: 'dpop+jwt' } }, /not an access token/],
    ['of a key that nobody has', { header: { kid: 'key-x' } }, /does not publish/],
    ['with a path as its kid', { header: { kid: '../../etc/passwd' } }, /does not publish/],
    [
      'with a critical extension',
      { header: { crit: [CRITICAL], [CRITICAL]: 1 } },
      /not a valid JWT/,
    ],
  ])('is refused if it is %s', async (_, options, reason) => {
    expect(await refusal(authenticate(await provider.token(options)))).toMatch(reason);
  });

  test.each([undefined, 'JWT', 'jwt', 'at+jwt', 'AT+JWT', 'application/at+jwt'])(
    'may have the type %s',
    async (typ) => {
      const token = await provider.token({ header: { typ } });
      expect(await refusal(authenticate(token))).toBe('accepted');
    },
  );

  test('may come from a clock that is half a minute off', async () => {
    const now = seconds();
    for (const claims of [{ exp: now - 20 }, { nbf: now + 20 }, { iat: now + 20 }]) {
      expect(await refusal(authenticate(await provider.token({ claims })))).toBe('accepted');
    }
  });

  test('is refused with alg none', async () => {
    const none = /algorithm that this service does not accept/;
    expect(await refusal(authenticate(unsignedToken()))).toMatch(none);
    for (const alg of ['None', 'NONE', 'nOnE', '', null, ['none']]) {
      const token = unsignedToken({ header: { alg, kid: provider.key().kid } });
      expect(await refusal(authenticate(token))).not.toBe('accepted');
    }
  });

  test('is refused with the public key as the secret of HS256', async () => {
    const token = await publicKeyAsSecretToken(provider.key());
    expect(await refusal(authenticate(token))).toMatch(/algorithm that this service/);
  });

  test('is refused with HS256 even if the provider publishes the secret', async () => {
    await using other = await startIdentityProvider();
    const secret = Buffer.alloc(32, 1);
    const jwk = { kty: 'oct', k: secret.toString('base64url'), kid: 'key-1', alg: 'HS256' };
    other.publish([jwk, other.key().jwk]);
    const { authenticate } = trusting(other.url);
    const token = await publicKeyAsSecretToken(other.key());
    expect(await refusal(authenticate(token))).toMatch(/algorithm that this service/);
  });

  test('is refused if another key signed it in the name of the real one', async () => {
    const forged = await createSigningKey(provider.key().kid);
    const token = await provider.token({ key: forged });
    expect(await refusal(authenticate(token))).toMatch(/signature of the token is not valid/);
  });

  test('is refused if it brings its own key, and no address in it is ever visited', async () => {
    await using evil = await startIdentityProvider();
    const header = { jku: evil.url, x5u: evil.url, jwk: evil.key().jwk, kid: evil.url };
    const token = await provider.token({ key: evil.key(), header });
    expect(await refusal(authenticate(token))).toMatch(/does not publish/);
    const named = await provider.token({ header: { jku: evil.url, x5u: evil.url } });
    expect(await refusal(authenticate(named))).toBe('accepted');
    expect(evil.fetches()).toBe(0);
  });

  test('is refused if a character of it was changed', async () => {
    const token = await provider.token();
    const dots = [token.indexOf('.'), token.lastIndexOf('.')];
    for (const at of [5, dots[0]! + 9, dots[1]! + 9]) {
      const changed = token[at] === 'A' ? 'B' : 'A';
      const forged = `${token.slice(0, at)}${changed}${token.slice(at + 1)}`;
      expect(await refusal(authenticate(forged))).not.toBe('accepted');
    }
  });

  test('is nothing else: any text is refused, and never with another error', async () => {
    const parts = (await provider.token()).split('.');
    const part = fc.oneof(
      fc.constantFrom(...parts, ''),
      fc.base64String(),
      fc.json().map((text) => Buffer.from(text).toString('base64url')),
    );
    const token = fc
      .oneof(
        fc.array(part, { maxLength: 5 }).map((some) => some.join('.')),
        fc.string(),
      )
      .filter((text) => text !== parts.join('.'));
    await fc.assert(
      fc.asyncProperty(token, async (text) => {
        expect(await refusal(authenticate(text))).not.toBe('accepted');
      }),
      { numRuns: 300 },
    );
  });
});

describe('a JWT that was accepted', () => {
  test('is accepted again without a look at its signature, until it expires', async () => {
    await using provider = await startIdentityProvider();
    let now = new Date();
    const { authenticate } = trusting(provider.url, { now: () => now });
    await authenticate(await provider.token()); // fetches the keys
    const startedAt = seconds();
    const token = await provider.token({ claims: { exp: startedAt + 20 } });
    const first = await authenticate(token);
    expect(await authenticate(token)).toBe(first);
    now = new Date((startedAt + 21) * 1000);
    expect(await authenticate(token)).not.toBe(first); // within the tolerance, but checked again
    now = new Date((startedAt + 51) * 1000);
    expect(await refusal(authenticate(token))).toMatch(/expired/);
  });

  test('is checked again after a minute, and if the clock was set back', async () => {
    await using provider = await startIdentityProvider();
    const startedAt = Date.now();
    let now = new Date(startedAt);
    const { authenticate } = trusting(provider.url, { now: () => now });
    await authenticate(await provider.token({ claims: { sub: 'c-2' } }));
    const token = await provider.token();
    const first = await authenticate(token);
    now = new Date(startedAt + 59_000);
    expect(await authenticate(token)).toBe(first);
    now = new Date(startedAt + 61_000);
    const second = await authenticate(token);
    expect(second).not.toBe(first);
    now = new Date(startedAt + 50_000);
    expect(await authenticate(token)).not.toBe(second);
  });

  test('is one of a bounded number: the oldest makes room', async () => {
    await using provider = await startIdentityProvider();
    const { authenticate } = trusting(provider.url, { cachedMax: 2 });
    await authenticate(await provider.token()); // fetches the keys
    const [oldest, middle, newest] = await Promise.all(
      ['a', 'b', 'c'].map((sub) => provider.token({ claims: { sub } })),
    );
    const first = await authenticate(oldest!);
    const second = await authenticate(middle!);
    const third = await authenticate(newest!);
    expect(await authenticate(middle!)).toBe(second);
    expect(await authenticate(newest!)).toBe(third);
    expect(await authenticate(oldest!)).not.toBe(first);
  });

  test('is refused as soon as the provider no longer publishes its key', async () => {
    await using provider = await startIdentityProvider();
    const now = new Date();
    const limits = { refreshMs: 10 };
    const { authenticate, keys } = trusting(provider.url, { limits, now: () => now });
    await authenticate(await provider.token({ claims: { sub: 'c-2' } }));
    const token = await provider.token();
    expect(await authenticate(token)).toBe(await authenticate(token));
    await provider.rotate();
    keys.worker.start();
    await eventually(async () => /does not publish/.test(await refusal(authenticate(token))));
    await keys.worker.stop();
  });
});

describe('the keys of the provider', () => {
  test('are fetched once for any number of tokens', async () => {
    await using provider = await startIdentityProvider();
    const { authenticate } = trusting(provider.url);
    const tokens = await Promise.all(
      Array.from({ length: 50 }, (_, n) => provider.token({ claims: { sub: `c-${n}` } })),
    );
    await Promise.all(tokens.map((token) => authenticate(token)));
    expect(provider.fetches()).toBe(1);
  });

  test('are fetched once more when a new key is used, and not for each key that nobody has', async () => {
    await using provider = await startIdentityProvider();
    const { authenticate, keys } = trusting(provider.url, { limits: { cooldownMs: 0 } });
    await authenticate(await provider.token());
    await provider.rotate('ES256');
    const tokens = await Promise.all(
      Array.from({ length: 50 }, (_, n) => provider.token({ claims: { sub: `c-${n}` } })),
    );
    await Promise.all(tokens.map((token) => authenticate(token)));
    expect(provider.fetches()).toBe(2);
    expect(keys.generation()).toBe(2);

    const cooling = trusting(provider.url).authenticate;
    for (let n = 0; n < 200; n += 1) {
      const header = { kid: `garbage-${n}` };
      expect(await refusal(cooling(await provider.token({ header })))).toMatch(/not publish/);
    }
    expect(provider.fetches()).toBe(3);
  });

  test('that are away at first make a token wait, not fail', async () => {
    await using provider = await startIdentityProvider();
    const token = await provider.token();
    await provider.leave();
    const { authenticate } = trusting(provider.url, { limits: { retryMs: 0 } });
    const error = await authenticate(token).catch((error: unknown) => error);
    expect(error).toMatchObject(UNAVAILABLE);
    await provider.comeBack();
    expect(await refusal(authenticate(token))).toBe('accepted');
  });

  test('are not asked for again by each token while they cannot be fetched', async () => {
    await using provider = await startIdentityProvider();
    provider.respond((_, response) => void response.writeHead(500).end());
    const { authenticate } = trusting(provider.url, { limits: { retryMs: 42_000 } });
    for (let n = 0; n < 50; n += 1) {
      const token = await provider.token({ claims: { sub: `c-${n}` } });
      await expect(authenticate(token)).rejects.toMatchObject({
        ...UNAVAILABLE,
        details: { retryAfterSeconds: 42 },
      });
    }
    expect(provider.fetches()).toBe(1);
  });

  test('stay usable while the provider is away; a new key waits for it', async () => {
    await using provider = await startIdentityProvider();
    const limits = { refreshMs: 10, cooldownMs: 0, retryMs: 0 };
    const { authenticate, keys } = trusting(provider.url, { limits });
    await authenticate(await provider.token());
    keys.worker.start();
    await provider.leave();
    await eventually(() => keys.worker.lastError() !== undefined);
    const claims = { sub: 'c-2' };
    expect(await refusal(authenticate(await provider.token({ claims })))).toBe('accepted');
    await provider.rotate();
    const renewed = await provider.token();
    await expect(authenticate(renewed)).rejects.toMatchObject(UNAVAILABLE);
    await provider.comeBack();
    expect(await refusal(authenticate(renewed))).toBe('accepted');
    await keys.worker.stop();
  });

  test.each<[string, (provider: IdentityProvider) => void, RegExp]>([
    ['not there', (p) => p.respond((_, r) => void r.writeHead(404).end('{}')), /status 404/],
    ['elsewhere', redirect, /redirect/],
    ['no JSON', (p) => p.respond((_, r) => void r.end('<html>')), /not a JSON Web Key Set/],
    ['no set of keys', (p) => p.respond((_, r) => void r.end('{"keys":7}')), /not a JSON Web Key/],
    ['none', (p) => p.publish([]), /not a JSON Web Key Set with keys/],
    ['too large', (p) => p.publish([{ kty: 'RSA', n: 'x'.repeat(300_000) }]), /more than 262144/],
    ['endless', (p) => p.respond((_, r) => endless(r)), /more than 262144 bytes/],
    ['silent', (p) => p.respond(() => {}), /timeout/],
    ['cut off', (p) => p.respond((q) => void q.socket.destroy()), /closed|terminated/],
    ['slow', (p) => p.respond((_, r) => void r.write('{')), /timeout/],
  ])('that are %s count as not fetched', async (_, arrange, reason) => {
    await using provider = await startIdentityProvider();
    arrange(provider);
    const limits = { timeoutMs: 300, retryMs: 60_000 };
    const { authenticate, keys } = trusting(provider.url, { limits });
    keys.worker.start();
    const token = await provider.token();
    await expect(authenticate(token)).rejects.toMatchObject(UNAVAILABLE);
    await eventually(() => reason.test(keys.worker.lastError() ?? ''));
    await keys.worker.stop();
  });

  test('come over TLS only from a server with a certificate that is trusted', async () => {
    await using folder = await mkdtempDisposable(join(tmpdir(), 'jwks-'));
    const authority = await createAuthority(folder.path, 'unknown');
    await using provider = await startIdentityProvider(await authority.sign('id'));
    const { authenticate, keys } = trusting(provider.url);
    keys.worker.start();
    await expect(authenticate(await provider.token())).rejects.toMatchObject(UNAVAILABLE);
    await eventually(() => /certificate/.test(keys.worker.lastError() ?? ''));
    expect(provider.fetches()).toBe(0);
    await keys.worker.stop();
  });

  test('that cannot be used refuse the tokens that they signed', async () => {
    await using provider = await startIdentityProvider();
    const { kid } = provider.key();
    const { authenticate } = trusting(provider.url);
    const token = await provider.token();
    for (const n of ['AQAB', 'not base64url!', '']) {
      provider.publish([{ kty: 'RSA', n, e: 'AQAB', kid, alg: 'RS256' }]);
      const { authenticate } = trusting(provider.url);
      expect(await refusal(authenticate(token))).not.toBe('accepted');
    }
    provider.publish([{ ...provider.key().jwk, use: 'enc' }]);
    expect(await refusal(authenticate(token))).toMatch(/does not publish/);
  });

  test('must be named by the token if there are several', async () => {
    await using provider = await startIdentityProvider();
    const { authenticate } = trusting(provider.url);
    const unnamed = await provider.token({ header: { kid: undefined } });
    expect(await refusal(authenticate(unnamed))).toBe('accepted');
    const other = await createSigningKey('key-2');
    provider.publish([provider.key().jwk, other.jwk]);
    const several = trusting(provider.url);
    expect(await refusal(several.authenticate(unnamed))).toMatch(/does not say which key/);
    expect(await refusal(several.authenticate(await provider.token({ key: other })))).toBe(
      'accepted',
    );
  });
});

/** To an address that has the keys. */
function redirect({ respond, key }: IdentityProvider): void {
  respond(({ url }, response) => {
    if (url === '/elsewhere') response.end(JSON.stringify({ keys: [key().jwk] }));
    else response.writeHead(302, { location: '/elsewhere' }).end();
  });
}

function endless(response: NodeJS.WritableStream): void {
  const write = () => {
    while (response.writable && response.write('x'.repeat(16_384)));
  };
  response.on('drain', write);
  write();
}
