import type { OutboxRow } from './outbox.ts';
import { partitionFor } from './partitioner.ts';

/** What a message takes in a request besides its payload: key, headers, framing. */
const ENVELOPE_BYTES = 1_024;

/** What one request to Kafka may hold. Encoding it blocks the event loop, which HTTP shares. */
export type BatchBounds = Readonly<{ rowsMax: number; bytesMax: number }>;

/**
 * Cuts the first batch of each partition from rows in id order. A batch ends at the first row that does
 * not fit: a later, smaller one of the same key must not overtake it. A row that is too large by itself
 * makes a batch of one.
 */
export function cutBatches(
  rows: readonly OutboxRow[],
  partitions: number,
  bounds: BatchBounds,
): Map<number, OutboxRow[]> {
  const byPartition = Map.groupBy(rows, (row) => partitionFor(row.key_hash, partitions));
  return new Map([...byPartition].map(([partition, queue]) => [partition, head(queue, bounds)]));
}

function head(queue: OutboxRow[], { rowsMax, bytesMax }: BatchBounds): OutboxRow[] {
  let bytes = 0;
  const end = queue.findIndex((row, index) => {
    bytes += Buffer.byteLength(row.payload) + ENVELOPE_BYTES;
    return index === rowsMax || (index > 0 && bytes > bytesMax);
  });
  return end === -1 ? queue : queue.slice(0, end);
}
