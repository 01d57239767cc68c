import { randomBytes } from 'node:crypto';

const HEX_DIGITS = 32;
const BITS = BigInt(HEX_DIGITS * 4);

/** A random UUID from `first` to `last`, both included. */
export function uuidBetween(first: string, last: string): string {
  const [from, to] = [numberOf(first), numberOf(last)];
  const random = BigInt(`0x${randomBytes(HEX_DIGITS / 2).toString('hex')}`);
  const drawn = from + (((to - from + 1n) * random) >> BITS);
  const hex = drawn.toString(16).padStart(HEX_DIGITS, '0');
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})/, '$1-$2-$3-$4-');
}

function numberOf(uuid: string): bigint {
  return BigInt(`0x${uuid.replaceAll('-', '')}`);
}
