import { expect, test } from 'vitest';
import type { OutboxRow } from '#src/outbox/outbox.ts';
import { relayDefaults } from '#src/outbox/relay-settings.ts';
import { createRelayTerm } from '#src/outbox/relay-term.ts';
import { quiet } from './outbox-fixture.ts';

const PARTITIONS = 3;
/** A rest that lasts longer than the test, whatever chance makes of it. */
const LONG_REST = { baseMs: 1e12, maxMs: 1e12 };

function row(id: number): OutboxRow {
  return {
    id,
    message_key: `key-${id}`,
    key_hash: id,
    ce_specversion: '1.0',
    ce_id: `key-${id}:1`,
    ce_type: 'order.placed',
    ce_source: '/orders',
    ce_time: '2026-01-02T03:04:05.678Z',
    ce_subject: `key-${id}`,
    ce_sequence: '0000000001',
    content_type: 'application/json',
    traceparent: null,
    payload: '{}',
  };
}

test('a leader reads nothing while there is no partition that it could send to', async () => {
  const excluded: (readonly number[])[] = [];
  const term = createRelayTerm({
    limits: { partitions: PARTITIONS, batchBytesMax: 1_000_000 },
    settings: { ...relayDefaults, backoff: LONG_REST, roundMs: 0 },
    store: {
      waiting: async (window) => {
        excluded.push(window.excluded);
        return [row(excluded.length - 1)]; // of one partition after the other
      },
      remove: async () => {},
    },
    send: async () => ({ acked: [], failure: 'Kafka is away' }),
    lowestId: () => 0,
    log: quiet,
  });
  for (let round = 0; round < 6; round += 1) await term.round(new AbortController().signal);
  // By a filter that no row passes the whole backlog would be walked, again and again.
  expect(excluded).toEqual([[], [0], [0, 1]]);
  expect(term.failure()).toBe('Kafka is away');
});
