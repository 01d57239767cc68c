import type { Pool } from 'pg';
import { wrapConnect } from './wrap-connect.ts';

/** How pg says that nobody gave a connection back in time, and that a new one took too long. */
const TIMEOUT = /^timeout exceeded when trying to connect$|due to connection timeout$/;

/** Tells `hear` of every caller that got no connection in time. pg announces this nowhere. */
export function watchPoolTimeouts(pool: Pool, hear: () => void): void {
  wrapConnect(pool, (connect) => (callback) => {
    connect((error, client, release) => {
      if (error !== undefined && TIMEOUT.test(error.message)) hear();
      callback(error, client, release);
    });
  });
}
