import { DatabaseError } from 'pg';
import { SessionRefused } from './check-session.ts';

/** SQLSTATE classes that speak of the server, not of the statement: connection, resources, shutdown. */
const OUTAGE_CLASSES = new Set(['08', '25', '40', '53', '55', '57', '58']);
/** What pg says, without a code, of a connection that it lost or could not get in time. */
const LOST_CONNECTION =
  /connection terminated|timeout (exceeded|expired)|read timeout|not queryable/i;

/**
 * Whether an error of a read means that Postgres is away, too slow, or not to be used as it is, so that
 * trying again may help.
 */
export function isOutage(error: unknown): boolean {
  if (error instanceof SessionRefused) return true;
  if (error instanceof DatabaseError) return OUTAGE_CLASSES.has(error.code?.slice(0, 2) ?? '');
  if (!(error instanceof Error)) return false;
  return isSystemError(error) || LOST_CONNECTION.test(error.message);
}

/** Whether an outage may end by itself: a session with wrong settings stays wrong until somebody mends it. */
export function mayPass(error: unknown): boolean {
  return error instanceof SessionRefused ? error.isTemporary : isOutage(error);
}

/** ECONNREFUSED, EAI_AGAIN and the like; not the ERR_ codes, by which Node blames who called it. */
function isSystemError(error: Error): boolean {
  return 'code' in error && typeof error.code === 'string' && /^E(?!RR_)[A-Z_]+$/.test(error.code);
}
