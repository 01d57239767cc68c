import { assert, integer, property, string, uuid } from 'fast-check';
import { Partitioners } from 'kafkajs';
import { describe, expect, test } from 'vitest';
import { murmur2, partitionFor } from '#src/outbox/outbox.ts';

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
