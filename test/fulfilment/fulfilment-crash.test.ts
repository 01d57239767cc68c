import { describe, expect, test } from 'vitest';
import { fulfilmentDefinition } from '#src/fulfilment/fulfilment-definition.ts';
import { sagaPoints } from '#test/support/saga/points.ts';
import type { SagaPoint } from '#test/support/saga/points.ts';
import { skipReason } from '#test/support/infra.ts';
import { fastClock } from '#test/support/saga/points.ts';
import { createStage } from '#test/support/saga/stage.ts';
import type { Case } from '#test/support/saga/stage.ts';
import type { Story } from '#test/support/saga/stories.ts';
import { createSagaWorld } from '#test/support/saga/world.ts';
import type { SagaWorld } from '#test/support/saga/world.ts';
import { createService, ledgerOf, stock } from './fulfilment-service.ts';
import type { Service } from './fulfilment-service.ts';

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
    name: 'answers are lost',
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

/** No call of these stories is left without an answer. */
const patience = { PROVIDER_TIMEOUT_MS: '30000' };
/** On a clock that is a hundred times as fast. */
const impatience = {
  ...patience,
  CAPTURE_DEADLINE_S: '64800',
  SHIP_DEADLINE_S: '1',
  UNDO_DEADLINE_S: '604800',
};

/** What is wrong with an order that has come to rest. */
async function faultsOf(world: SagaWorld, service: Service, { orderId }: Case): Promise<string[]> {
  const order = await service.order(orderId);
  const saga = await service.saga(orderId);
  const events = await service.sagaEvents(orderId);
  const ledger = await ledgerOf(world, orderId);
  const balance = ledger.capturedCents - ledger.refundedCents;
  const isShipped = order.status === 'shipped';
  const [outbox] = await world.database.query<{ count: number }>(
    'select count(*)::int from outbox_events where aggregate_id = $1',
    [orderId],
  );
  const checks: Record<string, boolean> = {
    'it has ended, and never was stuck':
      !events.includes('SagaStuck') && saga.state === (isShipped ? 'completed' : 'compensated'),
    'it is shipped or cancelled': isShipped || order.status === 'cancelled',
    'it was charged once at most': ledger.captures <= 1,
    'it has one parcel if it is shipped, else none': ledger.parcels === (isShipped ? 1 : 0),
    'the money is where the parcel is not': balance === (isShipped ? 2500 : 0),
    'the order says what was captured': order.capturedCents === ledger.capturedCents,
    'the order says what was refunded': order.refundedCents === ledger.refundedCents,
    'every event is in the outbox': outbox!.count === order.version,
  };
  return Object.entries(checks).flatMap(([check, holds]) => (holds ? [] : [check]));
}

describe.skipIf(skipReason('postgres'))('a fulfilment whose process dies', () => {
  const definition = fulfilmentDefinition({ captureMs: 1, shipMs: 1, undoMs: 1 });
  const passed = new Set<SagaPoint>();

  test.each([
    ['patient', stories, { env: patience }],
    ['impatient', impatientStories, { env: impatience, now: fastClock(100) }],
  ] as const)(
    'before or after any commit or call goes on elsewhere, and nothing is done twice: %s',
    async (_, stories, options) => {
      await using world = await createSagaWorld();
      await using service = createService(world);
      await world.setStock('book', 10_000);
      await using stage = await createStage(world, options);
      const whole = await Promise.all(stories.map((story) => stage.play(story)));
      const deaths = whole.flatMap(({ story, passed }) =>
        passed.map((_, index) => ({ story, diesAt: index + 1 })),
      );
      const cases = await Promise.all(
        deaths.map(({ story, diesAt }) => stage.play(story, [diesAt])),
      );
      expect(await stage.stop()).toEqual([]);

      const all = [...whole, ...cases];
      const wrong: string[] = [];
      const orders: Awaited<ReturnType<Service['order']>>[] = [];
      // One after the other: a pool lets nobody wait for as long as hundreds take.
      for (const one of all) {
        const told = `${one.story.name}, died at ${one.died.join()} of ${one.passed.join(', ')}`;
        const faults = await faultsOf(world, service, one);
        wrong.push(...faults.map((fault) => `${fault}: ${told}`));
        orders.push(await service.order(one.orderId));
      }
      expect(wrong).toEqual([]);
      const shipped = orders.filter(({ status }) => status === 'shipped').length;
      expect(await stock(world)).toEqual({ book: [10_000 - 2 * shipped, 0] });
      for (const point of all.flatMap(({ passed }) => passed)) passed.add(point);
    },
  );

  test('has died at every point that there is', () => {
    expect([...passed].toSorted()).toEqual([...sagaPoints(definition)].toSorted());
  });
});
