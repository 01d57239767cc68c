import { hash, randomInt } from 'node:crypto';
import { crc32 } from 'node:zlib';

/*
 * An API key: `osk_`, an id of 12 characters, `_`, a secret of 30 and a checksum of 6. The id is public: events name
 * it as their actor. The secret has 178 random bits. The prefix lets scanners find keys that were published, and the
 * checksum refuses a misspelt key without a look-up.
 */
const PREFIX = 'osk_';
const ID_LENGTH = 12;
const SECRET_LENGTH = 30;
const CHECKSUM_LENGTH = 6;
const ALPHABET = '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz';
const FORMAT = new RegExp(
  `^(${PREFIX}([0-9A-Za-z]{${ID_LENGTH}})_[0-9A-Za-z]{${SECRET_LENGTH}})([0-9A-Za-z]{${CHECKSUM_LENGTH}})$`,
);

/** Of a key, what is stored. */
export type ApiKey = Readonly<{ id: string; hash: Uint8Array }>;

/** Whether a token is an API key, perhaps a misspelt one. */
export function isApiKey(token: string): boolean {
  return token.startsWith(PREFIX);
}

/** Makes a key. Its `text` is shown to its owner and stored nowhere. */
export function createApiKey(): ApiKey & Readonly<{ text: string }> {
  const unchecked = `${PREFIX}${randomText(ID_LENGTH)}_${randomText(SECRET_LENGTH)}`;
  const text = unchecked + checksumOf(unchecked);
  return { id: idOf(unchecked), hash: hashOf(text), text };
}

/** Undefined if the token is misspelt. */
export function parseApiKey(token: string): ApiKey | undefined {
  const [, unchecked = '', id = '', checksum = ''] = FORMAT.exec(token) ?? [];
  return id !== '' && checksum === checksumOf(unchecked) ? { id, hash: hashOf(token) } : undefined;
}

function idOf(unchecked: string): string {
  return unchecked.slice(PREFIX.length, PREFIX.length + ID_LENGTH);
}

/** By way of text, because a buffer that `hash` makes takes 1.2 us and this takes 0.5 us. */
function hashOf(text: string): Uint8Array {
  return Buffer.from(hash('sha256', text, 'base64url'), 'base64url');
}

function randomText(length: number): string {
  return Array.from({ length }, () => ALPHABET[randomInt(ALPHABET.length)]).join('');
}

function checksumOf(unchecked: string): string {
  let text = '';
  for (let left = crc32(unchecked); text.length < CHECKSUM_LENGTH;) {
    text = `${ALPHABET[left % ALPHABET.length]}${text}`;
    left = Math.floor(left / ALPHABET.length);
  }
  return text;
}
