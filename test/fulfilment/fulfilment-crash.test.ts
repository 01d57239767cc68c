import { v7 as uuidv7 } from 'uuid';
import { describe, expect, test } from 'vitest';
import type { FaultRuleInput } from '#dev/provider-simulator/simulator-client.ts';
import { fulfilmentDefinition } from '#src/fulfilment/fulfilment-definition.ts';
import { sagaPoints } from '#src/sagas/saga-points.ts';
import type { SagaPoint } from '#src/sagas/saga-points.ts';
import { skipReason } from '#test/support/infra.ts';
import { createService, createWorld, ledgerOf, resting, stock } from './fulfilment-service.ts';
import type { Service, World } from './fulfilment-service.ts';

/** What befalls one order, and where its customer changes their mind. */
type Story = Readonly<{ faults: readonly FaultRuleInput[]; cancelAt?: SagaPoint }>;

const stories: Readonly<Record<string, Story>> = {
  'all goes well': { faults: [] },
  'the card is refused': { faults: [{ operation: 'capture', fault: 'refuse' }] },
  'the carrier refuses': { faults: [{ operation: 'ship', fault: 'refuse' }] },
  'answers are lost': {
    faults: [
      { operation: 'capture', fault: 'reset_after', times: 1 },
      { operation: 'ship', fault: 'reset_after', times: 1 },
    ],
  },
  'calls are lost': {
    faults: [
      { operation: 'capture', fault: 'reset_before', times: 1 },
      { operation: 'ship', fault: 'reset_before', times: 1 },
    ],
  },
  'the customer cancels before the payment, and the refund is lost': {
    faults: [{ operation: 'refund', fault: 'reset_after', times: 1 }],
    cancelAt: 'before send capture',
  },
  'the customer cancels while the payment comes late': {
    faults: [
      { operation: 'capture', fault: 'late_reset', times: 1, lateMs: 50 },
      { operation: 'cancel_capture', fault: 'reset_before', times: 1 },
    ],
    cancelAt: 'after send capture',
  },
  'the customer cancels a payment that never came': {
    faults: [{ operation: 'capture', fault: 'reset_before', times: 1 }],
    cancelAt: 'after send capture',
  },
};

/** The same with a carrier that is given up at once. */
const impatientStories: Readonly<Record<string, Story>> = {
  'the parcel is given up, and has left': {
    faults: [{ operation: ['ship', 'look_up_shipment'], fault: 'reset_after' }],
  },
  'the parcel is given up, and is stopped': {
    faults: [
      { operation: ['ship', 'look_up_shipment'], fault: 'reset_before' },
      { operation: 'cancel_shipment', fault: 'reset_before', times: 1 },
    ],
  },
};

/** One order of a story; `diesAt` counts the points that its saga passes. */
type Case = Readonly<{ story: Story; diesAt: number; sagaId: string; orderId: string }> & {
  passed: SagaPoint[];
};

/** Two services that die, saga by saga, where the cases say, and come back to life at the end. */
function createCast() {
  const cases = new Map<string, Case>();
  const { promise: theEnd, resolve: end } = Promise.withResolvers<undefined>();
  const services: Service[] = [];
  return {
    cases,
    services,
    end: () => end(undefined),
    observe: async (point: SagaPoint, sagaId: string) => {
      const one = cases.get(sagaId)!;
      one.passed.push(point);
      if (one.story.cancelAt === point && one.passed.filter((p) => p === point).length === 1) {
        await services[0]!
          .handle(one.orderId, { type: 'CancelOrder', reason: 'changed my mind' })
          .catch(() => undefined); // too late: that is an answer too
      }
      if (one.passed.length === one.diesAt) await theEnd;
    },
  };
}

async function play(
  world: World,
  told: readonly Story[],
  diesAt: readonly number[],
  shipMs: number,
) {
  const cast = createCast();
  const options = {
    observe: cast.observe,
    deadlines: { shipMs },
    limits: { callTimeoutMs: 300, leaseMarginMs: 100, concurrency: 1000 },
  };
  await using first = createService(world, options);
  await using second = createService(world, options);
  cast.services.push(first, second);
  await first.start();
  await second.start();
  const placed = told.map(async (story, index) => {
    const one = { story, diesAt: diesAt[index]!, sagaId: uuidv7(), orderId: uuidv7(), passed: [] };
    cast.cases.set(one.sagaId, one);
    for (const fault of story.faults) {
      await world.simulator.addFault({ ...fault, orderId: one.orderId });
    }
    await cast.services[index % 2]!.place(undefined, one);
    return one;
  });
  const cases = await Promise.all(placed);
  await Promise.all(cases.map(({ orderId }) => resting(second, orderId)));
  cast.end();
  return cases;
}

/** What is wrong with an order that has come to rest. */
async function faultsOf(world: World, service: Service, { orderId }: Case): Promise<string[]> {
  const order = await service.order(orderId);
  const saga = await service.saga(orderId);
  const ledger = await ledgerOf(world, orderId);
  const balance = ledger.capturedCents - ledger.refundedCents;
  const isShipped = order.status === 'shipped';
  const [outbox] = await world.database.query<{ count: number }>(
    'select count(*)::int from outbox_events where aggregate_id = $1',
    [orderId],
  );
  const checks: Record<string, boolean> = {
    'it has ended': saga.state === (isShipped ? 'completed' : 'compensated'),
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
    ['patient', stories, 86_400_000],
    ['impatient', impatientStories, 1],
  ] as const)(
    'before or after any commit or call goes on elsewhere, and nothing is done twice: %s',
    async (_, stories, shipMs) => {
      await using world = await createWorld();
      await using service = createService(world);
      await service.setOnHand('book', 10_000);
      const told = Object.values(stories);
      const whole = await play(
        world,
        told,
        told.map(() => 0),
        shipMs,
      );
      const deaths = whole.flatMap(({ story, passed }) =>
        passed.map((_, index) => ({ story, diesAt: index + 1 })),
      );
      const cases = await play(
        world,
        deaths.map(({ story }) => story),
        deaths.map(({ diesAt }) => diesAt),
        shipMs,
      );

      const all = [...whole, ...cases];
      const wrong = await Promise.all(
        all.map(async (one) => {
          const faults = await faultsOf(world, service, one);
          return faults.map(
            (fault) => `${fault}: died at ${one.diesAt} of ${one.passed.join(', ')}`,
          );
        }),
      );
      expect(wrong.flat()).toEqual([]);
      const orders = await Promise.all(all.map(({ orderId }) => service.order(orderId)));
      const shipped = orders.filter(({ status }) => status === 'shipped').length;
      expect(await stock(world)).toEqual({ book: [10_000 - 2 * shipped, 0] });
      for (const point of all.flatMap(({ passed }) => passed)) passed.add(point);
    },
    120_000,
  );

  test('has died at every point that there is', () => {
    expect([...passed].toSorted()).toEqual([...sagaPoints(definition)].toSorted());
  });
});
