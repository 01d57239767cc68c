import type { Backoff } from '#src/workers/worker.ts';

/** How the relay paces itself. The defaults are for production; tests shorten the waits. */
export type RelaySettings = Readonly<{
  /** After a leader was killed, the next one starts this much later at most. */
  leaseTtlMs: number;
  leasePollMs: number;
  /** A batch without an answer for so long is cut off. Half the lease, so that a late renewal does no harm. */
  sendTimeoutMs: number;
  /** Longest wait for a wake: how late events of other replicas are found. */
  idleMs: number;
  /** Least time between the starts of two rounds while there is no backlog, so that batches fill. */
  roundMs: number;
  /** How long a round waits for a slow partition before it goes on with the others. */
  patienceMs: number;
  /** How often the topic is looked at for new partitions. */
  topicCheckMs: number;
  /** Rest of a partition, and of the whole relay, after failures. */
  backoff: Backoff;
  /** How long a stop may take. */
  stopMs: number;
  /** Rows and payload read in a round, and sent in one request. */
  roundRowsMax: number;
  roundBytesMax: number;
  batchRowsMax: number;
  batchBytesMax: number;
}>;

export const relayDefaults: RelaySettings = {
  leaseTtlMs: 8_000,
  leasePollMs: 1_000,
  sendTimeoutMs: 4_000,
  idleMs: 200,
  roundMs: 20,
  patienceMs: 250,
  topicCheckMs: 10_000,
  backoff: { baseMs: 200, maxMs: 5_000 },
  stopMs: 3_000,
  roundRowsMax: 2_000,
  roundBytesMax: 4 * 1024 * 1024,
  batchRowsMax: 500,
  batchBytesMax: 768 * 1024,
};
