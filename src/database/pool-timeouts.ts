import type { Pool, PoolClient } from 'pg';

/** How pg says that nobody gave a connection back in time, and that a new one took too long. */
const TIMEOUT = /^timeout exceeded when trying to connect$|due to connection timeout$/;

/**
 * Tells `hear` of every caller that got no connection in time. pg announces this nowhere, and each of
 * its ways to a connection goes through `connect`.
 */
export function watchPoolTimeouts(pool: Pool, hear: () => void): void {
  const connect = pool.connect.bind(pool);
  type Callback = Parameters<typeof connect>[0];

  function watched(): Promise<PoolClient>;
  function watched(callback: Callback): void;
  function watched(callback?: Callback): Promise<PoolClient> | undefined {
    if (callback === undefined) return promised();
    connect((error, client, release) => {
      if (error !== undefined && TIMEOUT.test(error.message)) hear();
      callback(error, client, release);
    });
    return undefined;
  }

  const promised = () =>
    new Promise<PoolClient>((resolve, reject) => {
      watched((error, client) => {
        if (client === undefined) reject(error);
        else resolve(client);
      });
    });

  pool.connect = watched;
}
