/**
 * Shares one read among all callers that ask while it is running, and for `keptMs` after it. Only one
 * read runs at a time. A failed read is shared by those who waited for it, and is not kept.
 */
export function cachedRead<T>(read: () => Promise<T>, keptMs: number): () => Promise<T> {
  let latest: Promise<T> | undefined;
  let keptUntilMs = 0;
  const readAgain = async () => {
    keptUntilMs = Number.POSITIVE_INFINITY;
    try {
      const result = await read();
      keptUntilMs = performance.now() + keptMs;
      return result;
    } catch (error) {
      keptUntilMs = 0;
      throw error;
    }
  };
  return () => {
    if (latest === undefined || performance.now() >= keptUntilMs) latest = readAgain();
    return latest;
  };
}
