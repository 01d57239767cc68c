/**
 * Shares one answer among all who ask while it is under way, and for `keptMs` after it came: however
 * many ask, `ask` runs once at a time. A failure is shared too, and not kept.
 */
export function keepForAMoment<T>(ask: () => Promise<T>, keptMs: number): () => Promise<T> {
  let latest: Promise<T> | undefined;
  let untilMs = 0;
  const askAnew = async () => {
    untilMs = Number.POSITIVE_INFINITY;
    try {
      const answer = await ask();
      untilMs = performance.now() + keptMs;
      return answer;
    } catch (error) {
      untilMs = 0;
      throw error;
    }
  };
  return () => {
    if (latest === undefined || performance.now() >= untilMs) latest = askAnew();
    return latest;
  };
}
