import type { Pool, PoolClient } from 'pg';

/** Losing a connection fails the query on it too, which is where it is handled. */
const alreadyKnown = () => {};

/**
 * Uses a connection that is nobody else's meanwhile. One on which anything failed is closed: what is
 * still on its way there would be read as the answer to somebody else.
 */
export async function withClient<Result>(
  pool: Pool,
  use: (client: PoolClient) => Promise<Result>,
): Promise<Result> {
  const client = await pool.connect();
  client.on('error', alreadyKnown);
  let hasFailed = true;
  try {
    const result = await use(client);
    hasFailed = false;
    return result;
  } finally {
    client.off('error', alreadyKnown);
    client.release(hasFailed);
  }
}
