import { setTimeout as delay } from 'node:timers/promises';
import type { Logger } from 'pino';
import { createHttp } from './app-http.ts';
import {
  countAppends,
  countAttempts,
  countLoads,
  countLostLogLines,
  watchGauges,
} from './app-metrics.ts';
import type { Config } from './config.ts';
import { createDatabase } from './database/database.ts';
import { createClockWatch, createDatabaseClock, steeredClock } from './database/clock.ts';
import type { ClockWatch } from './database/clock.ts';
import type { Database } from './database/database.ts';
import { requireReadable } from './event-store/event-codec.ts';
import { ClockOff } from './event-store/event-store.ts';
import type { Unit } from './event-store/event-store.ts';
import { createGroupCommit } from './event-store/group-commit.ts';
import type { GroupCommit } from './event-store/group-commit.ts';
import { createPostgresUnitStore } from './event-store/postgres-store.ts';
import { createApiKeys } from './auth/api-keys.ts';
import { createAuthenticate } from './auth/authentication.ts';
import { createKeySet } from './auth/jwks.ts';
import { createJwtAuthenticator } from './auth/jwt.ts';
import { createFulfilment } from './fulfilment/fulfilment.ts';
import type { Fulfilment, FulfilmentDependencies } from './fulfilment/fulfilment.ts';
import {
  createHttpPaymentProvider,
  createHttpShippingProvider,
} from './fulfilment/providers/http-providers.ts';
import type { Providers } from './fulfilment/providers/providers.ts';
import { createIdempotencyKeyPruner } from './http/idempotency.ts';
import { createMetrics } from './http/metrics.ts';
import type { Metrics } from './http/metrics.ts';
import { orderEventCodec, ordersSummaryProjection } from './orders/order-stream.ts';
import { readPersonalData } from './orders/personal-data-store.ts';
import { orderMessageChannel } from './orders/order-messages.ts';
import { isLoginExposed, kafkaConnection } from './outbox/kafka-connection.ts';
import { createOutboxMonitor } from './outbox/outbox-monitor.ts';
import { loadPublisher } from './outbox/publishers.ts';
import { createRelay } from './outbox/relay.ts';
import { createProjectionVerifier } from './projections/projection.ts';
import { sagaEventCodec } from './sagas/saga.ts';
import { createWorker } from './workers/worker.ts';
import type { Worker } from './workers/worker.ts';

/** Concurrent transactions of the write path. More would only make batches smaller. */
const COMMIT_SLOTS = 2;
/** How long a command may wait for its transaction to start. */
const COMMAND_WAIT_MS_MAX = 5_000;
/** The part of the queue that commands on one order may take, but at least so many commands. */
const STREAM_SHARE = { part: 1 / 32, least: 8 } as const;
/** How long the members of a failed batch may be written one by one. */
const ONE_BY_ONE_MS_MAX = 2_000;
/** How long a command is retried while another transaction has locked a row that it needs. */
const LOCKED_MS_MAX = 1_000;
/** Providers forget keys after a day at the earliest. */
const RESEND_MS_MAX = 20 * 3_600_000;
/** How long a stop waits for calls in progress. The outcome of a call that is cut off is looked up later. */
const SAGAS_STOP_MS_MAX = 3_000;
const CLOCK_CHECK_MS = 5_000;
const CLOCK_BACKOFF = { baseMs: 1_000, maxMs: 5_000 };

/** The whole service, built and not yet started. */
export type App = Readonly<{
  /** Starts everything. Resolves to the address that it listens on. The schema must be in place. */
  start(): Promise<string>;
  /** Responds to the requests in progress, releases the lease and closes. Takes less than 10 s. */
  stop(): Promise<void>;
}>;

/** What a test may replace (the clocks) or wrap, and how many lines of the log were lost. */
export type AppSeams = Readonly<{
  now?: () => Date;
  wrapCommit?: (commit: GroupCommit) => GroupCommit;
  wrapProviders?: (providers: Providers) => Providers;
  logLinesLost?: () => number;
}>;

/** What every part needs. */
type Base = Readonly<{ config: Config; log: Logger; metrics: Metrics; database: Database }>;

/** Builds every part and passes each what it needs. Nothing else connects parts. */
export async function createApp(
  config: Config,
  log: Logger,
  { now: steered, logLinesLost = () => 0, ...seams }: AppSeams = {},
): Promise<App> {
  let draining = false;
  const isDraining = () => draining;
  const metrics = createMetrics();
  const database = createDatabase(
    config.DATABASE_URL,
    { writersMax: COMMIT_SLOTS, poolMax: config.DATABASE_POOL_MAX },
    (error) => log.warn({ err: error }, 'lost an idle database connection'),
    (host) => log.warn({ host }, 'moved to another primary of the database'),
  );
  const { pool } = database;
  const base = { config, log, metrics, database };
  const clocks = createClocks(base, steered);
  const { now, clockWatch } = clocks;
  const { outboxMonitor, relay } = await createOutbox(base);
  const groupCommit = createCommit(base, clockWatch, (units) => {
    relay.wake();
    fulfilment.committed(units);
  });
  const commit = seams.wrapCommit?.(groupCommit) ?? groupCommit;
  const fulfilment = createSagas(base, seams, { ...clocks, commit });
  const outboxIsFull = outboxMonitor.isFull;
  const { authentication, authBackground } = createAuthentication(base);
  const parts = { ...base, relay, commit, fulfilment, isDraining, now, clockWatch, outboxIsFull };
  const channel = orderMessageChannel(config.KAFKA_TOPIC, newTopic(config));
  const http = createHttp({ ...parts, authentication, channel });
  const keyPruner = createIdempotencyKeyPruner(pool, log);
  const always = [relay, outboxMonitor, keyPruner, clocks.worker];
  const background = [...always, ...authBackground, ...createVerifier(base)];
  const sagas = [...new Set(fulfilment.definitions.map(({ name }) => name))];
  const topic = config.KAFKA_TOPIC;
  watchGauges(metrics, { commit, relay, outboxMonitor, clockWatch, topic, sagas, database });
  countLostLogLines(metrics, logLinesLost);

  return {
    async start() {
      await requireReadable(pool, [...orderEventCodec.readable, ...sagaEventCodec.readable]);
      await outboxMonitor.refresh().catch((error: unknown) => {
        log.warn({ err: error }, 'could not count the outbox, will try again');
      });
      await clockWatch.refresh();
      await fulfilment.start();
      for (const part of background) part.start();
      return http.listen();
    },
    async stop() {
      draining = true;
      await delay(config.SHUTDOWN_DELAY_MS);
      await Promise.all([http.close(), fulfilment.stop()]);
      await commit.idle();
      await Promise.all(background.map((part) => part.stop()));
      await database.close();
    },
  };
}

/** What finds out who sends a request, and its background work. */
function createAuthentication({ config, database, log }: Base) {
  if (!config.AUTH) return { authentication: 'off', authBackground: [] } as const;
  const apiKeys = createApiKeys(database.pool, log);
  if (config.JWT_JWKS_URL === '') {
    return { authentication: createAuthenticate([apiKeys]), authBackground: [apiKeys] };
  }
  const keys = createKeySet({ url: config.JWT_JWKS_URL, log });
  const jwts = {
    isMine: () => true,
    authenticate: createJwtAuthenticator({
      keys,
      issuer: config.JWT_ISSUER,
      audience: config.JWT_AUDIENCE,
      customerClaim: config.JWT_CUSTOMER_CLAIM,
      ageSecondsMax: config.JWT_AGE_MAX_S,
    }),
  };
  const authentication = createAuthenticate([apiKeys, jwts]);
  return { authentication, authBackground: [apiKeys, keys.worker] };
}

/** The clock of this process and the clock of the database, or a steered one for both. A worker compares them. */
function createClocks({ database, log }: Base, steered: (() => Date) | undefined) {
  const now = steered ?? (() => new Date());
  const clock = steered ? steeredClock(steered) : createDatabaseClock(database.pool);
  const clockWatch = createClockWatch(clock, now, log);
  const worker = createWorker({
    name: 'clock watch',
    tick: clockWatch.refresh,
    idleMs: CLOCK_CHECK_MS,
    errorBackoff: CLOCK_BACKOFF,
    log,
  });
  return { now, clock, clockWatch, worker };
}

/**
 * The group commit. While the clock is off it refuses with ClockOff to write anything: the event would have a wrong
 * time for ever. Commands that write nothing, such as replays, still succeed.
 */
function createCommit(
  { config, database, metrics, log }: Base,
  clockWatch: ClockWatch,
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
  const commit = createGroupCommit(countLoads(store, metrics), limits, {
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
  return {
    ...commit,
    submit: (work) =>
      commit.submit({
        ...work,
        decide: (loaded, refusedBy) => {
          const decision = work.decide(loaded, refusedBy);
          if (decision.unit && clockWatch.isOff()) throw new ClockOff();
          return decision;
        },
      }),
  };
}

function createSagas(
  { config, database, metrics, log }: Base,
  { wrapProviders }: AppSeams,
  parts: Pick<FulfilmentDependencies, 'now' | 'clock' | 'commit'> &
    Readonly<{ clockWatch: ClockWatch }>,
): Fulfilment {
  const providers = createProviders(config);
  return createFulfilment({
    ...parts,
    pool: database.pool,
    log,
    onAttempt: countAttempts(metrics),
    isPaused: parts.clockWatch.isOff,
    providers: providers && wrapProviders ? wrapProviders(providers) : providers,
    readPersonalData: (orderId) => readPersonalData(database.pool, orderId),
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

/** None without the addresses of the providers. Orders are then fulfilled by hand. */
function createProviders(config: Config): Providers | undefined {
  if (config.PAYMENT_URL === '') return undefined;
  const connection = (url: string, apiKey: string) => ({
    url,
    ...(apiKey !== '' && { apiKey }),
    timeoutMs: config.PROVIDER_TIMEOUT_MS,
    callsMax: config.PROVIDER_CALLS_MAX,
  });
  return {
    payments: createHttpPaymentProvider(
      connection(config.PAYMENT_URL, config.PAYMENT_API_KEY),
      config.PAYMENT_CONTRACT,
    ),
    shipping: createHttpShippingProvider(
      connection(config.SHIPPING_URL, config.SHIPPING_API_KEY),
      config.SHIPPING_CONTRACT,
    ),
  };
}

/** One verifier, or none if it is turned off. */
function createVerifier({ config, database, metrics, log }: Base): Worker[] {
  if (config.VERIFY_INTERVAL_S === 0) return [];
  const projection = ordersSummaryProjection;
  const kind = projection.table;
  const verifier = createProjectionVerifier({
    pool: database.pool,
    projection,
    everyMs: config.VERIFY_INTERVAL_S * 1000,
    onVerified: ({ checked, mismatches }) => {
      metrics.verifiedRows.inc({ kind }, checked);
      metrics.mismatchedRows.inc({ kind }, mismatches);
    },
    log,
  });
  return [verifier];
}

/** The outbox and its relay, which is off without Kafka or if another relay publishes. */
async function createOutbox({ config, database: { pool }, metrics, log }: Base) {
  const { KAFKA_TOPIC: topic, OUTBOX_MAX_ROWS: rowsMax, RELAY } = config;
  const monitor = createOutboxMonitor({ pool, rowsMax, log });
  const connection = kafkaConnection(config);
  if (isLoginExposed(connection)) {
    log.warn('the login at Kafka and all events go over the network without TLS (KAFKA_TLS=off)');
  }
  const publisher =
    RELAY && connection.brokers.length > 0
      ? (await loadPublisher(config.KAFKA_CLIENT))({ connection, newTopic: newTopic(config), log })
      : undefined;
  const relay = createRelay({ pool, topic, publisher, monitor, metrics, log });
  return { outboxMonitor: monitor, relay };
}

function newTopic(config: Config) {
  return {
    partitions: config.KAFKA_TOPIC_PARTITIONS,
    replication: config.KAFKA_TOPIC_REPLICATION,
  };
}
