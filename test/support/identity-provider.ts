import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { RequestListener } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import { createHmac } from 'node:crypto';
import { exportJWK, exportSPKI, generateKeyPair, importJWK, SignJWT } from 'jose';
import type { CryptoKey, JWK, JWTPayload } from 'jose';
import type { Certificate } from './certificates.ts';

export const ISSUER = 'https://id.example/';
export const AUDIENCE = 'orders';

/** A header that a token may call critical: whoever does not know it must refuse the token. */
export const CRITICAL = 'https://id.example/critical';

/** A key pair of an identity provider. */
export type SigningKey = Readonly<{ kid: string; alg: string; jwk: JWK; privateKey: CryptoKey }>;

/** What to change in a token that would be accepted. `undefined` leaves a claim or a header out. */
export type TokenOptions = Readonly<{
  claims?: Readonly<Record<string, unknown>>;
  header?: Readonly<Record<string, unknown>>;
  /** The present key of the provider if unset. */
  key?: SigningKey;
}>;

/** A server that publishes keys, and signs tokens with them. */
export type IdentityProvider = AsyncDisposable &
  Readonly<{
    /** Of the key set. */
    url: string;
    /** The settings with which the service trusts it. */
    env: Readonly<Record<string, string>>;
    /** How often the key set was asked for. */
    fetches(): number;
    /** A token of the customer c-1 that is valid for five minutes, with the changes. */
    token(options?: TokenOptions): Promise<string>;
    /** The present key. */
    key(): SigningKey;
    /** Publishes a new key instead of the present one, and signs with it. */
    rotate(alg?: string): Promise<SigningKey>;
    /** Publishes these keys. */
    publish(keys: readonly JWK[]): void;
    /** Handles every request from now on. Unset: it works as usual. */
    respond(listener: RequestListener | undefined): void;
    /** Closes the port, and every connection. */
    leave(): Promise<void>;
    /** Opens the same port again. */
    comeBack(): Promise<void>;
  }>;

/** Starts it on a free port; with a certificate, it speaks TLS. */
export async function startIdentityProvider(certificate?: Certificate): Promise<IdentityProvider> {
  let key = await createSigningKey('key-1');
  let published: readonly JWK[] = [key.jwk];
  let fetches = 0;
  let keyCount = 1;
  let listener: RequestListener | undefined;
  const handle: RequestListener = (request, response) => {
    fetches += 1;
    if (listener) {
      listener(request, response);
      return;
    }
    response.setHeader('content-type', 'application/jwk-set+json');
    response.end(JSON.stringify({ keys: published }));
  };
  const server = certificate
    ? createTlsServer(await readCertificate(certificate), handle)
    : createServer(handle);
  const listen = async (port: number) => {
    server.listen(port, '127.0.0.1');
    await once(server, 'listening');
  };
  await listen(0);
  const address = server.address();
  const port = typeof address === 'object' && address ? address.port : 0;
  const leave = async () => {
    if (!server.listening) return;
    server.close();
    server.closeAllConnections();
    await once(server, 'close');
  };
  const url = `http${certificate ? 's' : ''}://127.0.0.1:${port}/jwks`;
  return {
    url,
    env: { AUTH: 'on', JWT_JWKS_URL: url, JWT_ISSUER: ISSUER, JWT_AUDIENCE: AUDIENCE },
    fetches: () => fetches,
    token: (options = {}) => signToken(options.key ?? key, options),
    key: () => key,
    rotate: async (alg) => {
      keyCount += 1;
      key = await createSigningKey(`key-${keyCount}`, alg);
      published = [key.jwk];
      return key;
    },
    publish: (keys) => {
      published = keys;
    },
    respond: (to) => {
      listener = to;
    },
    leave,
    comeBack: () => listen(port),
    [Symbol.asyncDispose]: leave,
  };
}

async function readCertificate({ certFile, keyFile }: Certificate) {
  return { cert: await readFile(certFile), key: await readFile(keyFile) };
}

/** Makes a key pair that nobody publishes yet. */
export async function createSigningKey(kid: string, alg = 'RS256'): Promise<SigningKey> {
  const { publicKey, privateKey } = await generateKeyPair(alg);
  return { kid, alg, jwk: { ...(await exportJWK(publicKey)), kid, alg, use: 'sig' }, privateKey };
}

function claimsOf({ claims }: TokenOptions): JWTPayload {
  const now = Math.floor(Date.now() / 1000);
  const scope = 'orders:read orders:write';
  const usual = { iss: ISSUER, aud: AUDIENCE, sub: 'c-1', iat: now, exp: now + 300, scope };
  return { ...usual, ...claims };
}

function signToken({ kid, alg, privateKey }: SigningKey, options: TokenOptions): Promise<string> {
  const header = { alg, kid, typ: 'at+jwt', ...options.header };
  const jwt = new SignJWT(claimsOf(options)).setProtectedHeader(header);
  return jwt.sign(privateKey, { crit: { [CRITICAL]: true } });
}

/** A token with `alg: none` and no signature. */
export function unsignedToken(options: TokenOptions = {}): string {
  return `${encode({ alg: 'none', typ: 'at+jwt', ...options.header })}.${encode(claimsOf(options))}.`;
}

/** A token signed with HS256. The secret is the public key, which everybody can read. */
export async function publicKeyAsSecretToken(
  { kid, jwk, alg }: SigningKey,
  options: TokenOptions = {},
): Promise<string> {
  const publicKey = await importJWK(jwk, alg, { extractable: true });
  if (publicKey instanceof Uint8Array) throw new Error('the key is not a public one');
  const head = encode({ alg: 'HS256', kid, typ: 'at+jwt', ...options.header });
  const text = `${head}.${encode(claimsOf(options))}`;
  const secret = await exportSPKI(publicKey);
  return `${text}.${createHmac('sha256', secret).update(text).digest('base64url')}`;
}

function encode(value: unknown): string {
  return Buffer.from(JSON.stringify(value)).toString('base64url');
}
