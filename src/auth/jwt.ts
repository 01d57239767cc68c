import { hash } from 'node:crypto';
import { errors, jwtVerify } from 'jose';
import { z } from 'zod';
import { unauthenticated } from '#src/http/access.ts';
import { safeText } from '#src/http/fields.ts';
import { Problem } from '#src/http/problem.ts';
import type { KeySet } from './jwks.ts';
import type { Authenticator, Principal } from './principal.ts';

/** Only the identity provider has the private key. With HS256 every service that checks tokens could make them. */
const ALGORITHMS = 'RS256 RS384 RS512 PS256 PS384 PS512 ES256 ES384 ES512 EdDSA Ed25519'.split(' ');
/** How far the clock of the identity provider may differ. */
const CLOCK_TOLERANCE_S = 30;
/** Types of access tokens. Other tokens, such as logout tokens, are signed with the same keys. */
const TYPES: ReadonlySet<string> = new Set(['jwt', 'at+jwt']);
/** A token with this scope belongs to a service. Any other belongs to a customer. */
const ALL_ORDERS = 'orders:all';
const ISSUER_HASH_LENGTH = 12;
const subject = safeText(1, 255);
const customerId = safeText(1, 64);
const scopes = z.object({
  scope: z.string().optional(),
  scp: z.union([z.string(), z.array(z.string())]).optional(),
});

const CACHED_MAX = 10_000;
const CACHED_MS_MAX = 60_000;

export type JwtOptions = Readonly<{
  keys: KeySet;
  issuer: string;
  audience: string;
  /** The claim that names the customer. */
  customerClaim: string;
  /** However late a token expires, it is refused when it is older. */
  ageSecondsMax: number;
  /** How many checked tokens are kept. */
  cachedMax?: number;
  now?: () => Date;
}>;

/** Makes the function that finds out who sent a JWT. */
export function createJwtAuthenticator(options: JwtOptions): Authenticator {
  const { keys, cachedMax = CACHED_MAX, now = () => new Date(), ...trust } = options;
  const principalOf = createPrincipalReader(trust);
  const cached = createCache(keys, cachedMax);
  return async (token) => {
    const nowMs = now().getTime();
    const tokenHash = hash('sha256', token, 'base64url');
    const known = cached.get(tokenHash, nowMs);
    if (known) return known;
    const generation = keys.generation();
    try {
      const { payload, protectedHeader } = await jwtVerify(token, keys.find, {
        algorithms: ALGORITHMS,
        issuer: trust.issuer,
        audience: trust.audience,
        requiredClaims: ['exp', 'sub'],
        clockTolerance: CLOCK_TOLERANCE_S,
        maxTokenAge: trust.ageSecondsMax,
        currentDate: new Date(nowMs),
      });
      requireAccessToken(protectedHeader.typ);
      const principal = principalOf(payload);
      cached.add(tokenHash, principal, {
        fromMs: nowMs,
        expiresAtMs: (payload.exp ?? 0) * 1_000,
        generation,
      });
      return principal;
    } catch (error) {
      throw error instanceof Problem ? error : tokenInvalid(faultOf(error));
    }
  };
}

function tokenInvalid(detail: string): Problem {
  return unauthenticated(detail, 'invalid_token');
}

function requireAccessToken(type: string | undefined): void {
  if (type === undefined) return;
  if (!TYPES.has(type.toLowerCase().replace(/^application\//, ''))) {
    throw tokenInvalid('The token is not an access token: its typ is neither JWT nor at+jwt.');
  }
}

/** The issuer is part of the id, because another one may give the same subject to somebody else. */
function createPrincipalReader({
  issuer,
  customerClaim,
}: Pick<JwtOptions, 'issuer' | 'customerClaim'>) {
  const issuerHash = hash('sha256', issuer, 'hex').slice(0, ISSUER_HASH_LENGTH);
  return (payload: Readonly<Record<string, unknown>>): Principal => {
    const id = `jwt:${issuerHash}|${claim(payload, 'sub', subject)}`;
    const granted = scopesOf(payload);
    if (granted.has(ALL_ORDERS)) return { id, scopes: granted };
    return { id, scopes: granted, customerId: claim(payload, customerClaim, customerId) };
  };
}

function claim(
  payload: Readonly<Record<string, unknown>>,
  name: string,
  schema: z.ZodType<string>,
): string {
  const value = schema.safeParse(payload[name]);
  if (value.success) return value.data;
  throw tokenInvalid(`The token has no claim ${name} that this service can use.`);
}

/** OAuth 2.0 says `scope`, with spaces between. Some identity providers say `scp`, often as a list. */
function scopesOf(payload: Readonly<Record<string, unknown>>): ReadonlySet<string> {
  const result = scopes.safeParse(payload);
  if (!result.success) throw tokenInvalid('The scopes of the token cannot be read.');
  const { scope, scp } = result.data;
  const given = scope ?? scp ?? [];
  const list = typeof given === 'string' ? given.split(' ') : given;
  return new Set(list.filter((name) => name !== ''));
}

const CLAIM_FAULTS: Readonly<Record<string, string>> = {
  exp: 'The token has expired.',
  nbf: 'The token is not valid yet.',
  iat: 'The token is too old, or was issued in the future.',
  aud: 'The token is meant for another service.',
  iss: 'The token is from another issuer.',
};

/** Why a token was refused. Claims are looked at after the signature, so only its owner learns of them. */
function faultOf(error: unknown): string {
  if (error instanceof errors.JWTExpired || error instanceof errors.JWTClaimValidationFailed) {
    const { claim, reason } = error;
    if (reason !== 'check_failed')
      return `The claim ${claim} of the token is missing or not valid.`;
    return CLAIM_FAULTS[claim] ?? `The claim ${claim} of the token is not valid.`;
  }
  if (error instanceof errors.JOSEAlgNotAllowed) {
    return 'The token is signed with an algorithm that this service does not accept.';
  }
  if (error instanceof errors.JWSSignatureVerificationFailed) {
    return 'The signature of the token is not valid.';
  }
  if (error instanceof errors.JWKSNoMatchingKey) {
    return 'The token is signed with a key that the identity provider does not publish.';
  }
  if (error instanceof errors.JWKSMultipleMatchingKeys) {
    return 'The token does not say which key of the identity provider signed it (kid).';
  }
  // A key that is too short, for one.
  if (!(error instanceof errors.JOSEError)) return 'The key of the token cannot be used.';
  return 'The token is not a valid JWT.';
}

type Verified = Readonly<{
  principal: Principal;
  fromMs: number;
  untilMs: number;
  generation: number;
}>;

/**
 * Tokens that were checked within the last minute. Checking a signature takes 50 to 140 us of the processor, a
 * look-up 0.7 us. When the identity provider changes its keys, nothing in here counts any longer.
 */
function createCache({ generation }: Pick<KeySet, 'generation'>, cachedMax: number) {
  const entries = new Map<string, Verified>();
  return {
    get: (tokenHash: string, nowMs: number): Principal | undefined => {
      const entry = entries.get(tokenHash);
      if (!entry) return undefined;
      const isInTime = entry.fromMs <= nowMs && nowMs < entry.untilMs;
      if (isInTime && entry.generation === generation()) return entry.principal;
      entries.delete(tokenHash);
      return undefined;
    },
    add: (
      tokenHash: string,
      principal: Principal,
      checked: Readonly<{ fromMs: number; expiresAtMs: number; generation: number }>,
    ): void => {
      const { fromMs, expiresAtMs } = checked;
      const untilMs = Math.min(fromMs + CACHED_MS_MAX, expiresAtMs);
      const [oldest] = entries.keys();
      if (entries.size >= cachedMax && oldest !== undefined) entries.delete(oldest);
      entries.set(tokenHash, { principal, fromMs, untilMs, generation: checked.generation });
    },
  };
}
