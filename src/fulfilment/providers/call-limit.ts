/** How many calls may run at once, and how many may wait for a place, and how long. */
export type CallLimitBounds = Readonly<{
  callsMax: number;
  waitersMax: number;
  waitMsMax: number;
}>;

/** Keeps one slow provider from taking the whole service. Whoever enters must leave. */
export type CallLimit = Readonly<{
  /** True once there is a place; false if none came free in time or `signal` gave up. */
  enter(signal?: AbortSignal): Promise<boolean>;
  leave(): void;
}>;

/** First come, first served. */
export function createCallLimit({ callsMax, waitersMax, waitMsMax }: CallLimitBounds): CallLimit {
  const waiting = new Set<() => void>();
  let underWay = 0;

  const wait = (signal: AbortSignal | undefined) => {
    const { promise, resolve } = Promise.withResolvers<boolean>();
    const settle = (entered: boolean) => {
      waiting.delete(admit);
      clearTimeout(timer);
      signal?.removeEventListener('abort', giveUp);
      resolve(entered);
    };
    const admit = () => settle(true);
    const giveUp = () => settle(false);
    const timer = setTimeout(giveUp, waitMsMax);
    signal?.addEventListener('abort', giveUp, { once: true });
    waiting.add(admit);
    return promise;
  };

  return {
    enter: async (signal) => {
      if (signal?.aborted) return false;
      if (underWay < callsMax) {
        underWay += 1;
        return true;
      }
      return waiting.size < waitersMax && (await wait(signal));
    },
    leave: () => {
      const [next] = waiting;
      if (next) next();
      else underWay -= 1;
    },
  };
}
