import type { FastifyInstance } from 'fastify';
import type { Logger } from 'pino';
import { createHealthCheck } from './app-health.ts';
import type { Config } from './config.ts';
import type { ClockWatch } from './database/clock.ts';
import type { Database } from './database/database.ts';
import type { GroupCommit } from './event-store/group-commit.ts';
import { createPostgresEventStore } from './event-store/postgres-store.ts';
import { fulfilmentRoutes } from './fulfilment/fulfilment-routes.ts';
import { readFulfilmentStates } from './fulfilment/fulfilment-view.ts';
import type { Fulfilment } from './fulfilment/fulfilment.ts';
import { refundRoutes } from './fulfilment/refund-routes.ts';
import { inventoryRoutes } from './fulfilment/inventory-routes.ts';
import type { Authentication } from './http/access.ts';
import type { ChannelSpec } from './http/asyncapi.ts';
import { documentationRoutes } from './http/documentation-routes.ts';
import { healthRoutes } from './http/health-routes.ts';
import { createInFlight } from './http/idempotency.ts';
import type { Metrics } from './http/metrics.ts';
import { createServer } from './http/server.ts';
import { createOrderCommandHandler } from './orders/handle-order-command.ts';
import { orderCommandRoutes } from './orders/order-command-routes.ts';
import type { CommandOutcome } from './orders/order-command-routes.ts';
import { isOwner, orderOfReference } from './orders/orders-summary.ts';
import { orderQueryRoutes } from './orders/order-query-routes.ts';
import { personalDataRoutes } from './orders/personal-data-routes.ts';
import { isLoopback } from './network/loopback.ts';
import type { Relay } from './outbox/relay.ts';
import { toProblem } from './to-problem.ts';

/** Operators, a scraper and probes need no more. */
const ADMIN_CONNECTIONS_MAX = 100;

/** For a shop without a page for each order: a valid URI that is no address. */
const ORDER_NAME = 'urn:uuid:{orderId}';

type HttpParts = Readonly<{
  config: Config;
  log: Logger;
  metrics: Metrics;
  database: Database;
  relay: Relay;
  commit: GroupCommit;
  fulfilment: Fulfilment;
  outboxIsFull: () => boolean;
  isDraining: () => boolean;
  now: () => Date;
  clockWatch: ClockWatch;
  authentication: Authentication;
  channel: ChannelSpec;
}>;

/** What the service listens on. */
type Http = Readonly<{
  /** Resolves to the address for callers. */
  listen(): Promise<string>;
  close(): Promise<void>;
}>;

/**
 * The server for callers and, with ADMIN_PORT, one of its own for operators, which then has the metrics and the
 * documentation.
 */
export function createHttp(parts: HttpParts): Http {
  const { config, database, metrics, relay, isDraining, log, channel, authentication } = parts;
  const check = createHealthCheck(database, relay, parts.clockWatch);
  const api = createApi(parts);
  const { ADMIN_PORT: adminPort, ADMIN_HOST: host } = config;
  if (adminPort === undefined) {
    void api.register(healthRoutes, { check, isDraining, metrics });
    void api.register(documentationRoutes, { channel });
    return { listen: () => listen(api, config), close: () => api.close() };
  }
  const limits = { connectionsMax: ADMIN_CONNECTIONS_MAX };
  const admin = createServer({ log, authentication, metrics, isDraining, limits });
  // Whoever can reach only the main port learns no name of a host or a user, as errors may have them.
  const checkInShort = async () => ({ ready: (await check()).ready, details: {} });
  void api.register(healthRoutes, { check: checkInShort, isDraining });
  void admin.register(healthRoutes, { check, isDraining, metrics });
  void admin.register(documentationRoutes, { channel, api });
  return {
    async listen() {
      await api.ready();
      const at = { host, port: adminPort };
      const address = await admin.listen(at).catch(cannotListen('ADMIN_HOST and ADMIN_PORT'));
      log.info({ address }, 'listening for operators');
      return listen(api, config);
    },
    close: async () => void (await Promise.all([api.close(), admin.close()])),
  };
}

/** The backlog is as long as the limit: a connection beyond it is reset and never gets a 503. */
function listen(server: FastifyInstance, config: Config): Promise<string> {
  const at = { host: config.HOST, port: config.PORT, backlog: config.CONNECTIONS_MAX };
  return server.listen(at).catch(cannotListen('HOST and PORT'));
}

/** Says which settings are wrong. Otherwise the error looks like one of the connection to Postgres. */
function cannotListen(settings: string): (error: unknown) => never {
  return (error) => {
    if (!(error instanceof Error && 'syscall' in error)) throw error;
    throw new Error(`cannot listen on ${settings}: ${error.message}`, { cause: error });
  };
}

/** The server with the routes for orders, fulfilments and stock. */
function createApi({ config, database, metrics, isDraining, log, ...parts }: HttpParts) {
  const { reads } = database;
  const { startOrWakeSaga } = parts.fulfilment;
  const handle = createOrderCommandHandler({
    ...parts,
    topic: config.KAFKA_TOPIC,
    startOrWakeSaga,
    isOwner: (orderId, customerId) => isOwner(reads, orderId, customerId),
    orderOfReference: (principal, reference) => orderOfReference(reads, principal, reference),
  });
  const eventStore = createPostgresEventStore(reads.pool);
  const inFlight = createInFlight();
  const fulfilmentStates = (orderIds: readonly string[]) => readFulfilmentStates(reads, orderIds);
  const server = createServer({
    log,
    authentication: parts.authentication,
    isLocalOnly: !config.AUTH && isLoopback(config.HOST),
    metrics,
    isDraining,
    toProblem,
    limits: {
      connectionsMax: config.CONNECTIONS_MAX,
      perAddressMax: config.CONNECTIONS_PER_ADDRESS,
      heldBytesMax: config.REQUEST_BYTES_MAX,
    },
    rateLimits: {
      perAddress: config.RATE_LIMIT_PER_ADDRESS,
      perPrincipal: config.RATE_LIMIT_PER_PRINCIPAL,
    },
    trustedProxies: config.TRUSTED_PROXIES,
    allowedOrigins: config.CORS_ORIGINS,
  });
  const commandParts = {
    handle,
    inFlight,
    toProblem,
    countCommand: (command: string, outcome: CommandOutcome) =>
      metrics.commands.inc({ command, outcome }),
  };
  void server.register(orderCommandRoutes, commandParts);
  void server.register(personalDataRoutes, { ...commandParts, reads });
  const orderPageUrl = config.ORDER_PAGE_URL || ORDER_NAME;
  void server.register(orderQueryRoutes, { eventStore, reads, fulfilmentStates, orderPageUrl });
  const sagaAccess = { ...parts, inFlight, eventStore, reads };
  void server.register(fulfilmentRoutes, sagaAccess);
  void server.register(refundRoutes, sagaAccess);
  void server.register(inventoryRoutes, { reads, writes: database.writes, inFlight });
  return server;
}
