import { describe, expect, test } from 'vitest';
import { keepForAMoment } from '#src/http/keep-for-a-moment.ts';

const LONG_MS = 600_000;

describe('what is kept for a moment', () => {
  test('is asked for once at a time, however long it takes', async () => {
    const gate = Promise.withResolvers<string>();
    let asked = 0;
    const ask = keepForAMoment(() => {
      asked += 1;
      return gate.promise;
    }, 0);
    const early = [ask(), ask(), ask()];
    gate.resolve('it');
    expect(await Promise.all(early)).toStrictEqual(['it', 'it', 'it']);
    expect(asked).toBe(1);
    await ask();
    expect(asked).toBe(2);
  });

  test('stays for its time, which begins when it has come', async () => {
    let asked = 0;
    const ask = keepForAMoment(async () => (asked += 1), LONG_MS);
    expect([await ask(), await ask(), await ask()]).toStrictEqual([1, 1, 1]);
  });

  test('is asked for again after a failure', async () => {
    let asked = 0;
    const ask = keepForAMoment(async () => {
      asked += 1;
      if (asked === 1) throw new Error('away');
      return asked;
    }, LONG_MS);
    await expect(ask()).rejects.toThrow('away');
    expect(await ask()).toBe(2);
  });
});
