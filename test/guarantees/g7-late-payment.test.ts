import { describe, expect, test } from 'vitest';
import type { FaultName } from '#dev/provider-simulator/faults.ts';
import type { FaultRuleInput } from '#dev/provider-simulator/simulator-client.ts';
import type { OrderPoint } from '#test/support/saga/points.ts';
import { fastClock } from '#test/support/saga/points.ts';
import { skipReason } from '#test/support/infra.ts';
import { createStage } from '#test/support/saga/stage.ts';
import type { Case } from '#test/support/saga/stage.ts';
import type { Story } from '#test/support/saga/stories.ts';
import { verifySagas } from '#test/support/saga/verify-sagas.ts';
import { createSagaWorld } from '#test/support/saga/world.ts';

/** Captures that move money only when they are let, long after their caller was told nothing. */
const LATE = ['late', 'late_error', 'late_reset', 'hold'] as const;

const capture = (fault: FaultName): FaultRuleInput => ({ operation: 'capture', fault, times: 1 });
/** While it is asked in vain there is time for the money to move. */
const unreachable: readonly FaultRuleInput[] = [
  { operation: 'cancel_capture', fault: 'unavailable', times: 1, retryAfterSeconds: 0 },
];
const lookedUpInVain: readonly FaultRuleInput[] = [
  { operation: 'look_up_capture', fault: 'reset_before', times: 200 },
];

type Money = Readonly<{ captures: number; takenCents: number; backCents: number }>;

/**
 * Plays each story as often as there are points to pass, so that the money moves at each of them, and once
 * more so that it moves, or tries to, after the end.
 * @returns what became of the money, by the point at which it moved
 */
async function played(
  stories: readonly Story[],
  options: Parameters<typeof createStage>[1] = {},
): Promise<{ wrong: string[]; cases: (Case & { money: Money })[] }> {
  await using world = await createSagaWorld();
  await world.setStock('book', 10_000);
  await using stage = await createStage(world, options);
  const found = await Promise.all(
    stories.map(async (story) => {
      const never = await stage.play(story);
      const points: OrderPoint[] = [...new Set(never.passed)];
      const others = points.map((landsAt) =>
        stage.play({ ...story, name: `${story.name}, money moves ${landsAt}`, landsAt }),
      );
      return [never, ...(await Promise.all(others))];
    }),
  );
  const errors = await stage.stop();
  await world.simulator.release();
  const ledger = await world.simulator.ledger();
  const cases = found.flat().map((one) => {
    const own = ledger.filter(({ orderId }) => orderId === one.orderId);
    const of = (wanted: string) => own.filter(({ effect }) => effect === wanted);
    const cents = (wanted: string) => of(wanted).reduce((sum, e) => sum + (e.amountCents ?? 0), 0);
    const money = {
      captures: of('capture').length,
      takenCents: cents('capture'),
      backCents: cents('refund'),
    };
    return Object.assign({ ...one }, { money });
  });
  return {
    cases,
    wrong: [...(await verifySagas(world, { stock: { book: 10_000 } })), ...errors],
  };
}

const given = { captures: 1, takenCents: 2500, backCents: 2500 };
const none = { captures: 0, takenCents: 0, backCents: 0 };
const kept = { captures: 1, takenCents: 2500, backCents: 0 };

describe.skipIf(skipReason('postgres'))('G7 for a payment that comes late', () => {
  test('that the customer cancelled meanwhile: it is given back, or never taken', async () => {
    const stories = LATE.flatMap((fault) =>
      [[], unreachable].map((more) => ({
        name: `${fault}, cancelled`,
        faults: [capture(fault), ...more],
        cancelAt: 'before send capture' as const,
      })),
    );
    const { cases, wrong } = await played(stories);
    expect(wrong).toEqual([]);
    const landed = (point: OrderPoint) =>
      cases.filter(({ story }) => story.landsAt === point).map(({ money }) => money);
    const before = landed('before cancel cancel_capture');
    expect(before.length).toBeGreaterThanOrEqual(LATE.length);
    expect(new Set(before.map((money) => JSON.stringify(money)))).toEqual(
      new Set([JSON.stringify(given)]),
    );
    const never = cases.filter(({ story }) => story.landsAt === undefined);
    expect(never.map(({ money }) => money)).toEqual(never.map(() => none));
  }, 120_000);

  test('that was given up meanwhile: it is given back, or never taken', async () => {
    const stories = LATE.map((fault) => ({
      name: `${fault}, given up`,
      faults: [capture(fault), ...lookedUpInVain],
    }));
    const { cases, wrong } = await played(stories, {
      now: fastClock(20),
      env: { CAPTURE_DEADLINE_S: '1' },
    });
    expect(wrong).toEqual([]);
    const of = (point: OrderPoint | undefined) =>
      cases.filter(({ story }) => story.landsAt === point).map(({ money }) => money);
    expect(of('before cancel cancel_capture')).toEqual(LATE.map(() => given));
    expect(of(undefined)).toEqual(LATE.map(() => none));
  }, 120_000);

  test('that was asked for again meanwhile: it is taken once', async () => {
    const stories = LATE.map((fault) => ({ name: `${fault}, repeated`, faults: [capture(fault)] }));
    const { cases, wrong } = await played(stories);
    expect(wrong).toEqual([]);
    expect(cases.map(({ money }) => money)).toEqual(cases.map(() => kept));
    expect(cases.some(({ passed }) => passed.includes('after look_up capture'))).toBe(true);
  }, 120_000);
});
