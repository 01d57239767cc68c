import { performance } from 'node:perf_hooks';

import { Counter, Gauge, Histogram, Registry, collectDefaultMetrics } from '@prometheus-io/client';

import { withDeadline } from '#src/workers/worker.ts';
import { cachedRead } from './cached-read.ts';

const SECONDS = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10];
const UNITS = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512];
const STREAM_EVENTS = [0, 1, 2, 3, 5, 8, 12, 20, 50, 100, 500];
/** A scrape waits no longer than this for one gauge. */
const READ_TIMEOUT_MS = 1_000;

/** Everything that the service counts, in a registry of its own. */
export type Metrics = ReturnType<typeof createMetrics>;

/** The value of a gauge. With labels: one value for each value of the first label, and so on. */
export type Readings = number | Readonly<{ [label: string]: Readings }>;

export function createMetrics() {
  const registry = new Registry();
  collectDefaultMetrics({ register: registry });
  watchUtilization(registry);
  return {
    ...createRequestMetrics(registry),
    ...createWriteMetrics(registry),
    ...createWorkerMetrics(registry),
    registry,
    /** Adds a gauge that is read at each scrape. */
    watch: (spec: GaugeSpec, read: () => Readings | Promise<Readings>) =>
      watch(registry, spec, read),
    contentType: registry.contentType,
    /** Everything, in the Prometheus text format. */
    text: () => registry.metrics(),
  };
}

function createRequestMetrics(registry: Registry) {
  const registers = [registry];
  return {
    requestSeconds: new Histogram({
      name: 'http_server_request_duration_seconds',
      help: 'Time from the headers of a request to the end of its response.',
      labelNames: ['http_request_method', 'http_route', 'http_response_status_code'],
      buckets: SECONDS,
      registers,
    }),
    commands: new Counter({
      name: 'orders_commands_total',
      help: 'Commands, by outcome.',
      labelNames: ['command', 'outcome'],
      registers,
    }),
  };
}

function createWriteMetrics(registry: Registry) {
  const registers = [registry];
  return {
    appendSeconds: new Histogram({
      name: 'orders_append_duration_seconds',
      help: 'Time that the database took for one group commit.',
      buckets: SECONDS,
      registers,
    }),
    appendUnits: new Histogram({
      name: 'orders_append_batch_units',
      help: 'Units in one group commit.',
      buckets: UNITS,
      registers,
    }),
    appendedEvents: new Counter({
      name: 'orders_append_events_total',
      help: 'Events appended.',
      labelNames: ['event_type'],
      registers,
    }),
    failedAppends: new Counter({
      name: 'orders_append_failures_total',
      help: 'Group commits that failed. contended, refused and not_applied wrote nothing.',
      labelNames: ['failure'],
      registers,
    }),
    retries: new Counter({
      name: 'orders_db_retries_total',
      help: 'Commands that the service retried after a lost race or after their batch failed.',
      labelNames: ['reason'],
      registers,
    }),
    streamEvents: new Histogram({
      name: 'orders_stream_load_events',
      help: 'Events of a stream when it was folded for a command.',
      buckets: STREAM_EVENTS,
      registers,
    }),
    poolTimeouts: new Counter({
      name: 'orders_db_pool_timeouts_total',
      help: 'Callers that got no database connection in time.',
      labelNames: ['pool'],
      registers,
    }),
  };
}

/** What the relay, the sagas and the verifier count. */
function createWorkerMetrics(registry: Registry) {
  const registers = [registry];
  return {
    published: new Counter({
      name: 'orders_outbox_published_total',
      help: 'Events that Kafka acknowledged.',
      labelNames: ['topic'],
      registers,
    }),
    publishErrors: new Counter({
      name: 'orders_outbox_publish_errors_total',
      help: 'Sends to Kafka that failed.',
      labelNames: ['topic', 'reason'],
      registers,
    }),
    leaseTransitions: new Counter({
      name: 'orders_lease_transitions_total',
      help: 'Times that this process took or lost the lease.',
      labelNames: ['lease'],
      registers,
    }),
    sagaStepSeconds: new Histogram({
      name: 'orders_saga_step_duration_seconds',
      help: 'Time of one attempt of a saga step, by outcome.',
      labelNames: ['saga', 'step', 'outcome'],
      buckets: SECONDS,
      registers,
    }),
    verifiedRows: new Counter({
      name: 'orders_verify_checked_total',
      help: 'Rows of a read model that were compared with the events.',
      labelNames: ['kind'],
      registers,
    }),
    mismatchedRows: new Counter({
      name: 'orders_verify_mismatch_total',
      help: 'Rows of a read model that differed from the events.',
      labelNames: ['kind'],
      registers,
    }),
  };
}

type GaugeSpec = Readonly<{ name: string; help: string; labelNames?: readonly string[] }>;

/**
 * Reads the gauge at each scrape. A read that fails or is late shows as NaN, or as no value where the
 * gauge has labels. A read that still hangs is not started again.
 */
function watch(
  registry: Registry,
  { name, help, labelNames = [] }: GaugeSpec,
  read: () => Readings | Promise<Readings>,
): void {
  const readAlone = cachedRead(async () => read(), 0);
  const unread = labelNames.length === 0 ? Number.NaN : {};
  const gauge: Gauge = new Gauge({
    name,
    help,
    labelNames: [...labelNames],
    registers: [registry],
    collect: async () => {
      const readings = await readInTime(readAlone, unread);
      gauge.reset();
      for (const [labels, value] of flatten(readings)) gauge.labels(...labels).set(value);
    },
  });
}

function flatten(readings: Readings, labels: readonly string[] = []): [string[], number][] {
  if (typeof readings === 'number') return [[[...labels], readings]];
  return Object.entries(readings).flatMap(([label, of]) => flatten(of, [...labels, label]));
}

async function readInTime(read: () => Promise<Readings>, unread: Readings): Promise<Readings> {
  try {
    return await withDeadline(read(), READ_TIMEOUT_MS, () => unread);
  } catch {
    return unread;
  }
}

function watchUtilization(registry: Registry): void {
  let last = performance.eventLoopUtilization();
  watch(
    registry,
    {
      name: 'nodejs_eventloop_utilization',
      help: 'Share of the time since the last scrape that the event loop was busy.',
    },
    () => {
      const now = performance.eventLoopUtilization();
      const { utilization } = performance.eventLoopUtilization(now, last);
      last = now;
      return utilization;
    },
  );
}
