import { SessionRefused } from './database/session.ts';
import { isOutage } from './database/database-errors.ts';

/** What an operator can do nothing about but report: there the stack tells more than the message. */
const FAULTS = [TypeError, ReferenceError, RangeError, SyntaxError];

/** Whether the code is to blame, not the settings or the servers. */
export function isFault(error: unknown): boolean {
  return !(error instanceof Error) || FAULTS.some((fault) => error instanceof fault);
}

/** Why something failed, in a line for whoever runs the service. */
export function reasonOf(error: unknown): string {
  const message = messageOf(error);
  if (error instanceof SessionRefused) return message;
  const code = codeOf(error);
  if (code === '28P01' || code === '28000' || code === '3D000') {
    return `Postgres refuses DATABASE_URL: ${message}`;
  }
  return isOutage(error) ? `Postgres does not answer at DATABASE_URL: ${message}` : message;
}

/** Node tries every address of a name, and says what became of each in an error without a message. */
function messageOf(error: unknown): string {
  if (error instanceof AggregateError && error.message === '') {
    return error.errors.map(messageOf).join('; ');
  }
  return error instanceof Error ? error.message : String(error);
}

function codeOf(error: unknown): unknown {
  return error instanceof Error && 'code' in error ? error.code : undefined;
}
