import { describe, expect, test } from 'vitest';
import { operations } from '#dev/provider-simulator/contract.ts';
import { fulfilmentDefinition } from '#src/fulfilment/fulfilment-definition.ts';
import { refundDefinition } from '#src/fulfilment/refund-definition.ts';
import { orderPoints } from '#test/support/saga/points.ts';
import type { OrderPoint } from '#test/support/saga/points.ts';
import { fastClock } from '#test/support/saga/points.ts';
import { skipReason } from '#test/support/infra.ts';
import { createStage } from '#test/support/saga/stage.ts';
import type { Case, Stage } from '#test/support/saga/stage.ts';
import {
  cancelledStories,
  faultClassesOf,
  faultsOf,
  faultStory,
  givenUpStories,
  mainStories,
  parcelStories,
  refundFaultStory,
  refundStories,
  stuckRefundStories,
} from '#test/support/saga/stories.ts';
import type { Story } from '#test/support/saga/stories.ts';
import { verifySagas } from '#test/support/saga/verify-sagas.ts';
import { createSagaWorld } from '#test/support/saga/world.ts';

const STOCK = { book: 1_000_000 };
const DEADLINES = { captureMs: 1, shipMs: 1, undoMs: 1 };
const points = [
  ...orderPoints(fulfilmentDefinition(DEADLINES)),
  ...orderPoints(refundDefinition(DEADLINES)),
];
const diedAt = new Set<OrderPoint>();

/** On the fast clock a step is given up at its first failure, and what undoes never is. */
const impatient = { CAPTURE_DEADLINE_S: '1', SHIP_DEADLINE_S: '1', UNDO_DEADLINE_S: '604800' };
/** On the fast clock only what undoes is given up, at its first failure: refunds are. */
const impatientToRefund = {
  CAPTURE_DEADLINE_S: '64800',
  SHIP_DEADLINE_S: '64800',
  UNDO_DEADLINE_S: '1',
};

/**
 * The story once without a death, then with one at each point that it passes, the first time and the last;
 * `deaths` in a row.
 */
async function explore({ play }: Stage, story: Story, deaths: number): Promise<Case[]> {
  const cases: Case[] = [];
  const from = async (before: Case, diesAt: readonly number[]): Promise<void> => {
    cases.push(before);
    if (diesAt.length === deaths) return;
    const later = passages(before, diesAt.at(-1) ?? 0);
    await Promise.all(
      later.map(async (number) => {
        const further = diesAt.concat(number);
        await from(await play(story, further), further);
      }),
    );
  };
  await from(await play(story), []);
  return cases;
}

/**
 * Counted from 1, after the given one: the first and the last at each point. Where a story is about a refund, only its
 * points count.
 */
function passages({ passed, story }: Case, after: number): number[] {
  const later = passed.slice(after);
  return later.flatMap((point, index) => {
    const isEnd = later.indexOf(point) === index || later.lastIndexOf(point) === index;
    const counts = !story.refunds || point.startsWith('refund: ');
    return isEnd && counts ? [after + index + 1] : [];
  });
}

/** The story with a death at each point, after which the dead wakes at each later one. */
async function exploreWakes(stage: Stage, story: Story): Promise<Case[]> {
  const cases = await explore(stage, story, 1);
  const pairs = cases.flatMap((one) => {
    const diesAt = one.passed.indexOf(one.died[0]!) + 1;
    return diesAt === 0 ? [] : passages(one, diesAt).map((wakesAt) => ({ diesAt, wakesAt }));
  });
  const woken = pairs.map(({ diesAt, wakesAt }) => stage.play(story, [diesAt], wakesAt));
  return cases.concat(await Promise.all(woken));
}

/** Plays, stops everything, lands what is late, and tells what is not as promised. */
async function violations(
  options: Parameters<typeof createStage>[1],
  plot: (stage: Stage) => Promise<Case[]>,
): Promise<{ cases: Case[]; wrong: string[] }> {
  await using world = await createSagaWorld();
  for (const [sku, onHand] of Object.entries(STOCK)) await world.setStock(sku, onHand);
  await using stage = await createStage(world, options);
  const cases = await plot(stage);
  for (const point of cases.flatMap(({ died }) => died)) diedAt.add(point);
  const errors = await stage.stop();
  await world.simulator.release();
  const stuck = new Set(cases.flatMap((one) => (one.story.mayBeStuck ? [one.orderId] : [])));
  const found = await verifySagas(world, {
    stock: STOCK,
    mayBeStuck: (orderId) => stuck.has(orderId),
  });
  const byOrder = new Map(cases.map((one) => [one.orderId, one]));
  const wrong = found.map((what) => `${toldOf(byOrder.get(what.slice(0, 36)))}${what}`);
  return { cases, wrong: [...wrong, ...errors, ...untold(cases)] };
}

/** Stories that say that they pass a point, and never do: what they are to show was not tried. */
function untold(cases: readonly Case[]): string[] {
  return [...Map.groupBy(cases, ({ story }) => story.name)].flatMap(([name, own]) => {
    const { passes } = own[0]!.story;
    const isTold = passes === undefined || own.some(({ passed }) => passed.includes(passes));
    return isTold ? [] : [`${name}: never came to ${passes}`];
  });
}

function toldOf(one: Case | undefined): string {
  if (!one) return '';
  const { story, died, passed } = one;
  return `${story.name}, died at ${died.join(' and ')} of ${passed.join(', ')}:\n`;
}

describe.skipIf(skipReason('postgres'))('G7 when replicas die, a fulfilment still ends', () => {
  test('whatever the providers do', async () => {
    const slow = operations.filter((operation) => operation !== 'cancel_shipment');
    const stories = slow.flatMap((operation) =>
      faultsOf(operation).map((fault) => faultStory(operation, fault)),
    );
    const { wrong } = await violations({}, (stage) =>
      Promise.all(stories.map((story) => stage.play(story))),
    );
    expect(wrong).toEqual([]);
  }, 900_000);

  test('twice on the way, at any two points', async () => {
    const { wrong } = await violations({}, async (stage) =>
      (await Promise.all(mainStories.map((story) => explore(stage, story, 2)))).flat(),
    );
    expect(wrong).toEqual([]);
  }, 900_000);

  test('and wake at any point of what their successors do', async () => {
    const { wrong } = await violations({}, async (stage) =>
      (await Promise.all(mainStories.map((story) => exploreWakes(stage, story)))).flat(),
    );
    expect(wrong).toEqual([]);
  }, 900_000);

  test('at any point of a call that goes wrong in any way', async () => {
    const slow = operations.filter((operation) => operation !== 'cancel_shipment');
    const stories = slow.flatMap((operation) =>
      faultClassesOf(operation).map((fault) => faultStory(operation, fault)),
    );
    const { wrong } = await violations({}, async (stage) =>
      (await Promise.all(stories.map((story) => explore(stage, story, 1)))).flat(),
    );
    expect(wrong).toEqual([]);
  }, 900_000);

  test('at any point after the customer cancelled at any point', async () => {
    const { cases, wrong } = await violations({}, async (stage) => {
      const wholes = await Promise.all(cancelledStories.map((story) => stage.play(story)));
      const stories = wholes.flatMap(({ story, passed }) =>
        [...new Set(passed)].map((point) => {
          const name = `${story.name}, cancelled at ${point}`;
          return Object.assign({}, story, { name, cancelAt: point });
        }),
      );
      return (await Promise.all(stories.map((story) => explore(stage, story, 1)))).flat();
    });
    expect(wrong).toEqual([]);
    const told = ['200', '202', '409 order_already_shipped', '409 shipment_requested'];
    expect(new Set(cases.map(({ cancelled }) => cancelled))).toEqual(new Set(told));
  }, 900_000);

  test('at any point of a step that was given up', async () => {
    const stories = [
      ...givenUpStories,
      ...faultClassesOf('cancel_shipment').map((fault) => faultStory('cancel_shipment', fault)),
    ];
    const { wrong } = await violations({ now: fastClock(1000), env: impatient }, async (stage) =>
      (await Promise.all(stories.map((story) => explore(stage, story, 1)))).flat(),
    );
    expect(wrong).toEqual([]);
  }, 900_000);

  test('at any point of a shipment in several parcels', async () => {
    const { wrong } = await violations({}, async (stage) =>
      (await Promise.all(parcelStories.map((story) => explore(stage, story, 1)))).flat(),
    );
    expect(wrong).toEqual([]);
  }, 900_000);

  test('at any two points of a refund after shipping, and wake at any other', async () => {
    const { wrong } = await violations({}, async (stage) => {
      const dying = refundStories.map((story) => explore(stage, story, 2));
      const waking = refundStories.map((story) => exploreWakes(stage, story));
      return (await Promise.all([...dying, ...waking])).flat();
    });
    expect(wrong).toEqual([]);
  }, 900_000);

  test('at any point of a refund that goes wrong in any way', async () => {
    const stories = (['refund', 'look_up_refund'] as const).flatMap((operation) =>
      faultClassesOf(operation).map((fault) => refundFaultStory(operation, fault)),
    );
    const { wrong } = await violations({}, async (stage) =>
      (await Promise.all(stories.map((story) => explore(stage, story, 1)))).flat(),
    );
    expect(wrong).toEqual([]);
  }, 900_000);

  test('at any point of a refund that is stuck and repaired', async () => {
    const { wrong } = await violations(
      { now: fastClock(1000), env: impatientToRefund },
      async (stage) =>
        (await Promise.all(stuckRefundStories.map((story) => explore(stage, story, 1)))).flat(),
    );
    expect(wrong).toEqual([]);
  }, 900_000);

  test('and no point was forgotten', () => {
    expect([...diedAt].toSorted()).toEqual([...points].toSorted());
  });
});
