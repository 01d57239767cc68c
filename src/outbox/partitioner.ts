const SEED = 0x9747b28c;
const MULTIPLIER = 0x5bd1e995;
const SHIFT = 24;
const MAX_POSITIVE = 0x7fffffff;

/**
 * The murmur2 hash of a message key as Kafka's Java client computes it: signed, 32 bits, over the
 * UTF-8 bytes. Every client that follows Java's default then finds a key in the same partition.
 */
export function murmur2(key: string): number {
  const bytes = Buffer.from(key);
  const tail = bytes.length - (bytes.length % 4);
  let hash = SEED ^ bytes.length;
  for (let at = 0; at < tail; at += 4) {
    hash = Math.imul(hash, MULTIPLIER) ^ mixed(bytes.readInt32LE(at));
  }
  if (tail < bytes.length) {
    hash = Math.imul(hash ^ bytes.readUIntLE(tail, bytes.length - tail), MULTIPLIER);
  }
  hash = Math.imul(hash ^ (hash >>> 13), MULTIPLIER);
  return hash ^ (hash >>> 15);
}

/** The partition, from 0, of a key with this hash in a topic of `count` partitions. */
export function partitionFor(hash: number, count: number): number {
  return (hash & MAX_POSITIVE) % count;
}

function mixed(word: number): number {
  const product = Math.imul(word, MULTIPLIER);
  return Math.imul(product ^ (product >>> SHIFT), MULTIPLIER);
}
