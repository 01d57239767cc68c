import { array, assert, integer, property, record } from 'fast-check';
import { describe, expect, test } from 'vitest';
import { cutBatches } from '#src/outbox/batches.ts';
import type { OutboxRow } from '#src/outbox/outbox.ts';
import { partitionFor } from '#src/outbox/partitioner.ts';

/** What a message takes besides its payload. */
const ENVELOPE_BYTES = 1_024;

function row(id: number, key_hash: number, payloadBytes: number): OutboxRow {
  return {
    id,
    key_hash,
    message_key: String(key_hash),
    payload: 'x'.repeat(payloadBytes),
    ce_specversion: '1.0',
    ce_id: String(id),
    ce_type: 'order.placed',
    ce_source: '/orders',
    ce_time: '2026-01-02T03:04:05.678Z',
    ce_subject: String(key_hash),
    ce_sequence: '0000000001',
    content_type: 'application/json',
    traceparent: null,
  };
}

const ids = (rows: readonly OutboxRow[] | undefined) => rows?.map(({ id }) => id);

describe('cutting batches', () => {
  const bounds = { rowsMax: 3, bytesMax: 3 * (ENVELOPE_BYTES + 100) };

  test('ends a batch at the most rows it may have', () => {
    const rows = [1, 2, 3, 4].map((id) => row(id, 0, 1));
    expect(ids(cutBatches(rows, 1, bounds).get(0))).toEqual([1, 2, 3]);
  });

  test('ends a batch at the most bytes it may have, and takes nothing smaller from behind', () => {
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

  test('makes of each partition the start of its rows, in their order', () => {
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
