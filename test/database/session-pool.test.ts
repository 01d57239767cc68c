import { once } from 'node:events';
import { createServer } from 'node:net';
import { Pool } from 'pg';
import { describe, expect, test } from 'vitest';
import { z } from 'zod';
import { watchPoolTimeouts } from '#src/database/session-pool.ts';
import { createTestDatabase } from '#test/support/database.ts';
import { skipReason } from '#test/support/infra.ts';

const SHORT_MS = 100;
const LONG_MS = 60_000;

/** A pool of one connection. */
function watchedPool(connectionString: string, connectionTimeoutMillis: number) {
  const pool = new Pool({ connectionString, max: 1, connectionTimeoutMillis });
  let timeouts = 0;
  watchPoolTimeouts(pool, () => {
    timeouts += 1;
  });
  return { pool, timeouts: () => timeouts, [Symbol.asyncDispose]: () => pool.end() };
}

describe('the timeouts of a pool', () => {
  test.skipIf(skipReason('postgres'))(
    'are reported for each caller that waited in vain',
    async () => {
      await using database = await createTestDatabase();
      await using watched = watchedPool(database.url, LONG_MS);
      const { pool, timeouts } = watched;
      const holder = await pool.connect();
      pool.options.connectionTimeoutMillis = SHORT_MS;
      await expect(pool.query('select 1')).rejects.toThrow('timeout exceeded');
      expect(timeouts()).toBe(1);
      await expect(pool.connect()).rejects.toThrow('timeout exceeded');
      expect(timeouts()).toBe(2);
      pool.options.connectionTimeoutMillis = LONG_MS;
      holder.release();
      expect((await pool.query('select 1 as one')).rows).toEqual([{ one: 1 }]);
      await expect(pool.query('select nothing')).rejects.toThrow('nothing');
      expect(timeouts()).toBe(2);
    },
  );

  test('are reported if a server accepts the connection and never responds', async () => {
    const server = createServer(() => {}).listen(0, '127.0.0.1');
    await once(server, 'listening');
    const { port } = z.object({ port: z.number() }).parse(server.address());
    await using watched = watchedPool(`postgres://u:p@127.0.0.1:${port}/d`, SHORT_MS);
    await expect(watched.pool.query('select 1')).rejects.toThrow('connection timeout');
    expect(watched.timeouts()).toBe(1);
    server.close();
  });

  test('are not reported if the connection is refused', async () => {
    await using watched = watchedPool('postgres://u:p@127.0.0.1:1/d', LONG_MS);
    await expect(watched.pool.connect()).rejects.toThrow('ECONNREFUSED');
    expect(watched.timeouts()).toBe(0);
  });
});
