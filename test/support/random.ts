import { randomInt } from 'node:crypto';

/** Numbers that follow from a seed, so that a run can be repeated. */
export type Random = Readonly<{
  seed: number;
  /** A whole number from 0 to `bound` - 1. */
  below(bound: number): number;
}>;

/** Prints its seed; set TEST_SEED to repeat a run. Mulberry32, which is good enough for choosing. */
export function createRandom(
  seed = Number(process.env['TEST_SEED'] ?? randomInt(2 ** 31)),
): Random {
  console.log(`TEST_SEED=${seed}`);
  let state = seed;
  return {
    seed,
    below(bound) {
      state = (state + 0x6d2b79f5) | 0;
      let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
      mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
      return Math.floor((((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32) * bound);
    },
  };
}
