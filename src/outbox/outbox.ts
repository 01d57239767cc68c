import type { OutboxMessageRow } from '#src/event-store/event-store.ts';

const MURMUR2_SEED = 0x9747b28c;
const MURMUR2_MULTIPLIER = 0x5bd1e995;
const MURMUR2_SHIFT = 24;
const MAX_POSITIVE = 0x7fffffff;
/** Bytes that a message takes in a request besides its payload: key, headers, framing. */
const ENVELOPE_BYTES = 1_024;

/** A row of `outbox_events`, as far as the relay reads it: a message that Kafka has not acknowledged yet. */
export type OutboxRow = Readonly<{ id: number; ce_specversion: string; content_type: string }> &
  Omit<
    OutboxMessageRow,
    'aggregate_type' | 'aggregate_id' | 'event_type' | 'stream_version' | 'topic'
  >;

/** A message as it goes to Kafka: a CloudEvent in binary mode. */
export type OutboxMessage = Readonly<{
  key: string;
  value: string;
  headers: Readonly<Record<string, string>>;
}>;

/** Builds the message of a row. */
export function messageFrom(row: Omit<OutboxRow, 'id' | 'key_hash'>): OutboxMessage {
  return {
    key: row.message_key,
    value: row.payload,
    headers: {
      ce_specversion: row.ce_specversion,
      ce_id: row.ce_id,
      ce_type: row.ce_type,
      ce_source: row.ce_source,
      ce_time: row.ce_time,
      ce_subject: row.ce_subject,
      ce_sequence: row.ce_sequence,
      'content-type': row.content_type,
      ...(row.traceparent !== null && { traceparent: row.traceparent }),
    },
  };
}

/**
 * The murmur2 hash of a message key as Kafka's Java client computes it: signed, 32 bits, over the
 * UTF-8 bytes. Every client that follows Java's default then uses the same partition for a key.
 */
export function murmur2(key: string): number {
  const bytes = Buffer.from(key);
  const tail = bytes.length - (bytes.length % 4);
  let hash = MURMUR2_SEED ^ bytes.length;
  for (let at = 0; at < tail; at += 4) {
    hash = Math.imul(hash, MURMUR2_MULTIPLIER) ^ mixed(bytes.readInt32LE(at));
  }
  if (tail < bytes.length) {
    hash = Math.imul(hash ^ bytes.readUIntLE(tail, bytes.length - tail), MURMUR2_MULTIPLIER);
  }
  hash = Math.imul(hash ^ (hash >>> 13), MURMUR2_MULTIPLIER);
  return hash ^ (hash >>> 15);
}

/** The partition, from 0, of a key with this hash in a topic of `count` partitions. */
export function partitionFor(hash: number, count: number): number {
  return (hash & MAX_POSITIVE) % count;
}

function mixed(word: number): number {
  const product = Math.imul(word, MURMUR2_MULTIPLIER);
  return Math.imul(product ^ (product >>> MURMUR2_SHIFT), MURMUR2_MULTIPLIER);
}

/**
 * Cuts the first batch of each partition from rows in the order to send. A batch ends at the first
 * row that does not fit: a smaller row behind it may have the same key and must not overtake it. A
 * row that is too large by itself makes a batch of one.
 */
export function cutBatches(
  rows: readonly OutboxRow[],
  partitions: number,
  { rowsMax, bytesMax }: Readonly<{ rowsMax: number; bytesMax: number }>,
): Map<number, OutboxRow[]> {
  const batches = Map.groupBy(rows, (row) => partitionFor(row.key_hash, partitions));
  for (const batch of batches.values()) {
    let bytes = 0;
    const end = batch.findIndex((row, index) => {
      bytes += Buffer.byteLength(row.payload) + ENVELOPE_BYTES;
      return index === rowsMax || (index > 0 && bytes > bytesMax);
    });
    if (end !== -1) batch.length = end;
  }
  return batches;
}

/** The limits of a topic. */
export type TopicLimits = Readonly<{
  partitions: number;
  /** The largest batch that the brokers accept, in bytes. */
  batchBytesMax: number;
}>;

/**
 * What became of a batch. `acked`: it is in the topic. `refused`: it is not, because Kafka can
 * never store one of its records. `unknown`: it may be in the topic or not, or arrive there later.
 */
export type PublishOutcome =
  | Readonly<{ kind: 'acked' }>
  | Readonly<{ kind: 'refused'; reason: string }>
  | Readonly<{ kind: 'unknown'; reason: string }>;

/** A batch for one partition. Kafka stores all of it or nothing. */
export type PublishRequest = Readonly<{
  topic: string;
  partition: number;
  messages: readonly OutboxMessage[];
  /** After this time the send is aborted and its outcome is `unknown`. */
  timeoutMs: number;
}>;

/** The port to Kafka. The caller must have at most one batch per partition in flight. */
export type Publisher = Readonly<{
  /**
   * Creates the topic if it is missing.
   * @throws when the brokers cannot be reached
   */
  openTopic(topic: string): Promise<TopicLimits>;
  /** Never throws. */
  publish(request: PublishRequest): Promise<PublishOutcome>;
  /** Ends all connections at once: nothing that was started sends another byte. */
  abort(): void;
  close(): Promise<void>;
}>;
