import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { actionOf } from '#src/sagas/saga.ts';
import { turns, walk } from './saga-walk.ts';

describe('whatever happens to a fulfilment', () => {
  test('it ends, and money, parcel and stock agree with its end', async () => {
    await fc.assert(
      fc.asyncProperty(turns, async (turns) => {
        const { saga, world } = await walk(turns, { mayRefuseRefunds: false });
        const effects = ['capture', 'refund', 'ship'].map((operation) => world.effects(operation));
        const isHeld =
          actionOf(saga, 'reserve').state === 'done' && actionOf(saga, 'release').state !== 'done';
        expect(['completed', 'compensated', 'stuck']).toContain(saga.state);
        if (saga.state === 'completed') expect(effects).toEqual([1, 0, 1]);
        if (saga.state === 'compensated') {
          expect(effects[0]).toBe(effects[1]);
          expect(effects[2]).toBe(0);
          expect(isHeld).toBe(false);
        }
      }),
      { numRuns: 2_000 },
    );
  });

  test('money is taken once at most, and a parcel never leaves without it', async () => {
    await fc.assert(
      fc.asyncProperty(turns, async (turns) => {
        const { world } = await walk(turns);
        const [captures, refunds, parcels] = ['capture', 'refund', 'ship'].map((operation) =>
          world.effects(operation),
        );
        expect(captures).toBeLessThanOrEqual(1);
        expect(refunds).toBeLessThanOrEqual(captures!);
        expect(parcels! + refunds!).toBeLessThanOrEqual(captures!);
      }),
      { numRuns: 2_000 },
    );
  });

  test('after an accepted cancellation no parcel leaves', async () => {
    await fc.assert(
      fc.asyncProperty(turns, async (turns) => {
        const { saga, world, cancellation } = await walk(turns, { mayRefuseRefunds: false });
        if (cancellation === null) return;
        expect(world.effects('ship')).toBe(0);
        expect(saga.state).not.toBe('completed');
      }),
      { numRuns: 2_000 },
    );
  });

  test('the walks reach every state and every kind of step', async () => {
    const seen = new Set<string>();
    await fc.assert(
      fc.asyncProperty(turns, async (turns) => {
        const { saga, log } = await walk(turns);
        seen.add(saga.state);
        for (const { type, data } of log) seen.add(`${type} ${'step' in data ? data.step : ''}`);
      }),
      { numRuns: 20_000 }, // the rarest way is gone once in 900
    );
    const wanted = [
      'completed',
      'compensated',
      'stuck',
      'StepRefused reserve',
      'StepRefused capture',
      'StepRefused ship',
      'StepRefused refund',
      'StepGivenUp capture',
      'StepGivenUp ship',
      'StepGivenUp refund',
      'StepCancelled capture',
      'StepCancelled ship',
      'StepDone cancel_capture',
      'StepDone cancel_shipment',
      'StepDone refund',
      'StepDone release',
    ];
    expect(wanted.filter((way) => !seen.has(way))).toEqual([]);
  });

  test('it is stuck only if something was refused or left open', async () => {
    await fc.assert(
      fc.asyncProperty(turns, async (turns) => {
        const { saga, log } = await walk(turns);
        if (saga.state !== 'stuck') return;
        const last = log.findLast(({ type }) => type === 'SagaStuck');
        expect(last?.type === 'SagaStuck' && last.data.open.length).toBeGreaterThan(0);
      }),
    );
  });
});

describe('whatever happens to a refund', () => {
  test('it ends as the provider says, or is stuck, and money is given back once at most', async () => {
    await fc.assert(
      fc.asyncProperty(turns, async (turns) => {
        const { saga, log, world } = await walk(turns, { saga: 'refund' });
        const refunds = world.effects('refund');
        const { state } = actionOf(saga, 'refund');
        if (saga.state === 'completed') expect([state, refunds]).toEqual(['done', 1]);
        if (saga.state === 'compensated') expect([state, refunds]).toEqual(['refused', 0]);
        expect(['completed', 'compensated', 'stuck']).toContain(saga.state);
        expect(refunds).toBeLessThanOrEqual(1);
        const keys = log.flatMap((event) =>
          event.type === 'StepRequested' ? [event.data.key] : [],
        );
        expect(keys).toEqual(['saga-1-refund-1']);
      }),
      { numRuns: 2_000 },
    );
  });

  test('it ends in each of these ways', async () => {
    const seen = new Set<string>();
    await fc.assert(
      fc.asyncProperty(turns, async (turns) => {
        seen.add((await walk(turns, { saga: 'refund' })).saga.state);
      }),
      { numRuns: 2_000 },
    );
    expect([...seen].toSorted()).toEqual(['compensated', 'completed', 'stuck']);
  });
});
