import { DatabaseError } from 'pg';
import type { Pool } from 'pg';
import { SessionRefused } from './session.ts';

/*
 * What the SQLSTATEs say. Each list has whole codes and classes, which are the first two characters of a code.
 */

/** The server is unavailable, overloaded or locked. The statement itself is not at fault. */
const OUTAGE = new Set(['08', '25', '40', '53', '55', '57', '58']);

/**
 * The statement was prepared on this connection under an earlier schema: the type of a column has changed, or the
 * statement does not exist any more, or exists already. Nothing was executed.
 */
const STALE_STATEMENT = new Set(['0A000', '26000', '42P05']);

/** The connection is lost, and the server may have committed before that. */
const UNKNOWN_OUTCOME = new Set(['08', '57P01', '57P02', '57P03', '57P04', '57P05', '40003']);

/** Rolled back because of a lock of another transaction. */
const CONTENTION = new Set(['40', '55']);

/**
 * Rolled back for a reason outside the statement's data: disk or memory is full, the statement took too long, the
 * server takes no writes, or the schema does not fit.
 */
const NOT_APPLIED = new Set(['25', '42', '53', '54', '57014', '58', 'F0', 'XX']).union(
  STALE_STATEMENT,
);

/** lock_not_available, deadlock_detected. */
const LOCK_FAILURE = new Set(['55P03', '40P01']);

/** A wrong user, password or database. */
const LOGIN_FAILURE = new Set(['28P01', '28000', '3D000']);

/** The messages of pg, which have no code, for a connection that was lost or not had in time. */
const LOST_CONNECTION =
  /connection terminated|timeout (exceeded|expired)|read timeout|not queryable/i;

/** The codes of Node and OpenSSL for a certificate that is not trusted, and what they mean here. */
const UNTRUSTED = 'the certificate of the server is not signed by an authority in sslrootcert';
const TLS_FAILURES: Readonly<Record<string, string>> = {
  DEPTH_ZERO_SELF_SIGNED_CERT: UNTRUSTED,
  SELF_SIGNED_CERT_IN_CHAIN: UNTRUSTED,
  UNABLE_TO_GET_ISSUER_CERT: UNTRUSTED,
  UNABLE_TO_GET_ISSUER_CERT_LOCALLY: UNTRUSTED,
  UNABLE_TO_VERIFY_LEAF_SIGNATURE: UNTRUSTED,
  CERT_HAS_EXPIRED: 'the certificate of the server has expired',
  CERT_NOT_YET_VALID: 'the certificate of the server is not valid yet',
  ERR_TLS_CERT_ALTNAME_INVALID: 'the certificate of the server is for another host name',
};
/** The message of pg, which has no code, if the server offers no TLS. */
const NO_TLS = 'The server does not support SSL connections';

/** Why TLS failed; undefined if it did not. */
export function explainTlsFailure(error: unknown): string | undefined {
  if (!(error instanceof Error)) return undefined;
  if (error.message === NO_TLS) return 'the server offers none, and sslmode requires it';
  const code = 'code' in error ? String(error.code) : '';
  const known = TLS_FAILURES[code];
  if (known !== undefined) return `${known} (${error.message})`;
  return code.startsWith('ERR_SSL_') ? error.message : undefined;
}

/** Whether Postgres is unavailable or too slow, so that a later attempt may succeed. */
export function isOutage(error: unknown): boolean {
  if (error instanceof SessionRefused) return true;
  if (error instanceof DatabaseError) return isOneOf(OUTAGE, error);
  if (!(error instanceof Error)) return false;
  if (explainTlsFailure(error) !== undefined) return true;
  return isSystemError(error) || LOST_CONNECTION.test(error.message);
}

/** Whether an outage may end although nobody changes a setting. */
export function isTemporaryOutage(error: unknown): boolean {
  if (error instanceof SessionRefused) return error.isTemporary;
  return isOutage(error) && explainTlsFailure(error) === undefined;
}

/** Whether Postgres refuses the user, the password or the database of a connection. */
export function isLoginFailure(error: unknown): boolean {
  return error instanceof DatabaseError && isOneOf(LOGIN_FAILURE, error);
}

/**
 * What is known of a write that failed.
 * not_applied: nothing was written; a later attempt may succeed.
 * contended: nothing was written, because another transaction held a lock.
 * refused: nothing was written, because of the data.
 * unknown: it may have been written.
 */
export type WriteFailure = 'not_applied' | 'contended' | 'refused' | 'unknown';

/** Without an SQLSTATE (a client's timeout, a lost connection) the outcome is unknown. */
export function writeFailureOf(error: unknown): WriteFailure {
  if (!(error instanceof DatabaseError) || !error.code) return 'unknown';
  if (isOneOf(UNKNOWN_OUTCOME, error)) return 'unknown';
  if (isOneOf(CONTENTION, error)) return 'contended';
  return isOneOf(NOT_APPLIED, error) ? 'not_applied' : 'refused';
}

/**
 * Whether the connection must be closed after this error: it may be lost, a response may still be on its way, its
 * server may take no writes, or its prepared statements may be stale.
 */
export function spoilsConnection(error: unknown): boolean {
  const failure = writeFailureOf(error);
  return failure === 'unknown' || failure === 'not_applied';
}

/** Whether a statement did not get a lock, and was rolled back. */
export function isLockFailure(error: unknown): error is DatabaseError {
  return error instanceof DatabaseError && isOneOf(LOCK_FAILURE, error);
}

/**
 * Runs `attempt` again while it meets stale statements, which each connection of the pool may have. A new
 * connection has none. `attempt` must close the connection on which it met one.
 */
export async function withFreshStatements<Result>(
  pool: Pool,
  attempt: () => Promise<Result>,
): Promise<Result> {
  for (let staleMax = pool.options.max; ; staleMax -= 1) {
    try {
      return await attempt();
    } catch (error) {
      const isStale = error instanceof DatabaseError && isOneOf(STALE_STATEMENT, error);
      if (!isStale || staleMax === 0) throw error;
    }
  }
}

function isOneOf(codes: ReadonlySet<string>, { code = '' }: DatabaseError): boolean {
  return codes.has(code) || codes.has(code.slice(0, 2));
}

/** ECONNREFUSED, EAI_AGAIN and so on. ERR_ codes are different: they blame the caller of a Node function. */
function isSystemError(error: Error): boolean {
  return 'code' in error && typeof error.code === 'string' && /^E(?!RR_)[A-Z_]+$/.test(error.code);
}
