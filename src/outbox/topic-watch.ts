import type { Logger } from 'pino';
import { createWorker } from '#src/workers/worker.ts';
import type { Backoff } from '#src/workers/worker.ts';
import type { Publisher, TopicLimits } from './outbox.ts';
import type { OutboxStore } from './outbox-store.ts';

export type TopicWatchOptions = Readonly<{
  topic: string;
  publisher: Pick<Publisher, 'openTopic'>;
  store: Pick<OutboxStore, 'rememberPartitions' | 'hasOtherTopics'>;
  /** The leader's epoch; nothing is watched without one. */
  epoch: () => number | undefined;
  checkMs: number;
  backoff: Backoff;
  /** The largest batch that the relay builds, in bytes. */
  batchBytesMax: number;
  log: Pick<Logger, 'info' | 'warn' | 'error'>;
  onReady: () => void;
}>;

export type TopicWatch = Readonly<{
  start(): void;
  wake(): void;
  stop(): Promise<void>;
  /** What the topic allows, once seen in this epoch; undefined also while `stoppedReason` is set. */
  limits(epoch: number): TopicLimits | undefined;
  stoppedReason(): string | undefined;
  lastError(): string | undefined;
}>;

type Seen = Readonly<{ epoch: number; limits: TopicLimits; partitionsExpected: number }>;

/** Opens the topic for a new leader and looks at it from time to time: it may have grown. */
export function createTopicWatch(options: TopicWatchOptions): TopicWatch {
  const { topic, publisher, store, checkMs, backoff, log, onReady } = options;
  let seen: Seen | undefined;
  let lastError: string | undefined;

  const look = async () => {
    const epoch = options.epoch();
    if (epoch === undefined) return 0;
    const limits = await publisher.openTopic(topic);
    const partitionsExpected = await store.rememberPartitions(limits.partitions);
    const before = seen;
    seen = isSame(before, { epoch, limits, partitionsExpected })
      ? before
      : { epoch, limits, partitionsExpected };
    if (seen === before) return 0;
    await report(seen);
    onReady();
    return 0;
  };

  const report = async ({ limits, partitionsExpected }: Seen) => {
    if (isChanged(seen)) {
      log.error(
        { topic, partitions: limits.partitions, partitionsExpected },
        'relay stopped: the topic has another number of partitions',
      );
    }
    if (limits.batchBytesMax < options.batchBytesMax) {
      log.warn({ topic, ...limits }, 'the topic takes smaller batches than usual');
    }
    if (await store.hasOtherTopics()) {
      log.warn({ topic }, 'the outbox holds events for other topics, which are not published');
    }
  };

  const worker = createWorker({
    name: `topic ${topic}`,
    tick: look,
    idleMs: checkMs,
    errorBackoff: backoff,
    log,
    onTick: (result) => {
      lastError = 'error' in result ? String(result.error) : undefined;
    },
  });

  return {
    start: worker.start,
    wake: worker.wake,
    stop: worker.stop,
    limits: (epoch) => (seen?.epoch === epoch && !isChanged(seen) ? seen.limits : undefined),
    stoppedReason: () => (isChanged(seen) ? 'partitions_changed' : undefined),
    lastError: () => lastError,
  };
}

function isChanged(seen: Seen | undefined): boolean {
  return seen !== undefined && seen.limits.partitions !== seen.partitionsExpected;
}

function isSame(before: Seen | undefined, now: Seen): before is Seen {
  return (
    before?.epoch === now.epoch &&
    before.partitionsExpected === now.partitionsExpected &&
    before.limits.partitions === now.limits.partitions &&
    before.limits.batchBytesMax === now.limits.batchBytesMax
  );
}
