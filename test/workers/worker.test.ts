import { assert, double, integer, property } from 'fast-check';
import { describe, expect, test } from 'vitest';
import { createWorker, fullJitterMs } from '#src/workers/worker.ts';
import type { WorkerOptions } from '#src/workers/worker.ts';

/** Far longer than any test: a wait of it never ends by itself. */
const FOREVER_MS = 1_000_000;

type TickResult = Readonly<{ done: number }> | Readonly<{ error: unknown }>;

/** A worker whose ticks do as scripted and then nothing, what became of them and what it logged. */
function scripted(script: (number | Error)[], options: Partial<WorkerOptions> = {}) {
  const logged: string[] = [];
  const results: TickResult[] = [];
  let reached: { count: number; resolve: () => void } | undefined;
  const follow = async () => {
    const next = script.shift() ?? 0;
    if (next instanceof Error) throw next;
    return next;
  };
  const { tick = follow, ...others } = options;
  const record = (result: TickResult) => {
    results.push(result);
    if (results.length === reached?.count) setImmediate(reached.resolve); // the worker waits by then
  };
  const worker = createWorker({
    name: 'test',
    tick: async (signal) => {
      try {
        const done = (await tick(signal)) || 0;
        record({ done });
        return done;
      } catch (error) {
        record({ error });
        throw error;
      }
    },
    idleMs: FOREVER_MS,
    errorBackoff: { baseMs: 1, maxMs: 1 },
    log: {
      info: (_: unknown, text?: string) => logged.push(`info ${text}`),
      error: (_: unknown, text?: string) => logged.push(`error ${text}`),
    },
    ...others,
  });
  const ticks = (count: number) =>
    new Promise<void>((resolve) => {
      reached = { count, resolve };
      if (results.length >= count) setImmediate(resolve);
    });
  return { worker, logged, results, ticks };
}

describe('a worker', () => {
  test('ticks again at once while there is something to do, and then waits', async () => {
    const { worker, results, ticks } = scripted([3, 1]);
    worker.start();
    await ticks(3);
    await worker.stop();
    expect(results).toEqual([{ done: 3 }, { done: 1 }, { done: 0 }]);
  });

  test('ends its idle wait when it is woken', async () => {
    const { worker, results, ticks } = scripted([]);
    worker.start();
    await ticks(1);
    worker.wake();
    await ticks(2);
    await worker.stop();
    expect(results).toHaveLength(2);
  });

  test('remembers a wake that comes during a tick', async () => {
    const inTick = Promise.withResolvers<void>();
    const mayEnd = Promise.withResolvers<void>();
    const { worker, results, ticks } = scripted([], {
      tick: async () => {
        inTick.resolve();
        await mayEnd.promise;
        return 0;
      },
    });
    worker.start();
    await inTick.promise;
    worker.wake();
    mayEnd.resolve();
    await ticks(2);
    await worker.stop();
    expect(results).toHaveLength(2);
  });

  test('continues after failures, and logs the first of several in a row', async () => {
    const { worker, logged, ticks } = scripted([new Error('a'), new Error('b'), 0, new Error('c')]);
    worker.start();
    await ticks(3);
    worker.wake();
    await ticks(5);
    await worker.stop();
    expect(logged).toEqual([
      'error worker failed, retrying',
      'info worker recovered',
      'error worker failed, retrying',
      'info worker recovered',
    ]);
  });

  test('returns the error of its last tick until a tick succeeds', async () => {
    const script = [new Error('a'), new Error('b'), 1];
    const errors: unknown[] = [];
    const { worker, ticks } = scripted([], {
      tick: async () => {
        errors.push(worker.lastError());
        const next = script.shift() ?? 0;
        if (next instanceof Error) throw next;
        return next;
      },
    });
    worker.start();
    await ticks(4);
    await worker.stop();
    expect(errors).toEqual([undefined, 'Error: a', 'Error: b', undefined]);
  });

  test('does not shorten the wait after a failure when it is woken', async () => {
    const { worker, results, ticks } = scripted([new Error('a')], {
      errorBackoff: { baseMs: FOREVER_MS, maxMs: FOREVER_MS },
    });
    worker.start();
    await ticks(1);
    worker.wake();
    await new Promise((resolve) => setImmediate(resolve));
    await worker.stop();
    expect(results).toHaveLength(1);
  });

  test('aborts the signal of the running tick on stop, and waits for it', async () => {
    const inTick = Promise.withResolvers<AbortSignal>();
    const mayEnd = Promise.withResolvers<void>();
    const order: string[] = [];
    const { worker } = scripted([], {
      tick: async (signal) => {
        inTick.resolve(signal);
        await mayEnd.promise;
        order.push('tick ended');
        return 1;
      },
    });
    worker.start();
    const signal = await inTick.promise;
    const stopped = worker.stop().then(() => order.push('stopped'));
    expect(signal.aborted).toBe(true);
    mayEnd.resolve();
    await stopped;
    expect(order).toEqual(['tick ended', 'stopped']);
  });

  test('stops during an idle wait, during the wait after a failure, and if it was never started', async () => {
    const idle = scripted([]);
    const failed = scripted([new Error('a')], {
      errorBackoff: { baseMs: FOREVER_MS, maxMs: FOREVER_MS },
    });
    for (const { worker, ticks } of [idle, failed]) {
      worker.start();
      await ticks(1);
      await worker.stop();
    }
    await scripted([]).worker.stop();
    expect(idle.results).toHaveLength(1);
    expect(failed.results).toHaveLength(1);
  });

  test('never runs two ticks at once, however often it is started and woken', async () => {
    let atOnce = 0;
    let most = 0;
    const { worker, ticks } = scripted([], {
      tick: async () => {
        atOnce += 1;
        most = Math.max(most, atOnce);
        await new Promise((resolve) => setImmediate(resolve));
        atOnce -= 1;
        worker.wake();
        return 0;
      },
    });
    worker.start();
    worker.start();
    await ticks(20);
    await worker.stop();
    expect(most).toBe(1);
  });
});

describe('the wait after failures', () => {
  test('is random below a bound that doubles up to its cap', () => {
    assert(
      property(
        integer({ min: 1, max: 2_000 }),
        double({ min: 1, max: 1_000, noNaN: true }),
        double({ min: 1, max: 60_000, noNaN: true }),
        (failures, baseMs, maxMs) => {
          const waitMs = fullJitterMs(failures, { baseMs, maxMs });
          expect(waitMs).toBeGreaterThanOrEqual(0);
          expect(waitMs).toBeLessThanOrEqual(Math.min(maxMs, baseMs * 2 ** (failures - 1)));
        },
      ),
    );
  });
});
