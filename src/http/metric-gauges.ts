import { Counter, Gauge } from 'prom-client';
import type { Registry } from 'prom-client';

import { keepForAMoment } from './keep-for-a-moment.ts';

/** A scrape never waits longer for one gauge; it then says NaN, and does not ask again meanwhile. */
const READ_TIMEOUT_MS = 1_000;

/** What can be read at any time, and what it means. */
const gauges = {
  orders_command_queue_length: 'Commands that wait for a commit.',
  orders_saga_oldest_nonterminal_age_seconds: 'Age of the oldest saga that has not ended.',
  orders_db_sessions_given_up:
    'Sessions that nobody waits for any more, while Postgres is still at work on them.',
  orders_clock_offset_seconds: 'How far the clock is ahead of that of the database.',
  orders_db_oldest_transaction_age_seconds: 'Age of the oldest transaction in the database.',
} as const;

/** The same, with a value for each of several things, told apart by labels. */
const labelledGauges = {
  orders_outbox_pending: [['topic'], 'Events not yet acknowledged by Kafka.'],
  orders_outbox_oldest_age_seconds: [['topic'], 'Age of the oldest of them that is not parked.'],
  orders_outbox_parked: [['topic'], 'Keys that wait for an operator.'],
  orders_outbox_oldest_parked_age_seconds: [['topic'], 'How long the first of them has waited.'],
  orders_saga_instances: [['saga', 'state'], 'Sagas that have not ended.'],
  orders_lease_held: [['lease'], '1 while this process holds the lease.'],
  orders_db_pool_in_use: [['pool'], 'Connections in use.'],
  orders_db_pool_idle: [['pool'], 'Connections that are open and free.'],
  orders_db_pool_waiting: [['pool'], 'Callers that wait for a connection.'],
} as const;

/** What somebody else counts from the start of the process on. */
const totals = {
  orders_log_lines_lost_total: 'Log lines that could not be written: disk full, or nobody reads.',
} as const;

export type TotalName = keyof typeof totals;
export type GaugeName = keyof typeof gauges;
export type LabelledGaugeName = keyof typeof labelledGauges;

/** A value for each value of a gauge's label; with two labels, such values for each of the first. */
export type Readings = Readonly<{ [label: string]: number | Readings }>;

/** Reads the gauge at each scrape; NaN when that fails or is late. */
export function watch(
  registry: Registry,
  name: GaugeName,
  read: () => number | Promise<number>,
): void {
  const latest = keepForAMoment(async () => read(), 0);
  const gauge: Gauge = new Gauge({
    name,
    help: gauges[name],
    registers: [registry],
    collect: async () => gauge.set(await readInTime(latest, Number.NaN)),
  });
}

/** Tells at each scrape what was counted so far. */
export function watchTotal(registry: Registry, name: TotalName, read: () => number): void {
  const counter: Counter = new Counter({
    name,
    help: totals[name],
    registers: [registry],
    collect: () => {
      counter.reset();
      counter.inc(read());
    },
  });
}

/** The same for a gauge with labels: those that `read` tells, or none. */
export function watchEach(
  registry: Registry,
  name: LabelledGaugeName,
  read: () => Readings | Promise<Readings>,
): void {
  const [labelNames, help] = labelledGauges[name];
  const latest = keepForAMoment(async () => read(), 0);
  const gauge: Gauge = new Gauge({
    name,
    help,
    labelNames: [...labelNames],
    registers: [registry],
    collect: async () => {
      const readings = await readInTime(latest, {});
      gauge.reset();
      for (const [labels, value] of flatten(readings)) gauge.labels(...labels).set(value);
    },
  });
}

function flatten(readings: Readings, outer: readonly string[] = []): [string[], number][] {
  return Object.entries(readings).flatMap(([label, of]): [string[], number][] =>
    typeof of === 'number' ? [[[...outer, label], of]] : flatten(of, [...outer, label]),
  );
}

async function readInTime<T>(read: () => Promise<T>, otherwise: T): Promise<T> {
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
