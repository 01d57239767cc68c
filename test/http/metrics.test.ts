import { describe, expect, test } from 'vitest';
import { createMetrics } from '#src/http/metrics.ts';

describe('the metrics', () => {
  test('count what they are told', async () => {
    const metrics = createMetrics();
    metrics.countCommand('PlaceOrder', 'ok');
    metrics.countCommand('PlaceOrder', 'ok');
    metrics.countCommand('PayOrder', 'rejected');
    metrics.observeAppend(3, 0.004);
    metrics.countEvents('OrderPlaced', 3);
    metrics.countPublished(5);
    metrics.countPublishError('broker_away');
    metrics.countLeaseTransition('relay');
    const text = await metrics.text();
    expect(text.split('\n')).toEqual(
      expect.arrayContaining([
        'orders_commands_total{command="PlaceOrder",outcome="ok"} 2',
        'orders_commands_total{command="PayOrder",outcome="rejected"} 1',
        'orders_append_batch_units_bucket{le="2"} 0',
        'orders_append_batch_units_bucket{le="4"} 1',
        'orders_append_duration_seconds_bucket{le="0.005"} 1',
        'orders_append_events_total{event_type="OrderPlaced"} 3',
        'orders_outbox_published_total 5',
        'orders_outbox_publish_errors_total{reason="broker_away"} 1',
        'orders_lease_transitions_total{lease="relay"} 1',
      ]),
    );
  });

  test('read gauges when they are asked', async () => {
    const metrics = createMetrics();
    let pending = 1;
    metrics.watch('orders_outbox_pending', () => pending);
    metrics.watch('orders_command_queue_length', async () => 7);
    metrics.watchEach('orders_db_pool_in_use', () => ({ writer: 2, reads: 1 }));
    expect(await metrics.text()).toContain('\norders_outbox_pending 1\n');
    pending = 2;
    const lines = (await metrics.text()).split('\n');
    expect(lines).toContain('orders_outbox_pending 2');
    expect(lines).toContain('orders_command_queue_length 7');
    expect(lines).toContain('orders_db_pool_in_use{pool="writer"} 2');
    expect(lines).toContain('orders_db_pool_in_use{pool="reads"} 1');
  });

  test('forget a label that is no longer read', async () => {
    const metrics = createMetrics();
    let held: Record<string, number> = { relay: 1 };
    metrics.watchEach('orders_lease_held', () => held);
    expect(await metrics.text()).toContain('orders_lease_held{lease="relay"} 1');
    held = {};
    expect(await metrics.text()).not.toContain('lease="relay"');
  });

  test('are told even when a gauge fails or hangs', async () => {
    const metrics = createMetrics();
    metrics.watch('orders_outbox_pending', () => {
      throw new Error('away');
    });
    metrics.watch('orders_outbox_parked', () => new Promise(() => undefined));
    metrics.watchEach('orders_db_pool_idle', () => Promise.reject(new Error('away')));
    const text = await metrics.text();
    expect(text).toMatch(/^orders_outbox_pending nan$/im);
    expect(text).toMatch(/^orders_outbox_parked nan$/im);
    expect(text).toContain('nodejs_eventloop_lag_seconds');
  });

  test('tell of the process', async () => {
    const text = await createMetrics().text();
    expect(text).toMatch(/^process_resident_memory_bytes \d+$/m);
    expect(text).toMatch(/^nodejs_eventloop_lag_seconds /m);
    expect(text).toMatch(/^nodejs_eventloop_utilization /m);
  });

  test('belong to one service: another counts for itself', async () => {
    const one = createMetrics();
    const other = createMetrics();
    one.countPublished(1);
    expect(await one.text()).toContain('orders_outbox_published_total 1');
    expect(await other.text()).toContain('orders_outbox_published_total 0');
  });
});
