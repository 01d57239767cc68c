import { describe, expect, test } from 'vitest';
import { fulfilmentDefinition } from '#src/fulfilment/fulfilment-definition.ts';
import { sagaPoints } from '#test/support/saga/points.ts';
import type { OrderPoint } from '#test/support/saga/points.ts';
import { skipReason } from '#test/support/infra.ts';
import { fastClock } from '#test/support/saga/points.ts';
import { createStage } from '#test/support/saga/stage.ts';
import type { Case } from '#test/support/saga/stage.ts';
import type { Story } from '#test/support/saga/stories.ts';
import { verifySagas } from '#test/support/saga/verify-sagas.ts';
import { createSagaWorld } from '#test/support/saga/world.ts';
import type { SagaWorld } from '#test/support/saga/world.ts';

const STOCK = { book: 10_000 };
const ORDER_ID_LENGTH = 36;

const stories: readonly Story[] = [
  {
    name: 'all goes well',
    faults: [],
  },
  {
    name: 'the card is refused',
    faults: [{ operation: 'capture', fault: 'refuse' }],
  },
  {
    name: 'the carrier refuses',
    faults: [{ operation: 'ship', fault: 'refuse' }],
  },
  {
    name: 'responses are lost',
    faults: [
      { operation: 'capture', fault: 'reset_after', times: 1 },
      { operation: 'ship', fault: 'reset_after', times: 1 },
    ],
  },
  {
    name: 'calls are lost',
    faults: [
      { operation: 'capture', fault: 'reset_before', times: 1 },
      { operation: 'ship', fault: 'reset_before', times: 1 },
    ],
  },
  {
    name: 'the customer cancels before the payment, and the refund is lost',
    faults: [{ operation: 'refund', fault: 'reset_after', times: 1 }],
    cancelAt: 'before send capture',
  },
  {
    name: 'the customer cancels while the payment comes late',
    faults: [
      { operation: 'capture', fault: 'late_reset', times: 1, lateMs: 50 },
      { operation: 'cancel_capture', fault: 'reset_before', times: 1 },
    ],
    cancelAt: 'after send capture',
  },
  {
    name: 'the customer cancels a payment that never came',
    faults: [{ operation: 'capture', fault: 'reset_before', times: 1 }],
    cancelAt: 'after send capture',
  },
];

/** The same with a carrier that is given up at once. */
const impatientStories: readonly Story[] = [
  {
    name: 'the parcel is given up, and has left',
    faults: [{ operation: ['ship', 'look_up_shipment'], fault: 'reset_after' }],
  },
  {
    name: 'the parcel is given up, and is stopped',
    faults: [
      { operation: ['ship', 'look_up_shipment'], fault: 'reset_before' },
      { operation: 'cancel_shipment', fault: 'reset_before', times: 1 },
    ],
  },
];

/** No call of these stories is left without a response. */
const patience = { PROVIDER_TIMEOUT_MS: '30000' };
/** On a clock that is a hundred times as fast. */
const impatience = {
  ...patience,
  CAPTURE_DEADLINE_S: '64800',
  SHIP_DEADLINE_S: '1',
  UNDO_DEADLINE_S: '604800',
};

/** What is wrong once all sagas have ended, with the story of each order that something is wrong with. */
async function violations(world: SagaWorld, cases: readonly Case[]): Promise<string[]> {
  const stories = new Map(
    cases.map(({ story, orderId, died, passed }) => [
      orderId,
      `${story.name}, died at ${died.join()} of ${passed.join(', ')}: `,
    ]),
  );
  const stuck = await world.database.query<{ orderId: string }>(
    `select s.subject_id as "orderId" from events join saga_work s on stream_id = saga_id
     where type = 'SagaStuck'`,
  );
  const wrong = await verifySagas(world, { stock: STOCK });
  return [...wrong, ...stuck.map(({ orderId }) => `${orderId}: it was stuck`)].map(
    (what) => `${stories.get(what.slice(0, ORDER_ID_LENGTH)) ?? ''}${what}`,
  );
}

describe.skipIf(skipReason('postgres'))('a fulfilment whose process dies', () => {
  const definition = fulfilmentDefinition({ captureMs: 1, shipMs: 1, undoMs: 1 });
  const passed = new Set<OrderPoint>();

  test.each([
    ['patient', stories, { env: patience }],
    ['impatient', impatientStories, { env: impatience, now: fastClock(100) }],
  ] as const)(
    'before or after any commit or call continues in another process, and nothing is done twice: %s',
    async (_, stories, options) => {
      await using world = await createSagaWorld();
      await world.setStock('book', STOCK.book);
      await using stage = await createStage(world, options);
      const whole = await Promise.all(stories.map((story) => stage.play(story)));
      const deaths = whole.flatMap(({ story, passed }) =>
        passed.map((_, index) => ({ story, diesAt: index + 1 })),
      );
      const cases = await Promise.all(
        deaths.map(({ story, diesAt }) => stage.play(story, [diesAt])),
      );
      expect(await stage.stop()).toEqual([]);
      await world.simulator.release();

      const all = [...whole, ...cases];
      expect(await violations(world, all)).toEqual([]);
      for (const point of all.flatMap(({ passed }) => passed)) passed.add(point);
    },
  );

  test('has died at every point of a run', () => {
    expect([...passed].toSorted()).toEqual([...sagaPoints(definition)].toSorted());
  });
});
