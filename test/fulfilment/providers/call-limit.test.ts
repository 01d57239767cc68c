import { describe, expect, test } from 'vitest';
import { createCallLimit } from '#src/fulfilment/providers/provider-client.ts';

const long = 60_000;

describe('a call limit', () => {
  test('admits as many calls as it allows, then the next when one leaves, in order', async () => {
    const limit = createCallLimit({ callsMax: 2, waitersMax: 10, waitMsMax: long });
    const entered: string[] = [];
    const enter = async (name: string) => {
      if (await limit.enter()) entered.push(name);
    };
    const all = [enter('a'), enter('b'), enter('c'), enter('d')];
    await Promise.all(all.slice(0, 2));
    expect(entered).toEqual(['a', 'b']);
    limit.leave();
    await all[2];
    expect(entered).toEqual(['a', 'b', 'c']);
    limit.leave();
    await all[3];
    expect(entered).toEqual(['a', 'b', 'c', 'd']);
  });

  test('is free again once all calls have left', async () => {
    const limit = createCallLimit({ callsMax: 1, waitersMax: 0, waitMsMax: long });
    expect(await limit.enter()).toBe(true);
    expect(await limit.enter()).toBe(false);
    limit.leave();
    expect(await limit.enter()).toBe(true);
  });

  test('stays full when a place is passed on', async () => {
    const limit = createCallLimit({ callsMax: 1, waitersMax: 1, waitMsMax: long });
    await limit.enter();
    const second = limit.enter();
    limit.leave();
    expect(await second).toBe(true);
    const third = limit.enter();
    expect(await limit.enter()).toBe(false);
    limit.leave();
    expect(await third).toBe(true);
  });

  test('refuses a call that waits too long, and gives the place to the next', async () => {
    const limit = createCallLimit({ callsMax: 1, waitersMax: 10, waitMsMax: 1 });
    await limit.enter();
    expect(await limit.enter()).toBe(false);
    limit.leave();
    expect(await limit.enter()).toBe(true);
  });

  test('refuses a call when too many wait', async () => {
    const limit = createCallLimit({ callsMax: 1, waitersMax: 1, waitMsMax: long });
    await limit.enter();
    const waiting = limit.enter();
    expect(await limit.enter()).toBe(false);
    limit.leave();
    expect(await waiting).toBe(true);
  });

  test('lets a call give up, before and while it waits, without taking a place', async () => {
    const limit = createCallLimit({ callsMax: 1, waitersMax: 10, waitMsMax: long });
    const leaving = new AbortController();
    await limit.enter();
    const waiting = limit.enter(leaving.signal);
    leaving.abort();
    expect(await waiting).toBe(false);
    expect(await limit.enter(leaving.signal)).toBe(false);
    limit.leave();
    expect(await limit.enter()).toBe(true);
  });
});
