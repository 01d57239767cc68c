import { setTimeout as delay } from 'node:timers/promises';
import type { Pool } from 'pg';
import type { Logger } from 'pino';
import { createClocks, refuseWhileClockIsOff, withClock } from './app-clock.ts';
import { createHealthCheck } from './app-health.ts';
import {
  countAppends,
  countLoads,
  countLostLogLines,
  sagaMetrics,
  watchGauges,
} from './app-metrics.ts';
import type { Config } from './config.ts';
import { createDatabase } from './database/database.ts';
import type { ClockWatch } from './database/clock.ts';
import type { Database } from './database/database.ts';
import { requireReadable } from './event-store/event-codec.ts';
import type { Unit } from './event-store/event-store.ts';
import { createGroupCommit } from './event-store/group-commit.ts';
import type { GroupCommit } from './event-store/group-commit.ts';
import { createPostgresEventStore, createPostgresUnitStore } from './event-store/postgres-store.ts';
import type { Providers } from './fulfilment/fulfilment-definition.ts';
import { readFulfilmentStates } from './fulfilment/fulfilment-view.ts';
import { fulfilmentRoutes } from './fulfilment/fulfilment-routes.ts';
import { createFulfilment } from './fulfilment/fulfilment.ts';
import type { Fulfilment, FulfilmentDependencies } from './fulfilment/fulfilment.ts';
import { inventoryRoutes } from './fulfilment/inventory-routes.ts';
import {
  createHttpPaymentProvider,
  createHttpShippingProvider,
} from './fulfilment/providers/http-providers.ts';
import { documentationRoutes } from './http/documentation-routes.ts';
import { healthRoutes } from './http/health-routes.ts';
import { createIdempotencyKeyPruner, createInFlight } from './http/idempotency.ts';
import { createMetrics } from './http/metrics.ts';
import type { Metrics } from './http/metrics.ts';
import { createServer } from './http/server.ts';
import { createOrderCommandHandler } from './orders/handle-order-command.ts';
import { orderCommandRoutes } from './orders/order-command-routes.ts';
import { orderEventCodec } from './orders/order-stream.ts';
import { orderMessageChannel } from './orders/order-messages.ts';
import { orderQueryRoutes } from './orders/order-query-routes.ts';
import { ordersSummaryProjection } from './orders/orders-summary.ts';
import { createKafkaPublisher } from './outbox/kafka-publisher.ts';
import { createOutboxMonitor } from './outbox/outbox-monitor.ts';
import type { Publisher } from './outbox/outbox.ts';
import { createRelay } from './outbox/relay.ts';
import type { Relay } from './outbox/relay.ts';
import { createProjectionVerifier } from './projections/projection.ts';
import { sagaEventCodec } from './sagas/saga.ts';
import { toProblem } from './to-problem.ts';
import type { Worker } from './workers/worker.ts';

/** Transactions of the write path under way at once; more only make batches smaller. */
const COMMIT_SLOTS = 2;
/** How long a command may wait for its transaction to start. */
const COMMAND_WAIT_MS_MAX = 5_000;
/** The share of the queue that commands on one order may take, and what they may take of a small queue. */
const STREAM_SHARE = { part: 1 / 32, least: 8 } as const;
/** How long the members of a failed batch may be written one by one. */
const ONE_BY_ONE_MS_MAX = 2_000;
/** How long a command is tried while somebody else has locked a row that it needs. */
const LOCKED_MS_MAX = 1_000;
/** Providers forget keys after a day at the earliest. */
const RESEND_MS_MAX = 20 * 3_600_000;
/** How long a stop waits for calls under way. The outcome of the others is looked up later. */
const SAGAS_STOP_MS_MAX = 3_000;

/** The whole service, built and not yet started. */
export type App = Readonly<{
  /** Starts everything; returns the address that it listens on. The schema must be in place. */
  start(): Promise<string>;
  /** Answers what is under way, hands the lease over and closes; takes less than 10 s. */
  stop(): Promise<void>;
}>;

/** What a test replaces (every clock) or wraps (the ports that a saga works with); and the log's losses. */
export type AppSeams = Readonly<{
  now?: () => Date;
  wrapCommit?: (commit: GroupCommit) => GroupCommit;
  wrapProviders?: (providers: Providers) => Providers;
  logLinesLost?: () => number;
}>;

/** Builds every part by hand and passes each what it needs: nothing else connects parts. */
export function createApp(
  config: Config,
  log: Logger,
  { now: steered, logLinesLost = () => 0, ...seams }: AppSeams = {},
): App {
  let draining = false;
  const metrics = createMetrics();
  countLostLogLines(metrics, logLinesLost);
  const database = createDatabase(
    config.DATABASE_URL,
    { writersMax: COMMIT_SLOTS, poolMax: config.DATABASE_POOL_MAX },
    (error) => log.warn({ err: error }, 'lost an idle database connection'),
  );
  const { pool } = database;
  const clocks = createClocks(steered, pool, metrics, log);
  const { now, clockWatch, clockWorker } = clocks;
  const { outboxMonitor, relay } = createOutbox(config, pool, metrics, log);
  const keyPruner = createIdempotencyKeyPruner(pool, log);
  const background = [
    relay,
    outboxMonitor,
    keyPruner,
    clockWorker,
    ...createVerifier(config, pool, metrics, log),
  ];
  const groupCommit = createCommit(config, { database, metrics, log }, (units) => {
    relay.wake();
    fulfilment.committed(units);
  });
  const guarded = refuseWhileClockIsOff(groupCommit, clockWatch);
  const commit = seams.wrapCommit?.(guarded) ?? guarded;
  const sagaParts = { ...clocks, commit, pool, log, events: sagaMetrics(metrics) };
  const fulfilment = createSagas(config, seams, sagaParts);
  const isDraining = () => draining;
  const parts = { config, database, metrics, relay, commit, fulfilment, isDraining, now, log };
  const server = createHttp({ ...parts, clockWatch, outboxIsFull: outboxMonitor.isFull });
  const sagas = fulfilment.definitions.map(({ name }) => name);
  const topic = config.KAFKA_TOPIC;
  watchGauges(metrics, { commit, relay, outbox: outboxMonitor, topic, sagas, database });

  return {
    async start() {
      await requireReadable(pool, [...orderEventCodec.readable, ...sagaEventCodec.readable]);
      await outboxMonitor.refresh().catch((err: unknown) => {
        log.warn({ err }, 'could not look into the outbox, will look again');
      });
      await clockWatch.refresh();
      await fulfilment.start();
      for (const part of background) part.start();
      return listen(server, config);
    },
    async stop() {
      draining = true;
      await delay(config.SHUTDOWN_DELAY_MS);
      await Promise.all([server.close(), fulfilment.stop()]);
      await commit.idle();
      await Promise.all(background.map((part) => part.stop()));
      await database.close();
    },
  };
}

/** Connections that wait to be accepted past the backlog are reset, where others hear 503. */
function listen(server: ReturnType<typeof createServer>, config: Config): Promise<string> {
  return server.listen({
    host: config.HOST,
    port: config.PORT,
    backlog: config.CONNECTIONS_MAX,
  });
}

type HttpParts = Readonly<{
  config: Config;
  database: Database;
  metrics: Metrics;
  relay: Relay;
  commit: GroupCommit;
  fulfilment: Fulfilment;
  outboxIsFull: () => boolean;
  isDraining: () => boolean;
  now: () => Date;
  clockWatch: ClockWatch;
  log: Logger;
}>;

/** The server with every route that it has. */
function createHttp({ config, database, metrics, relay, isDraining, log, ...parts }: HttpParts) {
  const health = createHealthCheck(database, relay);
  const { reads } = database;
  const { startOrWakeSaga } = parts.fulfilment;
  const handle = createOrderCommandHandler({
    ...parts,
    topic: config.KAFKA_TOPIC,
    startOrWakeSaga,
  });
  const eventStore = createPostgresEventStore(reads.pool);
  const inFlight = createInFlight();
  const fulfilmentStates = (orderIds: readonly string[]) => readFulfilmentStates(reads, orderIds);
  const server = createServer({
    log,
    metrics,
    isDraining,
    toProblem,
    limits: { connectionsMax: config.CONNECTIONS_MAX, heldBytesMax: config.REQUEST_BYTES_MAX },
  });
  void server.register(orderCommandRoutes, {
    handle,
    inFlight,
    toProblem,
    countCommand: (command, outcome) => metrics.commands.inc({ command, outcome }),
  });
  void server.register(orderQueryRoutes, { eventStore, reads, fulfilmentStates });
  void server.register(fulfilmentRoutes, { ...parts, inFlight, eventStore, reads });
  void server.register(inventoryRoutes, { reads, writes: database.writes, inFlight });
  void server.register(healthRoutes, {
    check: () => withClock(health, parts.clockWatch),
    isDraining,
    metrics,
  });
  void server.register(documentationRoutes, {
    channel: orderMessageChannel(config.KAFKA_TOPIC, newTopic(config)),
  });
  return server;
}

function createCommit(
  config: Config,
  { database, metrics, log }: Pick<HttpParts, 'database' | 'metrics' | 'log'>,
  committed: (units: readonly Unit[]) => void,
): GroupCommit {
  const limits = {
    batchMax: config.COMMAND_BATCH_MAX,
    slots: COMMIT_SLOTS,
    queueMax: config.COMMAND_QUEUE_MAX,
    streamMax: Math.max(
      STREAM_SHARE.least,
      Math.floor(config.COMMAND_QUEUE_MAX * STREAM_SHARE.part),
    ),
    reservedMax: config.SAGA_CONCURRENCY,
    waitMaxMs: COMMAND_WAIT_MS_MAX,
    oneByOneMsMax: ONE_BY_ONE_MS_MAX,
    lockedMsMax: LOCKED_MS_MAX,
  };
  const store = createPostgresUnitStore(database.writer);
  return createGroupCommit(countLoads(store, metrics), limits, {
    committed(units, durationMs) {
      committed(units);
      countAppends(metrics, units, durationMs);
    },
    failed(error, size) {
      log.error({ err: error, size }, 'commit failed');
      metrics.failedAppends.inc({ failure: error.failure });
    },
    retried: (reason) => metrics.retries.inc({ reason }),
  });
}

function createSagas(
  config: Config,
  { wrapProviders }: AppSeams,
  parts: Pick<FulfilmentDependencies, 'now' | 'clock' | 'commit' | 'pool' | 'log' | 'events'> &
    Pick<HttpParts, 'clockWatch'>,
): Fulfilment {
  const providers = createProviders(config);
  return createFulfilment({
    ...parts,
    isPaused: parts.clockWatch.isOff,
    providers: providers && wrapProviders ? wrapProviders(providers) : providers,
    topic: config.KAFKA_TOPIC,
    deadlines: {
      captureMs: config.CAPTURE_DEADLINE_S * 1000,
      shipMs: config.SHIP_DEADLINE_S * 1000,
      undoMs: config.UNDO_DEADLINE_S * 1000,
    },
    limits: {
      callTimeoutMs: config.PROVIDER_TIMEOUT_MS,
      leaseMarginMs: config.SAGA_LEASE_MARGIN_MS,
      concurrency: config.SAGA_CONCURRENCY,
      pollMs: config.SAGA_POLL_MS,
      retry: { baseMs: config.SAGA_RETRY_MS, maxMs: config.SAGA_RETRY_MS_MAX },
      resendMsMax: RESEND_MS_MAX,
      stopMsMax: SAGAS_STOP_MS_MAX,
    },
  });
}

/** None where there is no address of a provider: orders are then handled by hand. */
function createProviders(config: Config): Providers | undefined {
  if (config.PAYMENT_URL === '') return undefined;
  const connection = (url: string, apiKey: string) => ({
    url,
    ...(apiKey !== '' && { apiKey }),
    timeoutMs: config.PROVIDER_TIMEOUT_MS,
    callsMax: config.PROVIDER_CALLS_MAX,
  });
  return {
    payments: createHttpPaymentProvider(connection(config.PAYMENT_URL, config.PAYMENT_API_KEY)),
    shipping: createHttpShippingProvider(connection(config.SHIPPING_URL, config.SHIPPING_API_KEY)),
  };
}

/** None where it is switched off. */
function createVerifier(config: Config, pool: Pool, metrics: Metrics, log: Logger): Worker[] {
  if (config.VERIFY_INTERVAL_S === 0) return [];
  const projection = ordersSummaryProjection;
  const verifier = createProjectionVerifier({
    pool,
    projection,
    everyMs: config.VERIFY_INTERVAL_S * 1000,
    onVerified: ({ checked, mismatches }) => {
      metrics.verifiedRows.inc({ kind: projection.table }, checked);
      metrics.mismatchedRows.inc({ kind: projection.table }, mismatches);
    },
    log,
  });
  return [verifier];
}

function createOutbox(config: Config, pool: Pool, metrics: Metrics, log: Logger) {
  const outboxMonitor = createOutboxMonitor({ pool, rowsMax: config.OUTBOX_MAX_ROWS, log });
  const relay = createRelay({
    pool,
    topic: config.KAFKA_TOPIC,
    publisher: createPublisher(config, log),
    monitor: outboxMonitor,
    metrics,
    log,
  });
  return { outboxMonitor, relay };
}

/** None where the relay is off, or where there is no Kafka to publish to. */
function createPublisher(config: Config, log: Logger): Publisher | undefined {
  if (!config.RELAY || config.KAFKA_BROKERS.length === 0) return undefined;
  return createKafkaPublisher({
    brokers: config.KAFKA_BROKERS,
    newTopic: newTopic(config),
    log,
  });
}

function newTopic(config: Config) {
  return {
    partitions: config.KAFKA_TOPIC_PARTITIONS,
    replication: config.KAFKA_TOPIC_REPLICATION,
  };
}
