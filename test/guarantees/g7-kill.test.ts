import { randomUUID } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { FaultRuleInput } from '#dev/provider-simulator/simulator-client.ts';
import { fulfilmentDefinition } from '#src/fulfilment/fulfilment-definition.ts';
import { sagaPoints } from '#test/support/saga/points.ts';
import type { SagaPoint } from '#test/support/saga/points.ts';
import { skipReason } from '#test/support/infra.ts';
import { createTestTopic, readTopic } from '#test/support/kafka.ts';
import { eventually } from '#test/support/poll.ts';
import { orderIn } from '#test/support/saga/api.ts';
import type { SagaApi } from '#test/support/saga/api.ts';
import { cancelledStories, givenUpStories } from '#test/support/saga/stories.ts';
import { startVictim } from '#test/support/saga/victim.ts';
import { verifySagas } from '#test/support/saga/verify-sagas.ts';
import { createSagaWorld, untilAtRest } from '#test/support/saga/world.ts';
import type { SagaWorld } from '#test/support/saga/world.ts';
import { readStored } from '#test/support/verify-database.ts';

const STOCK = { book: 10_000 };
const points = sagaPoints(fulfilmentDefinition({ captureMs: 1, shipMs: 1, undoMs: 1 }));
/** A step is given up after a moment; what undoes is not. */
const impatient = {
  CLOCK_SPEED: '20',
  CAPTURE_DEADLINE_S: '5',
  SHIP_DEADLINE_S: '5',
  UNDO_DEADLINE_S: '604800',
};
/** Refunds and their look-ups go wrong once, so that both are asked for again. */
const refundLost: readonly FaultRuleInput[] = [
  { operation: 'ship', fault: 'refuse' },
  { operation: 'refund', fault: 'reset_after', times: 1 },
];

/** Places one order of each story; a caller who hears nothing asks the next replica, with the same key. */
function createCustomers({ simulator }: SagaWorld) {
  const stories = [...cancelledStories, ...givenUpStories, { name: 'refund', faults: refundLost }];
  const open = new Map<string, (typeof stories)[number]>();
  let count = 0;
  return {
    count: () => count,
    arrive: () => {
      for (const story of stories) open.set(randomUUID(), story);
      count += stories.length;
    },
    /** Whether everybody was served before the replica died. */
    ask: async ({ place, command }: SagaApi): Promise<boolean> => {
      const asked = await Promise.allSettled(
        [...open].map(async ([key, story]) => {
          const sku = 'sku' in story && story.sku ? story.sku : 'book';
          const items = [{ sku, quantity: 2, priceCents: 1250 }];
          const { orderId } = orderIn(await place(items, { fulfilment: 'manual', key }));
          for (const fault of story.faults) await simulator.addFault({ ...fault, orderId });
          // 409: it had come to its end before its caller heard that it was begun
          const { status, text } = await command('fulfil', orderId);
          if (status !== 202 && status !== 409) throw new Error(`fulfil got ${status}: ${text}`);
          open.delete(key);
        }),
      );
      return asked.every(({ status }) => status === 'fulfilled');
    },
  };
}

const KILLED = { code: null, signal: 'SIGKILL' };
const POINT_MS_MAX = 120_000;

/** For the point that nobody passes. */
const inTime = () => delay(POINT_MS_MAX, 'it was never passed', { ref: false });

/** One replica after the other dies at the next point; each finds what the dead left in the middle. */
async function chain(
  world: SagaWorld,
  customers: ReturnType<typeof createCustomers>,
  own: readonly SagaPoint[],
  settings: Readonly<Record<string, string>>,
): Promise<void> {
  for (const point of own) {
    await using victim = await startVictim(world, point, settings);
    customers.arrive();
    if (victim.api) await customers.ask(victim.api);
    const end = await Promise.race([victim.ended, inTime()]);
    expect({ point, end, said: victim.said() }).toEqual({ point, end: KILLED, said: '' });
  }
}

/** Half of the points, for one of two chains side by side. */
const every2nd = (remainder: number) => points.filter((_, index) => index % 2 === remainder);

describe.skipIf(skipReason('postgres'))(
  'G7 when replicas are killed at each point of a saga',
  () => {
    const hasKafka = skipReason('kafka') === undefined;
    const stack = new AsyncDisposableStack();
    let world: SagaWorld;
    let topic: Awaited<ReturnType<typeof createTestTopic>> | undefined;

    beforeAll(async () => {
      world = stack.use(await createSagaWorld());
      if (hasKafka) topic = stack.use(await createTestTopic(3));
      const settings = {
        ...impatient,
        ...(topic && {
          RELAY: 'on',
          KAFKA_BROKERS: topic.brokers.join(','),
          KAFKA_TOPIC: topic.name,
        }),
      };
      for (const [sku, onHand] of Object.entries(STOCK)) await world.setStock(sku, onHand);
      const customers = createCustomers(world);
      const chains = [every2nd(0), every2nd(1)];
      await Promise.all(chains.map((own) => chain(world, customers, own, settings)));
      const survivor = stack.use(await startVictim(world, undefined, settings));
      await eventually(() => customers.ask(survivor.api!));
      await untilAtRest(world, customers.count());
      await world.simulator.release();
    }, 900_000);
    afterAll(() => stack.disposeAsync());

    test('money and goods are where they belong, and everything has ended', async () => {
      expect(await verifySagas(world, { stock: STOCK, ...(topic && { relay: 'on' }) })).toEqual([]);
    });

    test.skipIf(!hasKafka)('no event is missing in Kafka, nor out of order', async () => {
      const { events } = await readStored(world.database.url);
      const orders = Map.groupBy(events, ({ stream_id: id }) => id);
      const stored = [...orders].filter(([, [first]]) => first?.type === 'OrderPlaced');
      const count = stored.reduce((sum, [, own]) => sum + own.length, 0);
      const messages = await readTopic(topic!.name, {
        brokers: topic!.brokers,
        until: (all) => new Set(all.map(({ headers }) => headers['ce_id'])).size >= count,
      });
      const seen = new Map<string, number[]>();
      for (const { key, headers } of messages) {
        const versions = seen.get(key!) ?? [];
        const version = Number(headers['ce_sequence']);
        if (version > (versions.at(-1) ?? 0)) versions.push(version);
        seen.set(key!, versions);
      }
      const expected = stored.map(([id, own]) => [id, own.map(({ version }) => version)] as const);
      expect(seen).toEqual(new Map(expected));
    });
  },
);
