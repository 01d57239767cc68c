import { expect, test } from 'vitest';
import { createHealthCheck } from '#src/app-health.ts';
import { createDatabase } from '#src/database/database.ts';

const NOBODY_LISTENS = 'postgres://someone:secret@127.0.0.1:1,127.0.0.1:2/orders';
const backlog = { pendingRows: 0, oldestAgeSeconds: 0, parkedKeys: 0, oldestParkedAgeSeconds: 0 };

test('the reason why the service is not ready names no host, because everybody can read it', async () => {
  const database = createDatabase(NOBODY_LISTENS, { writersMax: 1, poolMax: 2 }, () => {});
  try {
    const relay = { status: () => ({ mode: 'off' as const, ...backlog }) };
    const check = createHealthCheck(database, relay, { isOff: () => false, offsetMs: () => 0 });
    expect(await check()).toMatchObject({
      ready: false,
      details: { reason: 'this database session cannot be used: no host takes writes' },
    });
    await expect(database.pool.query('select 1')).rejects.toThrow('127.0.0.1:1: connect');
  } finally {
    await database.close();
  }
});
