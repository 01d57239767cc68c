import type { Pool, PoolClient } from 'pg';

/** What hears of a connection, or of the error instead of one. */
export type ConnectCallback = Parameters<Pool['connect']>[0];
export type Connect = (callback: ConnectCallback) => void;

/**
 * Puts `wrap` around every way to a connection of the pool: each of them goes through `connect`, that of
 * `pool.query` too.
 */
export function wrapConnect(pool: Pool, wrap: (connect: Connect) => Connect): void {
  const original = pool.connect.bind(pool);
  const wrapped = wrap((callback) => {
    original(callback);
  });

  function connect(): Promise<PoolClient>;
  function connect(callback: ConnectCallback): void;
  function connect(callback?: ConnectCallback): Promise<PoolClient> | undefined {
    if (callback === undefined) return promised();
    wrapped(callback);
    return undefined;
  }

  const promised = () =>
    new Promise<PoolClient>((resolve, reject) => {
      wrapped((error, client) => {
        if (client === undefined) reject(error);
        else resolve(client);
      });
    });

  pool.connect = connect;
}
