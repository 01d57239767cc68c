import type { Authenticate } from '#src/http/access.ts';
import { unauthenticated } from '#src/http/access.ts';
import type { Authenticator } from './principal.ts';

/** `Bearer`, then a token in the characters of RFC 6750. */
const BEARER = /^Bearer +([A-Za-z0-9._~+/-]+=*)$/i;

/** One kind of token, and how it is recognised. */
export type TokenKind = Readonly<{
  isMine: (token: string) => boolean;
  authenticate: Authenticator;
}>;

/** Makes the function that finds out who sent a request. The first kind that recognises the token checks it. */
export function createAuthenticate(kinds: readonly TokenKind[]): Authenticate {
  return async ({ authorization }) => {
    if (authorization === undefined) {
      throw unauthenticated('Send the header Authorization: Bearer, with an API key or a token.');
    }
    const token = BEARER.exec(authorization)?.[1];
    if (token === undefined) {
      throw unauthenticated('The header Authorization must be: Bearer, a space, and one token.');
    }
    const kind = kinds.find(({ isMine }) => isMine(token));
    if (kind === undefined) {
      throw unauthenticated('This service does not accept this kind of token.', 'invalid_token');
    }
    return kind.authenticate(token);
  };
}
