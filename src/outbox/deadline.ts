/** Settles as `work` does, or after `timeoutMs` as `onTimeout` says; `work` then goes on unheard. */
export function withDeadline<T>(
  work: Promise<T>,
  timeoutMs: number,
  onTimeout: () => T | Promise<T>,
): Promise<T> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => resolve(onTimeout()), timeoutMs);
    work.then(resolve, reject).finally(() => clearTimeout(timer));
  });
}

/** Waits for all of `work`, but not longer than `timeoutMs`. */
export async function waitAtMost(
  timeoutMs: number,
  work: Iterable<Promise<unknown>>,
): Promise<void> {
  await withDeadline<unknown>(Promise.all(work), timeoutMs, () => undefined);
}
