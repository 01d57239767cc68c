import { DatabaseError } from 'pg';
import type { Pool } from 'pg';

/**
 * A statement that was prepared on this connection is not what it was: a column got another type ("cached
 * plan must not change result type"), or it is not there any more, or twice. Nothing was run.
 */
export const STALE_STATEMENTS = ['0A000', '26000', '42P05'];

/** Whether a new connection would do what this one could not. */
export function isStaleStatement(error: unknown): boolean {
  return error instanceof DatabaseError && STALE_STATEMENTS.includes(error.code ?? '');
}

/**
 * Runs `ask` again as long as it meets statements of an earlier schema, which each connection of the pool
 * may hold. `ask` must not use the connection again on which it met one; a new connection holds none.
 */
export async function withFreshStatements<Result>(
  pool: Pool,
  ask: () => Promise<Result>,
): Promise<Result> {
  for (let staleMax = pool.options.max; ; staleMax -= 1) {
    try {
      return await ask();
    } catch (error) {
      if (!isStaleStatement(error) || staleMax === 0) throw error;
    }
  }
}
