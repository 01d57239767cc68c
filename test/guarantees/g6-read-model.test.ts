import { describe, expect, test } from 'vitest';
import { checkHistory } from '#test/support/checker.ts';
import { createTestDatabase } from '#test/support/database.ts';
import { skipReason } from '#test/support/infra.ts';
import { startLoad } from '#test/support/load.ts';
import { createRandom } from '#test/support/random.ts';
import { startService } from '#test/support/service.ts';
import { readStored, verifyStored } from '#test/support/verify-database.ts';

/*
 * G6: orders_summary equals the fold of the events, always. The fold is the tests' own; every other guarantee
 * test ends with the same comparison. Rebuilds have tests of their own.
 */
const LOOKS = 8;
const ACKS_BETWEEN = 40;

describe.skipIf(skipReason('postgres'))('orders_summary', () => {
  test('equals the fold of the events at every moment of a load on two replicas', async () => {
    await using database = await createTestDatabase();
    const options = { databaseUrl: database.url };
    await using one = await startService(options);
    await using other = await startService(options);
    const random = createRandom();
    using load = startLoad([one.api, other.api], { clients: 12, random });
    for (let look = 0; look < LOOKS; look += 1) {
      await load.acknowledged(1 + random.below(ACKS_BETWEEN));
      const stored = await readStored(database.url);
      expect(stored.events.length).toBeGreaterThan(0);
      expect(verifyStored(stored, { relay: 'off' })).toEqual([]);
      if (look === LOOKS / 2) {
        await other.kill();
        await other.restart();
      }
    }
    await load.stop();
    const { calls } = load.recorder;
    expect(await checkHistory(calls, database.url, { relay: 'off' })).toEqual([]);
  });
});
