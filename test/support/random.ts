import { randomInt } from 'node:crypto';

/** Numbers that depend on a seed only, so that a run can be repeated. */
export type Random = Readonly<{
  seed: number;
  /** A whole number from 0 to `bound` - 1. */
  below(bound: number): number;
}>;

/** Prints its seed. Set TEST_SEED to repeat a run. The generator is Mulberry32. */
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
