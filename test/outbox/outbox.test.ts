import { array, assert, integer, property, record, string, uuid } from 'fast-check';
import { Partitioners } from 'kafkajs';
import { describe, expect, test } from 'vitest';
import { cutBatches, murmur2, partitionFor } from '#src/outbox/outbox.ts';
import type { OutboxRow } from '#src/outbox/outbox.ts';
import { row } from './outbox-fixture.ts';

const topic = 'any';
const kafkajsPartition = Partitioners.DefaultPartitioner();
const metadata = (count: number) =>
  Array.from({ length: count }, (_, partitionId) => ({
    partitionId,
    partitionErrorCode: 0,
    leader: 1,
    replicas: [1],
    isr: [1],
  }));

describe('the partition of a key', () => {
  test.each([
    ['21', -973932308],
    ['foobar', -790332482],
    ['a-little-bit-long-string', -985981536],
    ['a-little-bit-longer-string', -1486304829],
    ['lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8', -58897971],
    ['abc', 479470107],
  ])('has the hash that Kafka publishes for %s', (key, hash) => {
    expect(murmur2(key)).toBe(hash);
  });

  test('is the one that the default partitioner of kafkajs picks, for any text', () => {
    assert(
      property(
        string({ unit: 'binary', minLength: 1, maxLength: 80 }),
        integer({ min: 1, max: 200 }),
        (key, count) => {
          const partitionMetadata = metadata(count);
          const theirs = kafkajsPartition({
            topic,
            partitionMetadata,
            message: { key, value: '' },
          });
          expect(partitionFor(murmur2(key), count)).toBe(theirs);
        },
      ),
      { numRuns: 2000 },
    );
  });

  test('is the one that the default partitioner of kafkajs picks, for order ids', () => {
    assert(
      property(uuid(), integer({ min: 1, max: 1000 }), (key, count) => {
        const partitionMetadata = metadata(count);
        const theirs = kafkajsPartition({ topic, partitionMetadata, message: { key, value: '' } });
        expect(partitionFor(murmur2(key), count)).toBe(theirs);
      }),
    );
  });
});

/** Bytes that a message takes besides its payload. */
const ENVELOPE_BYTES = 1_024;

const ids = (rows: readonly OutboxRow[] | undefined) => rows?.map(({ id }) => id);

describe('cutting batches', () => {
  const bounds = { rowsMax: 3, bytesMax: 3 * (ENVELOPE_BYTES + 100) };

  test('ends a batch at the maximum number of rows', () => {
    const rows = [1, 2, 3, 4].map((id) => row(id, 0, 1));
    expect(ids(cutBatches(rows, 1, bounds).get(0))).toEqual([1, 2, 3]);
  });

  test('ends a batch at the maximum number of bytes, and takes no smaller row from behind', () => {
    const rows = [row(1, 0, 100), row(2, 0, 101), row(3, 0, 100), row(4, 0, 1)];
    expect(ids(cutBatches(rows, 1, bounds).get(0))).toEqual([1, 2]);
    expect(ids(cutBatches(rows, 1, { ...bounds, bytesMax: bounds.bytesMax + 1 }).get(0))).toEqual([
      1, 2, 3,
    ]);
  });

  test('counts bytes, not characters', () => {
    const wide = { ...row(2, 0, 0), payload: 'é'.repeat(100) };
    expect(ids(cutBatches([row(1, 0, 200), wide], 1, bounds).get(0))).toEqual([1, 2]);
    expect(ids(cutBatches([row(1, 0, 2_000), wide], 1, bounds).get(0))).toEqual([1]);
  });

  test('sends a row that is too large by itself', () => {
    const rows = [row(1, 0, 10_000), row(2, 0, 1)];
    expect(ids(cutBatches(rows, 1, bounds).get(0))).toEqual([1]);
  });

  test('makes a batch of the first rows of each partition, in their order', () => {
    const anyRow = record({ hash: integer(), payloadBytes: integer({ min: 0, max: 300 }) });
    assert(
      property(
        array(anyRow, { maxLength: 60 }),
        integer({ min: 1, max: 8 }),
        (shapes, partitions) => {
          const rows = shapes.map(({ hash, payloadBytes }, id) => row(id, hash, payloadBytes));
          const batches = cutBatches(rows, partitions, bounds);
          for (const [partition, batch] of batches) {
            const queue = rows.filter((r) => partitionFor(r.key_hash, partitions) === partition);
            expect(batch).toEqual(queue.slice(0, batch.length));
            expect(batch.length).toBeGreaterThan(0);
            expect(batch.length).toBeLessThanOrEqual(bounds.rowsMax);
          }
          const used = new Set(rows.map((r) => partitionFor(r.key_hash, partitions)));
          expect(new Set(batches.keys())).toEqual(used);
        },
      ),
    );
  });
});
