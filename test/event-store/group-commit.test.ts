import { describe, expect, test } from 'vitest';
import { WriteFailed } from '#src/event-store/event-store.ts';
import type {
  Loaded,
  StoredResponse,
  StoredEvent,
  Unit,
  UnitStore,
  Verdict,
} from '#src/event-store/event-store.ts';
import { createGroupCommit } from '#src/event-store/group-commit.ts';
import type { GroupCommitLimits, Work } from '#src/event-store/group-commit.ts';

type Write = Readonly<{
  names: string[];
  succeed(verdicts?: Verdict[]): void;
  fail(error: WriteFailed): void;
}>;

/** A unit that can be told from others. */
function unitNamed(name: string): Unit {
  return { appends: [{ streamId: name, category: 'test', expectedVersion: 0, events: [] }] };
}

function nameOf({ appends }: Unit): string {
  return appends[0]!.streamId;
}

/** A store whose writes wait until the test settles them. */
function createHeldStore() {
  const writes: Write[] = [];
  const loads: string[][] = [];
  let heard = Promise.withResolvers<void>();
  const store: UnitStore = {
    load: (streamIds) => {
      loads.push([...streamIds]);
      return Promise.resolve({ stream: (): StoredEvent[] => [], response: () => null });
    },
    write: (units) => {
      const { promise, resolve, reject } = Promise.withResolvers<Verdict[]>();
      writes.push({
        names: units.map(nameOf),
        succeed: (verdicts = units.map(() => 'ok')) => resolve(verdicts),
        fail: reject,
      });
      heard.resolve();
      heard = Promise.withResolvers();
      return promise;
    },
  };
  /** The nth write from 0, once it has come. */
  const nth = async (index: number): Promise<Write> => {
    while (!writes[index]) await heard.promise;
    return writes[index];
  };
  return { store, writes, loads, nth };
}

const limits: GroupCommitLimits = {
  batchMax: 3,
  slots: 2,
  queueMax: 5,
  streamMax: 5,
  reservedMax: 100,
  waitMaxMs: 60_000,
  oneByOneMsMax: 2_000,
  lockedMsMax: 1_000,
};

function setUp(overrides: Partial<GroupCommitLimits> = {}) {
  const held = createHeldStore();
  const committed: Unit[] = [];
  const retries: string[] = [];
  const failures: string[] = [];
  const commit = createGroupCommit(
    held.store,
    { ...limits, ...overrides },
    {
      committed: (units) => committed.push(...units),
      failed: ({ failure }, size) => failures.push(`${failure} ${size}`),
      retried: (reason) => retries.push(reason),
    },
  );
  const submit = (
    name: string,
    loads: string[] = [],
    attemptsMax = 3,
    options: Partial<Work<string>> = {},
  ) =>
    commit.submit({
      loads,
      attemptsMax,
      ...options,
      decide: () => ({ unit: unitNamed(name), result: `${name} done` }),
    });
  return { ...held, commit, submit, committed, retries, failures };
}

/** The result of each, or the name of its error. */
function settle(promises: Promise<string>[]) {
  return Promise.all(
    promises.map((promise) =>
      promise.then(
        (done) => done,
        (error: Error) => error.name,
      ),
    ),
  );
}

/** Lets the first `count` writes succeed, one after the other. */
async function succeedAll(nth: (index: number) => Promise<Write>, count: number) {
  for (let index = 0; index < count; index += 1) (await nth(index)).succeed();
}

describe('commands that arrive together', () => {
  test('share a batch up to its limit, and the rest take the second slot', async () => {
    const { submit, nth, writes } = setUp();
    const all = ['a', 'b', 'c', 'd', 'e'].map((name) => submit(name));
    expect((await nth(0)).names).toEqual(['a', 'b', 'c']);
    expect((await nth(1)).names).toEqual(['d', 'e']);
    writes[0]!.succeed();
    writes[1]!.succeed();
    expect(await Promise.all(all)).toEqual(['a', 'b', 'c', 'd', 'e'].map((n) => `${n} done`));
  });

  test('wait while both slots are taken, then share a batch', async () => {
    const { submit, nth, commit, writes } = setUp({ batchMax: 1 });
    const all = ['a', 'b', 'c'].map((name) => submit(name));
    await nth(1);
    expect(commit.waiting()).toBe(1);
    expect(writes).toHaveLength(2);
    writes[0]!.succeed();
    (await nth(2)).succeed();
    writes[1]!.succeed();
    await Promise.all(all);
  });
});

describe('one stream', () => {
  test('is in one unfinished batch at a time, and its next command decides on the settled state', async () => {
    const { submit, nth, writes, loads } = setUp();
    const first = submit('first', ['s']);
    const second = submit('second', ['s']);
    const other = submit('other', ['t']);
    expect((await nth(0)).names).toEqual(['first', 'other']);
    const third = submit('third', ['s']);
    expect(loads).toHaveLength(1);
    writes[0]!.succeed();
    await Promise.all([first, other]);
    expect((await nth(1)).names).toEqual(['second']);
    writes[1]!.succeed();
    await second;
    (await nth(2)).succeed();
    await third;
    expect(loads).toEqual([['s', 't'], ['s'], ['s']]);
  });
});

describe('a lost race', () => {
  test('is decided again before later commands', async () => {
    const { submit, nth, committed } = setUp({ slots: 1, batchMax: 1 });
    const loser = submit('loser', ['s']);
    const later = submit('later');
    (await nth(0)).succeed(['conflict']);
    expect((await nth(1)).names).toEqual(['loser']);
    (await nth(1)).succeed();
    (await nth(2)).succeed();
    await Promise.all([loser, later]);
    expect(committed.map(nameOf)).toEqual(['loser', 'later']);
  });

  test('is a VersionConflict if every attempt lost', async () => {
    const { submit, nth, committed, retries } = setUp();
    const loser = submit('loser', ['s'], 2);
    const told = settle([loser]);
    (await nth(0)).succeed(['conflict']);
    (await nth(1)).succeed(['conflict']);
    expect(await told).toEqual(['VersionConflict']);
    expect(committed).toEqual([]);
    expect(retries).toEqual(['lost_race']);
  });
});

describe('a command whose unit was refused', () => {
  test.each<Verdict>(['short', 'fenced', 'reference'])(
    'is decided again and told the verdict %s, and what it throws then concerns it alone',
    async (verdict) => {
      const { commit, submit, nth } = setUp();
      const told: (Verdict | undefined)[] = [];
      const refused = commit.submit({
        loads: [],
        attemptsMax: 3,
        decide: (_, refusedBy) => {
          told.push(refusedBy);
          if (refusedBy !== undefined) throw new Error(`refused: ${refusedBy}`);
          return { unit: unitNamed('refused'), result: 'done' };
        },
      });
      const all = Promise.all([submit('other'), refused.catch(({ message }: Error) => message)]);
      (await nth(0)).succeed([verdict, 'ok']);
      expect(await all).toEqual(['other done', `refused: ${verdict}`]);
      expect(told).toEqual([undefined, verdict]);
    },
  );
});

describe('a command that needs a row that another transaction has locked', () => {
  test('is decided again until the row is free, whatever attemptsMax is', async () => {
    const { submit, nth, retries } = setUp();
    const held = submit('held', ['s'], 1);
    for (const index of [0, 1, 2]) (await nth(index)).succeed(['locked']);
    (await nth(3)).succeed();
    expect(await held).toBe('held done');
    expect(retries).toEqual(['row_locked', 'row_locked', 'row_locked']);
  });

  test('delays no other command, not even on its stream', async () => {
    const { submit, commit, writes, nth } = setUp({ slots: 1 });
    const settled: string[] = [];
    const follow = async (command: Promise<string>) => void settled.push(await command);
    const held = follow(submit('held', ['s']));
    (await nth(0)).succeed(['locked']);
    const others = [submit('same stream', ['s']), submit('other')].map(follow);
    const verdicts = (names: readonly string[]) =>
      names.map((name) => (name === 'held' && settled.length < 2 ? 'locked' : 'ok'));
    for (let index = 1; settled.length < 3; index += 1) {
      const { names, succeed } = await nth(index);
      succeed(verdicts(names));
      await Promise.race([held, Promise.all(others), nth(index + 1)]);
    }
    await commit.idle();
    expect(settled.at(-1)).toBe('held done');
    expect(writes.length).toBeGreaterThan(2);
  });

  test('is rejected after lockedMsMax', async () => {
    const { submit, nth, failures } = setUp({ lockedMsMax: 0 });
    const all = settle([submit('held'), submit('free')]);
    (await nth(0)).succeed(['locked', 'ok']);
    expect(await all).toEqual(['RowsLocked', 'free done']);
    expect(failures).toEqual(['contended 1']);
  });
});

describe('a batch that failed', () => {
  test('is not written one by one for longer than its limit: the rest is rejected unwritten', async () => {
    const { submit, nth, writes, commit } = setUp({ oneByOneMsMax: 0 });
    const all = settle(['a', 'b'].map((name) => submit(name)));
    (await nth(0)).fail(new WriteFailed('contended', 'lock timeout'));
    expect(await all).toEqual(['StoreUnavailable', 'StoreUnavailable']);
    await commit.idle();
    expect(writes).toHaveLength(1);
  });

  test('is written one by one if a unit was refused, so that only this one fails', async () => {
    const { submit, nth, writes, retries } = setUp();
    const all = settle(['a', 'bad', 'c'].map((name) => submit(name)));
    (await nth(0)).fail(new WriteFailed('refused', 'check'));
    (await nth(1)).succeed();
    (await nth(2)).fail(new WriteFailed('refused', 'check'));
    (await nth(3)).succeed();
    expect(await all).toEqual(['a done', 'WriteFailed', 'c done']);
    expect(writes.map(({ names }) => names)).toEqual([['a', 'bad', 'c'], ['a'], ['bad'], ['c']]);
    expect(retries).toEqual(['batch_refused', 'batch_refused', 'batch_refused']);
  });

  test('is never sent again if its outcome is unknown', async () => {
    const { submit, nth, writes, commit, retries } = setUp();
    const all = settle(['a', 'b'].map((name) => submit(name)));
    (await nth(0)).fail(new WriteFailed('unknown', 'timeout'));
    expect(await all).toEqual(['CommandUncertain', 'CommandUncertain']);
    await commit.idle();
    expect(writes).toHaveLength(1);
    expect(retries).toEqual([]);
  });

  test('fails as a whole if the database was the cause', async () => {
    const { submit, nth, writes, commit } = setUp();
    const all = settle(['a', 'b'].map((name) => submit(name)));
    (await nth(0)).fail(new WriteFailed('not_applied', 'disk full'));
    expect(await all).toEqual(['StoreUnavailable', 'StoreUnavailable']);
    await commit.idle();
    expect(writes).toHaveLength(1);
  });

  test('frees its slot and its streams', async () => {
    const { submit, nth } = setUp({ slots: 1 });
    const failed = settle([submit('a', ['s'])]);
    (await nth(0)).fail(new WriteFailed('unknown', 'timeout'));
    await failed;
    const next = submit('b', ['s']);
    (await nth(1)).succeed();
    expect(await next).toBe('b done');
  });
});

describe('a queue that is full', () => {
  test('rejects the next command and keeps those it has', async () => {
    const { submit, nth, writes } = setUp({ slots: 1, batchMax: 1, queueMax: 2 });
    const first = submit('first');
    await nth(0);
    const waiting = [submit('a'), submit('b')];
    await expect(submit('one too many')).rejects.toThrow(
      expect.objectContaining({ name: 'CommandOverloaded' }),
    );
    writes[0]!.succeed();
    (await nth(1)).succeed();
    (await nth(2)).succeed();
    expect(await Promise.all([first, ...waiting])).toEqual(['first done', 'a done', 'b done']);
  });

  test('rejects a command that waited too long, before it is sent', async () => {
    const { submit, writes, commit } = setUp({ slots: 1, batchMax: 1, waitMaxMs: 0 });
    const first = submit('first').catch((error: Error) => error.name);
    const late = submit('late').catch((error: Error) => error.name);
    await Promise.all([first, late]);
    expect(await first).toBe('CommandOverloaded');
    expect(await late).toBe('CommandOverloaded');
    await commit.idle();
    expect(writes).toEqual([]);
  });
});

describe('the queue', () => {
  test('limits the commands of one stream and keeps the rest of its room for others', async () => {
    const { submit, nth, commit } = setUp({
      slots: 1,
      batchMax: 1,
      queueMax: 5,
      streamMax: 2,
    });
    const first = submit('first', ['hot']);
    await nth(0);
    const hot = settle(['a', 'b', 'c', 'd'].map((name) => submit(name, ['hot'])));
    const others = settle([submit('x', ['x']), submit('y'), submit('z', ['z', 'x'])]);
    expect(commit.waiting()).toBe(5);
    await succeedAll(nth, 6);
    expect(await hot).toEqual(['a done', 'b done', 'CommandOverloaded', 'CommandOverloaded']);
    expect(await others).toEqual(['x done', 'y done', 'z done']);
    expect(await first).toBe('first done');
  });

  test('frees the share of a stream when its commands leave', async () => {
    const { submit, nth } = setUp({ slots: 1, batchMax: 1, streamMax: 1 });
    for (let round = 0; round < 3; round += 1) {
      const loser = submit('loser', ['hot']);
      (await nth(2 * round)).succeed(['conflict']);
      (await nth(2 * round + 1)).succeed();
      expect(await loser).toBe('loser done');
    }
  });

  test('has reserved room, which is limited too', async () => {
    const { submit, nth } = setUp({
      slots: 1,
      batchMax: 1,
      queueMax: 1,
      streamMax: 1,
      reservedMax: 2,
    });
    const first = submit('first');
    await nth(0);
    const fact = (name: string) => submit(name, ['hot'], 3, { hasReservedRoom: true });
    const waiting = settle([submit('a', ['hot']), submit('b'), fact('f1'), fact('f2'), fact('f3')]);
    await succeedAll(nth, 4);
    await first;
    const rejected = 'CommandOverloaded';
    expect(await waiting).toEqual(['a done', rejected, 'f1 done', 'f2 done', rejected]);
  });
});

test('a command that waits too long is rejected while every slot is taken', async () => {
  const { submit, nth, writes } = setUp({ slots: 1, batchMax: 1, waitMaxMs: 500 });
  const first = submit('first');
  await nth(0);
  expect(await settle([submit('late')])).toEqual(['CommandOverloaded']);
  writes[0]!.succeed();
  expect(await first).toBe('first done');
});

describe('a key that is assumed to be new', () => {
  const stored = { requestHash: Buffer.of(), status: 201, etag: null, location: null, body: '' };
  const key = { principal: 'p', key: 'k' };
  const decide = (loaded: Loaded) => {
    if (loaded.response(key)) return { result: 'replayed' };
    throw new RangeError('no');
  };
  const setUpResponse = (response: StoredResponse | null) => {
    const looks: string[][] = [];
    const store: UnitStore = {
      load: (_, keys) => {
        looks.push(keys.map((ref) => ref.key));
        return Promise.resolve({ stream: () => [], response: () => response });
      },
      write: (units) => Promise.resolve(units.map(() => 'ok')),
    };
    const commit = createGroupCommit(store, limits, { committed: () => {}, failed: () => {} });
    const submit = (work: Partial<Work<string>>) =>
      commit.submit({ loads: [], key, assumeNewKey: true, attemptsMax: 1, decide, ...work });
    return { looks, submit };
  };
  test('is looked up before the command is rejected', async () => {
    const { looks, submit } = setUpResponse(stored);
    expect(await submit({})).toBe('replayed');
    expect(looks).toEqual([['k']]);
  });

  test('is looked up once, and the command is rejected if the key is new', async () => {
    const { looks, submit } = setUpResponse(null);
    await expect(submit({})).rejects.toThrow(RangeError);
    expect(looks).toEqual([['k']]);
  });

  test('is not looked up if there is a unit to write', async () => {
    const { looks, submit } = setUpResponse(null);
    const unit = unitNamed('new');
    expect(await submit({ decide: () => ({ unit, result: 'written' }) })).toBe('written');
    expect(looks).toEqual([]);
  });
});

test('a command whose decision throws does not affect the others of its batch', async () => {
  const { submit, commit, nth } = setUp();
  const refused = commit.submit({
    loads: [],
    attemptsMax: 1,
    decide: () => {
      throw new RangeError('no');
    },
  });
  const fine = submit('fine');
  await expect(refused).rejects.toThrow(RangeError);
  (await nth(0)).succeed();
  expect(await fine).toBe('fine done');
});
