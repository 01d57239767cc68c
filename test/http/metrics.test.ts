import { describe, expect, test } from 'vitest';
import { createMetrics } from '#src/http/metrics.ts';
import type { MakeGauge, Metrics } from '#src/http/metrics.ts';

function watch(
  metrics: Metrics,
  [name, ...labelNames]: [string, ...string[]],
  read: Parameters<MakeGauge>[2],
): void {
  metrics.gauge(name, 'h', read, labelNames);
}

describe('the metrics', () => {
  test('count what is reported', async () => {
    const metrics = createMetrics();
    metrics.commands.inc({ command: 'PlaceOrder', outcome: 'ok' });
    metrics.commands.inc({ command: 'PlaceOrder', outcome: 'ok' });
    metrics.commands.inc({ command: 'PayOrder', outcome: 'rejected' });
    metrics.appendUnits.observe(3);
    metrics.appendSeconds.observe(0.004);
    metrics.appendedEvents.inc({ event_type: 'OrderPlaced' }, 3);
    metrics.failedAppends.inc({ failure: 'contended' });
    metrics.retries.inc({ reason: 'lost_race' }, 2);
    metrics.streamEvents.observe(3);
    metrics.poolTimeouts.inc({ pool: 'reads' });
    metrics.published.inc({ topic: 't' }, 5);
    metrics.publishErrors.inc({ topic: 't', reason: 'unknown' });
    metrics.leaseTransitions.inc({ lease: 'relay' });
    const text = await metrics.text();
    expect(text.split('\n')).toEqual(
      expect.arrayContaining([
        'orders_commands_total{command="PlaceOrder",outcome="ok"} 2',
        'orders_commands_total{command="PayOrder",outcome="rejected"} 1',
        'orders_append_batch_units_bucket{le="2"} 0',
        'orders_append_batch_units_bucket{le="4"} 1',
        'orders_append_duration_seconds_bucket{le="0.005"} 1',
        'orders_append_events_total{event_type="OrderPlaced"} 3',
        'orders_append_failures_total{failure="contended"} 1',
        'orders_db_retries_total{reason="lost_race"} 2',
        'orders_stream_load_events_bucket{le="2"} 0',
        'orders_stream_load_events_bucket{le="3"} 1',
        'orders_db_pool_timeouts_total{pool="reads"} 1',
        'orders_outbox_published_total{topic="t"} 5',
        'orders_outbox_publish_errors_total{topic="t",reason="unknown"} 1',
        'orders_lease_transitions_total{lease="relay"} 1',
      ]),
    );
  });

  test('read gauges at each scrape', async () => {
    const metrics = createMetrics();
    let pending = 1;
    watch(metrics, ['orders_db_oldest_transaction_age_seconds'], () => pending);
    watch(metrics, ['orders_command_queue_length'], async () => 7);
    watch(metrics, ['orders_db_pool_in_use', 'pool'], () => ({ writer: 2, reads: 1 }));
    watch(metrics, ['orders_saga_instances', 'saga', 'state'], () => ({
      a: { running: 1, stuck: 0 },
      b: {},
    }));
    expect(await metrics.text()).toContain('\norders_db_oldest_transaction_age_seconds 1\n');
    pending = 2;
    const lines = (await metrics.text()).split('\n');
    expect(lines).toContain('orders_db_oldest_transaction_age_seconds 2');
    expect(lines).toContain('orders_saga_instances{saga="a",state="running"} 1');
    expect(lines).toContain('orders_saga_instances{saga="a",state="stuck"} 0');
    expect(lines).toContain('orders_command_queue_length 7');
    expect(lines).toContain('orders_db_pool_in_use{pool="writer"} 2');
    expect(lines).toContain('orders_db_pool_in_use{pool="reads"} 1');
  });

  test('forget a label that is no longer read', async () => {
    const metrics = createMetrics();
    let held: Record<string, number> = { relay: 1 };
    watch(metrics, ['orders_lease_held', 'lease'], () => held);
    expect(await metrics.text()).toContain('orders_lease_held{lease="relay"} 1');
    held = {};
    expect(await metrics.text()).not.toContain('lease="relay"');
  });

  test('are complete even if a gauge fails or hangs', async () => {
    const metrics = createMetrics();
    watch(metrics, ['orders_command_queue_length'], () => {
      throw new Error('away');
    });
    watch(
      metrics,
      ['orders_db_oldest_transaction_age_seconds'],
      () => new Promise(() => undefined),
    );
    watch(metrics, ['orders_db_pool_idle', 'pool'], () => Promise.reject(new Error('away')));
    const text = await metrics.text();
    expect(text).toMatch(/^orders_command_queue_length nan$/im);
    expect(text).toMatch(/^orders_db_oldest_transaction_age_seconds nan$/im);
    expect(text).toContain('nodejs_eventloop_lag_seconds');
  });

  test('do not read a gauge again while it hangs', async () => {
    const metrics = createMetrics();
    let asked = 0;
    watch(metrics, ['orders_db_oldest_transaction_age_seconds'], () => {
      asked += 1;
      return new Promise(() => undefined);
    });
    await metrics.text();
    expect(await metrics.text()).toMatch(/^orders_db_oldest_transaction_age_seconds nan$/im);
    expect(asked).toBe(1);
  });

  test('include those of the process', async () => {
    const text = await createMetrics().text();
    expect(text).toMatch(/^process_resident_memory_bytes \d+$/m);
    expect(text).toMatch(/^nodejs_eventloop_lag_seconds /m);
    expect(text).toMatch(/^nodejs_eventloop_utilization /m);
  });

  test('do not go through all connections', async () => {
    const text = await createMetrics().text();
    expect(text).not.toMatch(/^nodejs_active_(handles|requests|resources)/m);
    if (process.platform === 'linux') expect(text).toMatch(/^process_open_fds [1-9]\d*$/m);
  });

  test('belong to one service: another has its own', async () => {
    const one = createMetrics();
    const other = createMetrics();
    one.published.inc({ topic: 't' });
    expect(await one.text()).toContain('orders_outbox_published_total{topic="t"} 1');
    expect(await other.text()).not.toContain('orders_outbox_published_total{');
  });
});
