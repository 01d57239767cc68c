import { randomUUID } from 'node:crypto';
import kafkajs from 'kafkajs';
import type { Pool } from 'pg';
import { pino } from 'pino';
import { createDatabase } from '#src/database/database.ts';
import { createKafkaPublisher } from '#src/outbox/kafka-publisher.ts';
import { createKafkaClient } from '#src/outbox/kafkajs-client.ts';
import { kafkaClients, loadPublisher } from '#src/outbox/publishers.ts';
import type { KafkaClientName } from '#src/outbox/publishers.ts';
import { murmur2 } from '#src/outbox/outbox.ts';
import type { OutboxRow, Publisher, TopicLimits } from '#src/outbox/outbox.ts';
import type { Lease } from '#src/outbox/lease.ts';
import { createOutboxMonitor, NO_BACKLOG } from '#src/outbox/outbox-monitor.ts';
import { createRelay, relayDefaults } from '#src/outbox/relay.ts';
import type { Leader, RelayMetrics, RelayParts, RelaySettings } from '#src/outbox/relay.ts';
import type { TestDatabase } from '#test/support/database.ts';
import { untilLed } from '#test/support/kafka.ts';
import { eventually } from '#test/support/poll.ts';

export const quiet = pino({ level: 'silent' });

/**
 * The relay checks often, so that tests are fast. The timeouts are longer than any response takes on a busy
 * machine, so that slowness alone never makes it send something twice.
 */
const testSettings: Partial<RelaySettings> = {
  leaseTtlMs: 600_000,
  leasePollMs: 100,
  sendTimeoutMs: 60_000,
  stopMs: 60_000,
  idleMs: 20,
  roundIntervalMs: 5,
  roundTimeoutMs: 100,
  topicCheckMs: 200,
  backoff: { baseMs: 20, maxMs: 200 },
};

/** For tests of brokers and relays that stop responding. The proportions are those of production. */
export const hurried: Partial<RelaySettings> = {
  leaseTtlMs: 3_000,
  sendTimeoutMs: 1_500,
  stopMs: 3_000,
};

/** An event of the key `key` to insert; `createdAt` as SQL would default it if unset. */
export type NewEvent = Readonly<{
  key: string;
  version: number;
  payload?: string;
  createdAt?: Date;
}>;

type Queryable = Readonly<{ query: (sql: string, params: unknown[]) => Promise<unknown> }>;

/** Whether no message waits in the outbox. */
export async function isEmpty(db: TestDatabase): Promise<boolean> {
  return (await db.query('select from outbox_events limit 1')).length === 0;
}

/** Inserts outbox rows as the write path does, in the order given. */
export async function insertEvents(
  db: Queryable,
  topic: string,
  events: readonly NewEvent[],
): Promise<void> {
  const column = <T>(value: (event: NewEvent) => T) => events.map(value);
  await db.query(
    `insert into outbox_events (
       aggregate_type, aggregate_id, event_type, stream_version, topic, message_key, key_hash, ce_id,
       ce_type, ce_source, ce_time, ce_subject, ce_sequence, traceparent, payload, created_at)
     select 'order', $2::uuid, 'OrderPlaced', version, $1, key, hash, key || ':' || version,
       'order.placed', '/orders', '2026-01-02T03:04:05.678Z', key, lpad(version::text, 10, '0'), null,
       payload, coalesce(created, clock_timestamp())
     from unnest($3::text[], $4::integer[], $5::integer[], $6::text[], $7::timestamptz[])
       with ordinality as e (key, hash, version, payload, created, number)
     order by number`,
    [
      topic,
      randomUUID(),
      column(({ key }) => key),
      column(({ key }) => murmur2(key)),
      column(({ version }) => version),
      column(({ payload, version }) => payload ?? JSON.stringify({ version })),
      column(({ createdAt }) => createdAt ?? null),
    ],
  );
}

/** Versions 1 to n of each key: first version 1 of every key, then version 2. */
export function eventsOf(keys: readonly string[], versions: number): NewEvent[] {
  return Array.from({ length: versions }, (_, index) =>
    keys.map((key) => ({ key, version: index + 1 })),
  ).flat();
}

export function newKeys(count: number): string[] {
  return Array.from({ length: count }, () => randomUUID());
}

/** A pool as in the service: with the role orders_app and its timeouts. */
export function servicePool(url: string): AsyncDisposable & Readonly<{ pool: Pool }> {
  const database = createDatabase(url, { writersMax: 1, poolMax: 10 }, () => {});
  return { pool: database.pool, [Symbol.asyncDispose]: database.close };
}

/** A publisher of kafkajs, for tests of everything but the publisher. */
export function testPublisher(brokers: readonly string[], partitions = 1): Publisher {
  return createKafkaPublisher(publisherOptions(brokers, partitions));
}

/** Every library that can publish, with its own `testPublisher`. */
export function testPublishers() {
  return Promise.all(kafkaClients.map(loadTestPublisher));
}

/** One of them, which loads only that library. */
export async function loadTestPublisher(client: KafkaClientName) {
  const create = await loadPublisher(client);
  return {
    client,
    create,
    testPublisher: (brokers: readonly string[], partitions = 1) =>
      create(publisherOptions(brokers, partitions)),
  };
}

function publisherOptions(brokers: readonly string[], partitions: number) {
  return { connection: { brokers }, newTopic: { partitions, replication: 1 }, log: quiet };
}

/** What a relay reported to its metrics. */
export type RelayCounts = {
  published: number;
  refused: number;
  unknown: number;
  leaseChanges: number;
};

/** Counters that add to the counts. */
export function countersOf(counts: RelayCounts): RelayMetrics {
  return {
    published: {
      inc: (_, messages) => {
        counts.published += messages;
      },
    },
    publishErrors: {
      inc: ({ reason }) => {
        counts[reason] += 1;
      },
    },
    leaseTransitions: {
      inc: () => {
        counts.leaseChanges += 1;
      },
    },
  };
}

/** A relay with its own connections, and what it counted. */
export function createTestRelay(
  options: Readonly<{
    url: string;
    topic: string;
    publisher: Publisher | undefined;
    settings?: Partial<RelaySettings>;
    rowsMax?: number;
  }>,
) {
  const { url, topic, publisher } = options;
  const { pool, [Symbol.asyncDispose]: closePool } = servicePool(url);
  const monitor = createOutboxMonitor({
    pool,
    rowsMax: options.rowsMax ?? 1_000_000,
    log: quiet,
    refreshMs: 50,
  });
  const counts: RelayCounts = { published: 0, refused: 0, unknown: 0, leaseChanges: 0 };
  const relay = createRelay({
    pool,
    topic,
    publisher,
    monitor,
    metrics: countersOf(counts),
    log: quiet,
    settings: { ...testSettings, ...options.settings },
  });
  return {
    relay,
    monitor,
    counts,
    /** The status with the outbox counted anew. After a slow count the monitor itself rests for long. */
    countedNow: async () => {
      await monitor.refresh();
      return relay.status();
    },
    start: () => {
      monitor.start();
      relay.start();
    },
    [Symbol.asyncDispose]: async () => {
      await relay.stop();
      await monitor.stop();
      await closePool();
    },
  };
}

/** A topic of one partition with a limit for batches. Both can be changed. */
export async function createChangingTopic(brokers: readonly string[], batchBytesMax: number) {
  const topic = `test-${randomUUID()}`;
  const admin = createKafkaClient({ brokers }, quiet).kafka.admin();
  await admin.connect();
  await admin.createTopics({
    topics: [{ topic, numPartitions: 1, configEntries: batchLimit(batchBytesMax) }],
    waitForLeaders: false, // on a busy machine this fails where the broker is late
  });
  await untilLed(topic, [...brokers]);
  return {
    name: topic,
    setLimit: async (bytes: number) => {
      const type = kafkajs.ConfigResourceTypes.TOPIC;
      const resources = [{ type, name: topic, configEntries: batchLimit(bytes) }];
      await admin.alterConfigs({ validateOnly: false, resources });
    },
    /** Deletes it, and waits until somebody has created it again. */
    untilCreatedAgain: async () => {
      await admin.deleteTopics({ topics: [topic] });
      await eventually(async () => {
        const [partition] = await admin.fetchTopicOffsets(topic);
        return partition?.high === '0';
      });
    },
    growTo: async (count: number) => {
      await admin.createPartitions({ topicPartitions: [{ topic, count }] });
    },
    [Symbol.asyncDispose]: async () => {
      await admin.deleteTopics({ topics: [topic] });
      await admin.disconnect();
    },
  };
}

function batchLimit(bytes: number) {
  return [{ name: 'max.message.bytes', value: String(bytes) }];
}

/** A row with a payload of so many bytes. Its key is its hash. */
export function row(id: number, key_hash: number, payloadBytes: number): OutboxRow {
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

const nothing = () => undefined;

/** What a round of a relay works with: it leads in epoch 1 for ever, and nothing is there. */
export function roundParts(
  parts: Partial<Omit<RelayParts, 'publisher' | 'store'>> &
    Readonly<{ publisher: Partial<Publisher>; store: Partial<RelayParts['store']> }>,
): RelayParts {
  return {
    topic: 'topic',
    lease: leaseOf(() => ({ epoch: 1, remainingMs: Infinity })),
    monitor: { backlog: () => NO_BACKLOG, lowestId: () => 0 },
    metrics: countersOf({ published: 0, refused: 0, unknown: 0, leaseChanges: 0 }),
    log: quiet,
    settings: relayDefaults,
    ...parts,
    publisher: {
      openTopic: async () => ({ partitions: 1, batchBytesMax: 1_000_000 }),
      publish: async () => ({ kind: 'acked' }),
      abort: nothing,
      close: async () => nothing(),
      ...parts.publisher,
    },
    store: {
      waiting: async () => [],
      remove: async () => nothing(),
      park: async () => false,
      rememberPartitions: async (found) => found,
      hasOtherTopics: async () => false,
      ...parts.store,
    },
  };
}

/** A lease that is nobody else's. */
export function leaseOf(current: Lease['current']): Lease {
  return { start: nothing, stop: async () => nothing(), current };
}

/** A leader that has just begun, in epoch 1. */
export function newLeader(limits: TopicLimits): Leader {
  const found = { epoch: 1, limits, isAsExpected: true };
  return { found, batches: new Map(), failing: new Map(), nextReadAtMs: 0 };
}
