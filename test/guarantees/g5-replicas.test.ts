import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { createTestDatabase } from '#test/support/database.ts';
import { startFaultyKafka } from '#test/support/faulty-servers.ts';
import { skipReason } from '#test/support/infra.ts';
import { readTopic } from '#test/support/kafka.ts';
import { eventually } from '#test/support/poll.ts';
import { faultsOf, isComplete } from '../outbox/delivery.ts';
import {
  createTestRelay,
  hurried,
  insertEvents,
  testPublishers,
} from '../outbox/outbox-fixture.ts';
import { writeInRace } from '../outbox/racing-writers.ts';

/** Servers are restarted and processes killed, on machines that may be busy. */
const slow = { timeout: 600_000 };

describe.skipIf(skipReason('kafka') ?? skipReason('postgres'))(
  'G5 with several replicas',
  slow,
  () => {
    let kafka: Awaited<ReturnType<typeof startFaultyKafka>>;

    beforeAll(async () => {
      kafka = await startFaultyKafka();
    });
    afterAll(() => kafka[Symbol.asyncDispose]());

    /** Writes in a race while `disturb` runs. Resolves to what is wrong with the topic afterwards. */
    async function relayUnderFire(
      replicas: number,
      disturb: (
        relays: ReturnType<typeof createTestRelay>[],
        writeOneMore: () => Promise<void>,
      ) => Promise<void>,
    ): Promise<string[]> {
      await using db = await createTestDatabase();
      await using stack = new AsyncDisposableStack();
      const topic = `test-${randomUUID()}`;
      // The replicas use the Kafka libraries in turns.
      const libraries = await testPublishers();
      const relays = Array.from({ length: replicas }, (_, index) => {
        const publisher = libraries[index % libraries.length]?.testPublisher(kafka.brokers, 3);
        return stack.use(createTestRelay({ url: db.url, topic, publisher, settings: hurried }));
      });
      for (const relay of relays) relay.start();
      const wakeAll = () => {
        for (const { relay } of relays) relay.wake();
      };
      const race = {
        url: db.url,
        topic,
        writers: 4,
        keysEach: 10,
        versions: 40,
        onCommit: wakeAll,
      };
      const writing = writeInRace(race);
      const key = randomUUID();
      let versions = 0;
      // The writers may have finished before the fault happens.
      const writeOneMore = async () => {
        versions += 1;
        await insertEvents(db, topic, [{ key, version: versions }]);
        wakeAll();
      };
      await eventually(() => relays.some(({ counts }) => counts.published > 0));
      await disturb(relays, writeOneMore);
      const expected = new Map([...(await writing), [key, versions]]);
      const messages = await readTopic(topic, {
        brokers: kafka.brokers,
        until: (all) => isComplete(all, expected),
      });
      await eventually(async () => (await db.query('select from outbox_events')).length === 0);
      return faultsOf(messages, expected);
    }

    test.each([2, 3])(
      'a stopped broker loses no event and keeps the order: %i replicas',
      async (n) => {
        const faults = await relayUnderFire(n, async (relays, writeOneMore) => {
          await kafka.stop();
          await writeOneMore();
          await eventually(() => relays.some(({ counts }) => counts.unknown > 0));
          await kafka.start();
        });
        expect(faults).toEqual([]);
      },
    );

    test('a killed broker loses no event and keeps the order', async () => {
      const faults = await relayUnderFire(2, async (_, writeOneMore) => {
        await kafka.kill();
        await writeOneMore();
        await kafka.start();
      });
      expect(faults).toEqual([]);
    });

    test('a frozen broker leaves batches unknown, loses no event and keeps the order', async () => {
      const faults = await relayUnderFire(2, async (relays, writeOneMore) => {
        for (let round = 0; round < 2; round += 1) {
          const unknownBefore = relays.map(({ counts }) => counts.unknown);
          await kafka.pause();
          await writeOneMore();
          await eventually(() =>
            relays.some(({ counts }, index) => counts.unknown > (unknownBefore[index] ?? 0)),
          );
          await kafka.resume();
        }
      });
      expect(faults).toEqual([]);
    });

    test('leaders that stop during a send hand over without a gap', async () => {
      const faults = await relayUnderFire(3, async (relays, writeOneMore) => {
        for (let round = 0; round < 2; round += 1) {
          await eventually(async () => {
            await writeOneMore();
            return relays.some(isPublishing);
          });
          await relays.find(isPublishing)?.relay.stop();
        }
      });
      expect(faults).toEqual([]);
    });
  },
);

function isPublishing({ relay, counts }: ReturnType<typeof createTestRelay>): boolean {
  return relay.status().mode === 'leading' && counts.published > 0;
}
