import { performance } from 'node:perf_hooks';

import { Counter, Gauge, Histogram, Registry, collectDefaultMetrics } from 'prom-client';

const SECONDS = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10];
const UNITS = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512];
/** A scrape never waits longer for one gauge; it then says NaN. */
const READ_TIMEOUT_MS = 1_000;

/** What can be read at any time, and what it means. */
const gauges = {
  orders_command_queue_length: 'Commands that wait for a commit.',
  orders_outbox_pending: 'Events not yet acknowledged by Kafka.',
  orders_outbox_oldest_age_seconds: 'Age of the oldest of them.',
  orders_outbox_parked: 'Keys that wait for an operator.',
  orders_outbox_oldest_parked_age_seconds: 'How long the first of them has waited.',
  orders_saga_oldest_nonterminal_age_seconds: 'Age of the oldest saga that has not ended.',
} as const;

/** The same, with a value for each of several things, told apart by a label. */
const labelledGauges = {
  orders_saga_instances: ['state', 'Sagas that have not ended.'],
  orders_lease_held: ['lease', '1 while this process holds the lease.'],
  orders_db_pool_in_use: ['pool', 'Connections in use.'],
  orders_db_pool_idle: ['pool', 'Connections that are open and free.'],
  orders_db_pool_waiting: ['pool', 'Callers that wait for a connection.'],
} as const;

export type GaugeName = keyof typeof gauges;
export type LabelledGaugeName = keyof typeof labelledGauges;

export type CommandOutcome = 'ok' | 'replayed' | 'conflict' | 'rejected' | 'shed' | 'unknown';

/** A value for each value of a gauge's label. */
export type Readings = Readonly<Record<string, number>>;

/** All that the service counts, in a registry of its own. */
export type Metrics = Readonly<{
  /** `route` is empty when nothing matched. */
  observeRequest(method: string, route: string, status: number, seconds: number): void;
  countCommand(command: string, outcome: CommandOutcome): void;
  /** One group commit: how many units it held and how long the database took. */
  observeAppend(units: number, seconds: number): void;
  countEvents(eventType: string, count: number): void;
  countPublished(count: number): void;
  countPublishError(reason: string): void;
  countLeaseTransition(lease: string): void;
  /** One try of a step of a saga. */
  observeSagaStep(saga: string, step: string, outcome: string, seconds: number): void;
  /** Reads the gauge at each scrape. To be called once; a reading that fails or is late is NaN. */
  watch(name: GaugeName, read: () => number | Promise<number>): void;
  /** The same for a gauge with a label: a value for each of its values; none when it fails. */
  watchEach(name: LabelledGaugeName, read: () => Readings | Promise<Readings>): void;
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
    ...createOutboxMetrics(registry),
    observeSagaStep: createSagaObserver(registry),
    watch: (name, read) => watch(registry, name, read),
    watchEach: (name, read) => watchEach(registry, name, read),
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
    registers,
  });
  const errors = new Counter({
    name: 'orders_outbox_publish_errors_total',
    help: 'Sends that failed.',
    labelNames: ['reason'],
    registers,
  });
  const transitions = new Counter({
    name: 'orders_lease_transitions_total',
    help: 'Times that this process took or lost the lease.',
    labelNames: ['lease'],
    registers,
  });
  return {
    countPublished: (count: number) => published.inc(count),
    countPublishError: (reason: string) => errors.inc({ reason }),
    countLeaseTransition: (lease: string) => transitions.inc({ lease }),
  };
}

function watch(registry: Registry, name: GaugeName, read: () => number | Promise<number>): void {
  const gauge: Gauge = new Gauge({
    name,
    help: gauges[name],
    registers: [registry],
    collect: async () => gauge.set(await readInTime(read, Number.NaN)),
  });
}

function watchEach(
  registry: Registry,
  name: LabelledGaugeName,
  read: () => Readings | Promise<Readings>,
): void {
  const [label, help] = labelledGauges[name];
  const gauge: Gauge = new Gauge({
    name,
    help,
    labelNames: [label],
    registers: [registry],
    collect: async () => {
      const readings = await readInTime(read, {});
      gauge.reset();
      for (const [of, value] of Object.entries(readings)) gauge.set({ [label]: of }, value);
    },
  });
}

async function readInTime<T>(read: () => T | Promise<T>, otherwise: T): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<T>((resolve) => {
    timer = setTimeout(resolve, READ_TIMEOUT_MS, otherwise);
  });
  try {
    return await Promise.race([read(), late]);
  } catch {
    return otherwise;
  } finally {
    clearTimeout(timer);
  }
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
