import { array, assert, integer, property, record } from 'fast-check';
import { describe, expect, test } from 'vitest';
import { partitionFor } from '#src/outbox/outbox.ts';
import type { OutboxRow } from '#src/outbox/outbox.ts';
import { createRounds, cutBatches } from '#src/outbox/relay-rounds.ts';
import { relayDefaults } from '#src/outbox/relay.ts';
import { quiet } from './outbox-fixture.ts';

/** Bytes that a message takes besides its payload. */
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

const PARTITIONS = 3;
/** A rest that lasts longer than the test, whatever chance makes of it. */
const LONG_REST = { baseMs: 1e12, maxMs: 1e12 };

test('a leader reads nothing while no partition is available', async () => {
  const excluded: (readonly number[])[] = [];
  const rounds = createRounds({
    topic: 'topic',
    epoch: 1,
    limits: { partitions: PARTITIONS, batchBytesMax: 1_000_000 },
    settings: { ...relayDefaults, backoff: LONG_REST, roundIntervalMs: 0 },
    store: {
      waiting: async (window) => {
        excluded.push(window.excluded);
        const id = excluded.length - 1;
        return [row(id, id, 2)]; // of one partition after the other
      },
      remove: async () => {},
      park: async () => false,
    },
    publisher: { publish: async () => ({ kind: 'unknown', reason: 'Kafka is away' }) },
    lowestId: () => 0,
    maySend: () => true,
    metrics: { published: () => {}, publishFailed: () => {} },
    log: quiet,
  });
  for (let round = 0; round < 6; round += 1) await rounds.run(new AbortController().signal);
  // With a filter that no row passes, the whole backlog would be scanned again and again.
  expect(excluded).toEqual([[], [0], [0, 1]]);
  expect(rounds.failure()).toBe('Kafka is away');
});
