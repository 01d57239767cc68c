import { describe, expect, test } from 'vitest';
import { cachedRead } from '#src/http/metrics.ts';

const LONG_MS = 600_000;

describe('a cached read', () => {
  test('runs once at a time, however long it takes', async () => {
    const gate = Promise.withResolvers<string>();
    let asked = 0;
    const ask = cachedRead(() => {
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

  test('is kept for a time that begins when it ends', async () => {
    let asked = 0;
    const ask = cachedRead(async () => (asked += 1), LONG_MS);
    expect([await ask(), await ask(), await ask()]).toStrictEqual([1, 1, 1]);
  });

  test('runs again after a failure', async () => {
    let asked = 0;
    const ask = cachedRead(async () => {
      asked += 1;
      if (asked === 1) throw new Error('away');
      return asked;
    }, LONG_MS);
    await expect(ask()).rejects.toThrow('away');
    expect(await ask()).toBe(2);
  });
});
