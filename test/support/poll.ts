import { setTimeout as delay } from 'node:timers/promises';

/**
 * Repeats the check until it neither throws nor answers false, and answers its value.
 * @throws at the deadline, with what the check said last
 */
export async function eventually<T>(
  check: () => T | Promise<T>,
  { withinMs = 60_000, everyMs = 25 }: Readonly<{ withinMs?: number; everyMs?: number }> = {},
): Promise<T> {
  const deadline = performance.now() + withinMs;
  for (;;) {
    let failure: unknown = 'the check answers false';
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
