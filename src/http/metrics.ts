import { readdir } from 'node:fs/promises';
import { performance } from 'node:perf_hooks';

import { Counter, Gauge, Histogram, Registry, collectDefaultMetrics } from '@prometheus-io/client';

import { withDeadline } from '#src/workers/worker.ts';

const SECONDS = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10];
const UNITS = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512];
const STREAM_EVENTS = [0, 1, 2, 3, 5, 8, 12, 20, 50, 100, 500];
/** A scrape waits no longer than this for one gauge. */
const READ_TIMEOUT_MS = 1_000;

/** Default metrics that go through every open connection, while nothing else can happen: 20 ms for 10,000. */
const SLOW_METRICS = [
  'nodejs_active_handles',
  'nodejs_active_handles_total',
  'nodejs_active_requests',
  'nodejs_active_requests_total',
  'nodejs_active_resources',
  'nodejs_active_resources_total',
];
const OPEN_FILES = 'process_open_fds';

/** Everything that the service measures, in a registry of its own. */
export type Metrics = ReturnType<typeof createMetrics>;

/** The value of a gauge. With labels: one value for each value of the first label, and so on. */
export type Readings = number | Readonly<{ [label: string]: Readings }>;

export function createMetrics() {
  const registry = new Registry();
  collectDefaultMetrics({ register: registry });
  for (const name of SLOW_METRICS) registry.removeSingleMetric(name);
  if (registry.getSingleMetric(OPEN_FILES) !== undefined) watchOpenFiles(registry);
  watchUtilization(createGaugeMaker(registry));
  const makers = createMakers(registry);
  return {
    ...createCommandMetrics(makers),
    ...createWorkerMetrics(makers),
    registry,
    gauge: createGaugeMaker(registry),
    contentType: registry.contentType,
    /** Everything, in the Prometheus text format. */
    text: () => registry.metrics(),
  };
}

function createMakers(registry: Registry) {
  const registers = [registry];
  return {
    counter: <L extends string = never>(name: string, help: string, labelNames: L[] = []) =>
      new Counter<L>({ name, help, labelNames, registers }),
    histogram: <L extends string = never>(
      name: string,
      help: string,
      buckets: number[],
      labelNames: L[] = [],
    ) => new Histogram<L>({ name, help, buckets, labelNames, registers }),
  };
}

type Makers = ReturnType<typeof createMakers>;

function createCommandMetrics({ counter, histogram }: Makers) {
  return {
    requestSeconds: histogram(
      'http_server_request_duration_seconds',
      'Time from the headers of a request to the end of its response.',
      SECONDS,
      ['http_request_method', 'http_route', 'http_response_status_code'],
    ),
    commands: counter('orders_commands_total', 'Commands, by outcome.', ['command', 'outcome']),
    appendSeconds: histogram(
      'orders_append_duration_seconds',
      'Time that the database took for one group commit.',
      SECONDS,
    ),
    appendUnits: histogram('orders_append_batch_units', 'Units in one group commit.', UNITS),
    appendedEvents: counter('orders_append_events_total', 'Events appended.', ['event_type']),
    failedAppends: counter(
      'orders_append_failures_total',
      'Group commits that failed. contended, refused and not_applied wrote nothing.',
      ['failure'],
    ),
    retries: counter(
      'orders_db_retries_total',
      'Commands that the service retried after a lost race or after their batch failed.',
      ['reason'],
    ),
    streamEvents: histogram(
      'orders_stream_load_events',
      'Events of a stream when it was folded for a command.',
      STREAM_EVENTS,
    ),
    poolTimeouts: counter(
      'orders_db_pool_timeouts_total',
      'Callers that got no database connection in time.',
      ['pool'],
    ),
  };
}

/** What the relay, the sagas and the verifier measure. */
function createWorkerMetrics({ counter, histogram }: Makers) {
  return {
    published: counter('orders_outbox_published_total', 'Events that Kafka acknowledged.', [
      'topic',
    ]),
    publishErrors: counter('orders_outbox_publish_errors_total', 'Sends to Kafka that failed.', [
      'topic',
      'reason',
    ]),
    leaseTransitions: counter(
      'orders_lease_transitions_total',
      'Times that this process took or lost the lease.',
      ['lease'],
    ),
    sagaStepSeconds: histogram(
      'orders_saga_step_duration_seconds',
      'Time of one attempt of a saga step, by outcome.',
      SECONDS,
      ['saga', 'step', 'outcome'],
    ),
    verifiedRows: counter(
      'orders_verify_checked_total',
      'Rows of a read model that were compared with the events.',
      ['kind'],
    ),
    mismatchedRows: counter(
      'orders_verify_mismatch_total',
      'Rows of a read model that differed from the events.',
      ['kind'],
    ),
  };
}

/** Adds a gauge. */
export type MakeGauge = (
  name: string,
  help: string,
  read: () => Readings | Promise<Readings>,
  labelNames?: readonly string[],
) => void;

/**
 * A gauge is read at each scrape. A read that fails or is late shows as NaN, or as no value if the
 * gauge has labels. A read that still hangs is not started again.
 */
function createGaugeMaker(registry: Registry): MakeGauge {
  return (name, help, read, labelNames = []) => {
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
  };
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

/** Replaces the default metric, which blocks the process while it lists the files. */
function watchOpenFiles(registry: Registry): void {
  registry.removeSingleMetric(OPEN_FILES);
  createGaugeMaker(registry)(OPEN_FILES, 'Number of open file descriptors.', async () => {
    const files = await readdir('/proc/self/fd');
    return files.length - 1; // the list itself was one
  });
}

function watchUtilization(gauge: MakeGauge): void {
  let last = performance.eventLoopUtilization();
  gauge(
    'nodejs_eventloop_utilization',
    'Share of the time since the last scrape that the event loop was busy.',
    () => {
      const now = performance.eventLoopUtilization();
      const { utilization } = performance.eventLoopUtilization(now, last);
      last = now;
      return utilization;
    },
  );
}

/**
 * Shares one read among all callers that ask while it is running, and for `keptMs` after it. Only one
 * read runs at a time. A failed read is shared by those who waited for it, and is not kept.
 */
export function cachedRead<T>(read: () => Promise<T>, keptMs: number): () => Promise<T> {
  let latest: Promise<T> | undefined;
  let keptUntilMs = 0;
  const readAgain = async () => {
    keptUntilMs = Number.POSITIVE_INFINITY;
    try {
      const result = await read();
      keptUntilMs = performance.now() + keptMs;
      return result;
    } catch (error) {
      keptUntilMs = 0;
      throw error;
    }
  };
  return () => {
    if (latest === undefined || performance.now() >= keptUntilMs) latest = readAgain();
    return latest;
  };
}
