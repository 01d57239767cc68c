import { describe, expect, test } from 'vitest';
import { specFor } from './spec.ts';

class Refused extends Error {
  readonly code = 'too_much';
}

const given = specFor<number, number, number>({
  initial: 0,
  evolve: (sum, n) => sum + n,
  decide: (n, sum) => {
    if (n > 10) throw new Refused();
    return n === 0 ? [] : [sum + n];
  },
});

describe('the given/when helper', () => {
  test('holds for what the decider does', () => {
    given(1, 2).when(3).emits(6);
    given().when(0).emitsNothing();
    given().when(11).rejects('too_much');
  });

  test('fails for what it does not do', () => {
    expect(() => given(1).when(3).emits(5)).toThrow();
    expect(() => given().when(3).emitsNothing()).toThrow();
    expect(() => given().when(3).rejects('too_much')).toThrow();
    expect(() => given().when(11).rejects('another_code')).toThrow();
  });
});
