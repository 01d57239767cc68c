import { setTimeout as delay } from 'node:timers/promises';

/**
 * Repeats the check until it neither throws nor returns false, and returns its value.
 * @throws an Error with the last failure of the check if the deadline passes
 */
export async function eventually<T>(
  check: () => T | Promise<T>,
  { withinMs = 60_000, everyMs = 25 }: Readonly<{ withinMs?: number; everyMs?: number }> = {},
): Promise<T> {
  const deadline = performance.now() + withinMs;
  for (;;) {
    let failure: unknown = 'the check returns false';
    try {
      const value = await check();
      if (value !== false) return value;
    } catch (error) {
      failure = error;
    }
    if (performance.now() > deadline) {
      throw new Error(`not within ${withinMs} ms: ${String(failure)}`, { cause: failure });
    }
    await delay(everyMs);
  }
}
