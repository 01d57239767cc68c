import type { Pool, PoolClient } from 'pg';

/** Losing a connection fails the query on it too, which is where it is handled. */
const alreadyKnown = () => {};

/**
 * Uses a connection that is nobody else's meanwhile. One that an error has spoilt is closed, never used
 * again: what is still on its way there would be read as the answer to somebody else.
 */
export async function withClient<Result>(
  pool: Pool,
  use: (client: PoolClient) => Promise<Result>,
  isSpoilt: (error: unknown) => boolean = () => true,
): Promise<Result> {
  const client = await pool.connect();
  client.on('error', alreadyKnown);
  let spoiltBy: unknown;
  try {
    return await use(client);
  } catch (error) {
    if (isSpoilt(error)) spoiltBy = error;
    throw error;
  } finally {
    client.off('error', alreadyKnown);
    client.release(spoiltBy === undefined ? undefined : asError(spoiltBy));
  }
}

function asError(error: unknown): Error {
  return error instanceof Error ? error : new Error(String(error));
}
