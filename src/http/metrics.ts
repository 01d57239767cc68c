import { performance } from 'node:perf_hooks';

import { Counter, Gauge, Histogram, Registry, collectDefaultMetrics } from 'prom-client';

import { watch, watchEach, watchTotal } from './metric-gauges.ts';
import type { GaugeName, LabelledGaugeName, Readings, TotalName } from './metric-gauges.ts';

const SECONDS = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10];
const UNITS = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512];
const STREAM_EVENTS = [0, 1, 2, 3, 5, 8, 12, 20, 50, 100, 500];
export type CommandOutcome = 'ok' | 'replayed' | 'conflict' | 'rejected' | 'shed' | 'unknown';

/** All that the service counts, in a registry of its own. */
export type Metrics = Readonly<{
  /** `route` is empty when nothing matched. */
  observeRequest(method: string, route: string, status: number, seconds: number): void;
  countCommand(command: string, outcome: CommandOutcome): void;
  /** One group commit: how many units it held and how long the database took. */
  observeAppend(units: number, seconds: number): void;
  countEvents(eventType: string, count: number): void;
  /** A load or a write of a batch that failed, by what that says of it. */
  countFailedBatch(failure: string): void;
  /** Commands that the service itself tried again, and why. */
  countRetries(reason: string, commands: number): void;
  /** One stream that was folded for a command: how many events that took. */
  observeStreamLoad(events: number): void;
  /** A caller that got no connection in time. */
  countPoolTimeout(pool: string): void;
  /** Rows of a read model that were compared with their streams. */
  countVerified(table: string, checked: number, mismatches: number): void;
  countPublished(topic: string, count: number): void;
  countPublishError(topic: string, reason: string): void;
  countLeaseTransition(lease: string): void;
  /** One try of a step of a saga. */
  observeSagaStep(saga: string, step: string, outcome: string, seconds: number): void;
  /** Reads the gauge at each scrape. To be called once; a reading that fails or is late is NaN. */
  watch(name: GaugeName, read: () => number | Promise<number>): void;
  /** The same for a gauge with labels: a value for each of theirs; none when it fails. */
  watchEach(name: LabelledGaugeName, read: () => Readings | Promise<Readings>): void;
  /** A counter that somebody else keeps. To be called once. */
  watchTotal(name: TotalName, read: () => number): void;
  contentType: string;
  /** Everything, in the Prometheus text format. */
  text(): Promise<string>;
}>;

export function createMetrics(): Metrics {
  const registry = new Registry();
  collectDefaultMetrics({ register: registry });
  watchUtilization(registry);
  return {
    observeRequest: createRequestObserver(registry),
    ...createWriteMetrics(registry),
    ...createDatabaseMetrics(registry),
    countVerified: createVerificationCounter(registry),
    ...createOutboxMetrics(registry),
    observeSagaStep: createSagaObserver(registry),
    watch: (name, read) => watch(registry, name, read),
    watchEach: (name, read) => watchEach(registry, name, read),
    watchTotal: (name, read) => watchTotal(registry, name, read),
    contentType: registry.contentType,
    text: () => registry.metrics(),
  };
}

function createRequestObserver(registry: Registry): Metrics['observeRequest'] {
  const durations = new Histogram({
    name: 'http_server_request_duration_seconds',
    help: 'Time from the headers of a request to the end of its answer.',
    labelNames: ['http_request_method', 'http_route', 'http_response_status_code'],
    buckets: SECONDS,
    registers: [registry],
  });
  const child = remember((method: string, route: string, status: string) =>
    durations.labels(method, route, status),
  );
  return (method, route, status, seconds) => child(method, route, String(status)).observe(seconds);
}

function createWriteMetrics(registry: Registry) {
  const registers = [registry];
  const commands = new Counter({
    name: 'orders_commands_total',
    help: 'Commands by what became of them.',
    labelNames: ['command', 'outcome'],
    registers,
  });
  const appendSeconds = new Histogram({
    name: 'orders_append_duration_seconds',
    help: 'Time that the database took for one group commit.',
    buckets: SECONDS,
    registers,
  });
  const appendUnits = new Histogram({
    name: 'orders_append_batch_units',
    help: 'Units in one group commit.',
    buckets: UNITS,
    registers,
  });
  const events = new Counter({
    name: 'orders_append_events_total',
    help: 'Events appended.',
    labelNames: ['event_type'],
    registers,
  });
  const command = remember((name: string, outcome: string) => commands.labels(name, outcome));
  const eventType = remember((name: string) => events.labels(name));
  return {
    countCommand: (name: string, outcome: CommandOutcome) => command(name, outcome).inc(),
    observeAppend: (units: number, seconds: number) => {
      appendUnits.observe(units);
      appendSeconds.observe(seconds);
    },
    countEvents: (type: string, count: number) => eventType(type).inc(count),
  };
}

function createDatabaseMetrics(registry: Registry) {
  const registers = [registry];
  const failures = new Counter({
    name: 'orders_append_failures_total',
    help: 'Group commits that failed: contended, refused and not_applied wrote nothing.',
    labelNames: ['failure'],
    registers,
  });
  const retries = new Counter({
    name: 'orders_db_retries_total',
    help: 'Commands that were tried again: after a lost race, or alone after their batch failed.',
    labelNames: ['reason'],
    registers,
  });
  const streamEvents = new Histogram({
    name: 'orders_stream_load_events',
    help: 'Events that a stream had when it was folded for a command.',
    buckets: STREAM_EVENTS,
    registers,
  });
  const poolTimeouts = new Counter({
    name: 'orders_db_pool_timeouts_total',
    help: 'Callers that got no connection in time.',
    labelNames: ['pool'],
    registers,
  });
  return {
    countFailedBatch: (failure: string) => failures.inc({ failure }),
    countRetries: (reason: string, commands: number) => retries.inc({ reason }, commands),
    observeStreamLoad: (events: number) => streamEvents.observe(events),
    countPoolTimeout: (pool: string) => poolTimeouts.inc({ pool }),
  };
}

function createVerificationCounter(registry: Registry): Metrics['countVerified'] {
  const registers = [registry];
  const checkedTotal = new Counter({
    name: 'orders_verify_checked_total',
    help: 'Rows that were compared with what their streams say.',
    labelNames: ['kind'],
    registers,
  });
  const mismatchTotal = new Counter({
    name: 'orders_verify_mismatch_total',
    help: 'Those that were not as their streams say.',
    labelNames: ['kind'],
    registers,
  });
  return (kind, checked, mismatches) => {
    checkedTotal.inc({ kind }, checked);
    mismatchTotal.inc({ kind }, mismatches);
  };
}

function createSagaObserver(registry: Registry): Metrics['observeSagaStep'] {
  const durations = new Histogram({
    name: 'orders_saga_step_duration_seconds',
    help: 'Time that one try of a step took, by what it came to.',
    labelNames: ['saga', 'step', 'outcome'],
    buckets: SECONDS,
    registers: [registry],
  });
  const child = remember((saga: string, step: string, outcome: string) =>
    durations.labels(saga, step, outcome),
  );
  return (saga, step, outcome, seconds) => child(saga, step, outcome).observe(seconds);
}

function createOutboxMetrics(registry: Registry) {
  const registers = [registry];
  const published = new Counter({
    name: 'orders_outbox_published_total',
    help: 'Events that Kafka acknowledged.',
    labelNames: ['topic'],
    registers,
  });
  const errors = new Counter({
    name: 'orders_outbox_publish_errors_total',
    help: 'Sends that failed.',
    labelNames: ['topic', 'reason'],
    registers,
  });
  const transitions = new Counter({
    name: 'orders_lease_transitions_total',
    help: 'Times that this process took or lost the lease.',
    labelNames: ['lease'],
    registers,
  });
  return {
    countPublished: (topic: string, count: number) => published.inc({ topic }, count),
    countPublishError: (topic: string, reason: string) => errors.inc({ topic, reason }),
    countLeaseTransition: (lease: string) => transitions.inc({ lease }),
  };
}

function watchUtilization(registry: Registry): void {
  let last = performance.eventLoopUtilization();
  const gauge: Gauge = new Gauge({
    name: 'nodejs_eventloop_utilization',
    help: 'Share of the time since the last scrape that the event loop was busy.',
    registers: [registry],
    collect: () => {
      const now = performance.eventLoopUtilization();
      gauge.set(performance.eventLoopUtilization(now, last).utilization);
      last = now;
    },
  });
}

/** Keeps what `make` gave for each list of labels: they are few, and asked for on the hot path. */
function remember<T>(make: (...labels: string[]) => T): (...labels: string[]) => T {
  const made = new Map<string, T>();
  return (...labels) => {
    const key = labels.join(' ');
    const known = made.get(key);
    if (known !== undefined) return known;
    const child = make(...labels);
    made.set(key, child);
    return child;
  };
}
