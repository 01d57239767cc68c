import { DatabaseError } from 'pg';
import { STALE_STATEMENTS } from '#src/database/stale-statements.ts';
import type { WriteFailure } from './event-store.ts';

/**
 * SQLSTATEs (whole, or a class of two) after which the transaction has surely been rolled back and the
 * cause is outside the batch: disk or memory full, a time-out, a server that does not take writes, a
 * statement that was prepared for an earlier schema.
 */
const OUTAGES = new Set(['25', '42', '53', '54', '57014', '58', 'F0', 'XX', ...STALE_STATEMENTS]);

/** After these the server may have committed before it went away: the connection is lost with them. */
const UNKNOWNS = new Set(['08', '57P01', '57P02', '57P03', '57P04', '57P05', '40003']);

/** Rolled back because of somebody else's lock: only one member of the batch need be concerned. */
const CONTENTIONS = new Set(['40', '55']);

/**
 * What an error says about the transaction that it ended. Without an SQLSTATE (a client-side time-out,
 * a lost connection) nothing is known: the commit may still land.
 */
export function writeFailureOf(error: unknown): WriteFailure {
  if (!(error instanceof DatabaseError) || !error.code) return 'unknown';
  if (isOneOf(UNKNOWNS, error.code)) return 'unknown';
  if (isOneOf(CONTENTIONS, error.code)) return 'contended';
  return isOneOf(OUTAGES, error.code) ? 'not_applied' : 'refused';
}

/**
 * Whether the connection must not be used again: it may be lost, have an answer on its way, be on a server
 * that takes no writes, or hold statements that are not valid any more. The next one may be better.
 */
export function spoilsConnection(error: unknown): boolean {
  const failure = writeFailureOf(error);
  return failure === 'unknown' || failure === 'not_applied';
}

function isOneOf(codes: ReadonlySet<string>, code: string): boolean {
  return codes.has(code) || codes.has(code.slice(0, 2));
}
