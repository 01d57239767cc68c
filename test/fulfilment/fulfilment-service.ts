import pino from 'pino';
import { v7 as uuidv7 } from 'uuid';
import { createDatabaseClock, steeredClock } from '#src/database/clock.ts';
import { createDatabase } from '#src/database/database.ts';
import type { Unit } from '#src/event-store/event-store.ts';
import { createGroupCommit } from '#src/event-store/group-commit.ts';
import {
  createPostgresEventStore,
  createPostgresUnitStore,
} from '#src/event-store/postgres-store.ts';
import { readFulfilmentRow } from '#src/fulfilment/fulfilment-view.ts';
import { createFulfilment } from '#src/fulfilment/fulfilment.ts';
import type { FulfilmentDependencies } from '#src/fulfilment/fulfilment.ts';
import { changeStock } from '#src/fulfilment/inventory.ts';
import {
  createHttpPaymentProvider,
  createHttpShippingProvider,
} from '#src/fulfilment/providers/http-providers.ts';
import type { PaymentProvider } from '#src/fulfilment/providers/providers.ts';
import type { OrderCommand } from '#src/orders/domain/order-commands.ts';
import type { OrderItem } from '#src/orders/domain/order-events.ts';
import { createOrderCommandHandler } from '#src/orders/handle-order-command.ts';
import type { OrderRequest } from '#src/orders/handle-order-command.ts';
import { foldOrder } from '#src/orders/order-stream.ts';
import { readPersonalData } from '#src/orders/personal-data-store.ts';
import type { SagaDefinition } from '#src/sagas/saga-definition.ts';
import { decideRetry, operateSaga } from '#src/sagas/saga-operator.ts';
import { foldSaga, toRecordedSagaEvent } from '#src/sagas/saga.ts';
import { PERSONAL_DATA } from '#test/support/saga/personal-data.ts';
import { eventually } from '#test/support/poll.ts';
import { watchPoints } from '#test/support/saga/points.ts';
import type { ObserveSaga } from '#test/support/saga/points.ts';
import type { SagaWorld } from '#test/support/saga/world.ts';

/** No response takes so long, however busy the machine; for calls that get none, tests have their own. */
const CALL_TIMEOUT_MS = 30_000;
const isNew = ({ name, version }: SagaDefinition) => name === 'fulfilment' && version === 2;
/** Nobody asks for it, and it is kept under no key. */
const NO_RESPONSE = { requestHash: Buffer.of(), status: 202, etag: null, location: null, body: '' };
const LIMITS = {
  batchMax: 64,
  slots: 2,
  queueMax: 2000,
  streamMax: 2000,
  reservedMax: 100,
  waitMaxMs: 5_000,
  oneByOneMsMax: 2_000,
  lockedMsMax: 1_000,
};

export type Changes = Partial<
  Pick<FulfilmentDependencies, 'now' | 'providers' | 'isPaused' | 'readPersonalData'>
> &
  Readonly<{
    /** Called at every point that its sagas pass. */
    observe?: ObserveSaga;
    /** In place of the database's clock. */
    databaseNow?: () => Date;
    /** Before every batch, between its decisions and their way to the database. */
    beforeWrite?: () => void | Promise<void>;
    /** In place of the payment provider. */
    payments?: (real: PaymentProvider) => PaymentProvider;
    limits?: Partial<FulfilmentDependencies['limits']>;
    deadlines?: Partial<FulfilmentDependencies['deadlines']>;
  }>;

/** One process of the service, as far as sagas go; its own pools, its own group commit. */
export function createService(
  { database: { url: databaseUrl }, url }: SagaWorld,
  changes: Changes = {},
) {
  const now = changes.now ?? (() => new Date());
  const log = pino({ level: 'silent' });
  const callTimeoutMs = changes.limits?.callTimeoutMs ?? CALL_TIMEOUT_MS;
  const connection = { url, timeoutMs: callTimeoutMs, callsMax: 50 };
  const database = createDatabase(databaseUrl, { writersMax: 2, poolMax: 4 }, () => {});
  const { databaseNow } = changes;
  const clock = databaseNow ? steeredClock(databaseNow) : createDatabaseClock(database.pool);
  const committed = (units: readonly Unit[]) => fulfilment.committed(units);
  const store = createPostgresUnitStore(database.writer);
  const write: typeof store.write = async (units) => {
    await changes.beforeWrite?.();
    return store.write(units);
  };
  const { wrapCommit, wrapProviders } = watchPoints(changes.observe ?? (() => undefined));
  const commit = wrapCommit(
    createGroupCommit({ ...store, write }, LIMITS, { committed, failed: () => {} }),
  );
  const topic = 'order.events';
  const payments = createHttpPaymentProvider(connection);
  const fulfilment = createFulfilment({
    commit,
    pool: database.pool,
    providers: wrapProviders({
      payments: changes.payments?.(payments) ?? payments,
      shipping: createHttpShippingProvider(connection),
    }),
    readPersonalData: (orderId) => readPersonalData(database.pool, orderId),
    topic,
    now,
    clock,
    log,
    ...changes,
    deadlines: { captureMs: 900_000, shipMs: 86_400_000, undoMs: 86_400_000, ...changes.deadlines },
    limits: {
      callTimeoutMs,
      leaseMarginMs: 200,
      concurrency: 50,
      pollMs: 20,
      retry: { baseMs: 5, maxMs: 20 },
      resendMsMax: 72_000_000,
      stopMsMax: 2_000,
      ...changes.limits,
    },
  });
  const { startOrWakeSaga } = fulfilment;
  const handle = createOrderCommandHandler({
    isOwner: async () => true,
    orderOfReference: async () => undefined,
    commit,
    now,
    topic,
    outboxIsFull: () => false,
    startOrWakeSaga,
  });
  const eventStore = createPostgresEventStore(database.pool);
  const metadata = { correlationId: 'test', actor: 'test' };

  const sagaIdOf = async (orderId: string) => {
    const { rows } = await database.pool.query(
      `select saga_id from saga_work where subject_id = $1 and definition = 'fulfilment'`,
      [orderId],
    );
    return String(rows[0]?.saga_id);
  };

  return {
    fulfilment,
    commit,
    reads: database.reads,
    pool: database.pool,
    eventStore,
    readPersonalData: (orderId: string) => readPersonalData(database.pool, orderId),
    start: () => fulfilment.start(),
    handle: (orderId: string, command: OrderCommand, request: Partial<OrderRequest> = {}) =>
      handle({ metadata, ...request, orderId, command }),
    /** Places an order that is fulfilled at once; two books of 1250 each unless told otherwise. */
    place: async (
      items: Omit<OrderItem, 'lineId'>[] = [{ sku: 'book', quantity: 2, priceCents: 1250 }],
      changes: Readonly<{ sagaId?: string | undefined; orderId?: string }> = { sagaId: uuidv7() },
    ) => {
      const { sagaId, orderId = uuidv7() } = changes;
      await handle({
        orderId,
        command: {
          type: 'PlaceOrder',
          orderId,
          customerId: 'c-1',
          currency: 'EUR',
          items,
          hasShippingAddress: true,
          hasPaymentMethod: true,
          ...(sagaId !== undefined && { sagaId }),
        },
        personalData: PERSONAL_DATA,
        metadata,
      });
      return orderId;
    },
    /** As an operator does. */
    retry: async (orderId: string) => {
      const { sagaId, epoch } = (await readFulfilmentRow(database.reads, orderId))!;
      const saga = { sagaId, orderId, epoch, metadata };
      await operateSaga(
        commit,
        () => fulfilment.runnable.find(isNew)!,
        fulfilment.commitContext,
        saga,
        {
          decide: (current, definition) => decideRetry(current, definition, false),
          respond: () => NO_RESPONSE,
        },
      );
    },
    setOnHand: (sku: string, onHand: number) => changeStock(database.pool, { sku, onHand }),
    sagaIdOf,
    order: async (orderId: string) => foldOrder(await eventStore.readStream(orderId))!,
    saga: async (orderId: string) => {
      const stream = await eventStore.readStream(await sagaIdOf(orderId));
      return foldSaga(stream.map(toRecordedSagaEvent))!;
    },
    sagaEvents: async (orderId: string) => {
      const stream = await eventStore.readStream(await sagaIdOf(orderId));
      return stream.map(({ type, data }) => {
        const step = data !== null && typeof data === 'object' && 'step' in data ? data.step : '';
        return `${type} ${String(step)}`.trim();
      });
    },
    async [Symbol.asyncDispose]() {
      await fulfilment.stop();
      await commit.idle();
      await database.close();
    },
  };
}

export type Service = ReturnType<typeof createService>;

/** Waits until the saga of the order has come to rest, and tells in what state. */
export function resting({ saga }: Service, orderId: string) {
  return eventually(async () => {
    const { state } = await saga(orderId);
    return state === 'running' || state === 'compensating' ? false : state;
  });
}

/** What really happened, by the ledger: [captured, refunded] in cents, and parcels. */
export async function ledgerOf({ simulator }: SagaWorld, orderId: string) {
  const entries = await simulator.ledger({ orderId });
  const cents = (effect: string) =>
    entries
      .filter((entry) => entry.effect === effect)
      .reduce((sum, { amountCents = 0 }) => sum + amountCents, 0);
  return {
    captures: entries.filter(({ effect }) => effect === 'capture').length,
    capturedCents: cents('capture'),
    refundedCents: cents('refund'),
    parcels: entries.filter(({ effect }) => effect === 'shipment').length,
  };
}

/** What the stock says, by sku: [on hand, reserved]. */
export async function stock({ database }: SagaWorld): Promise<Record<string, [number, number]>> {
  const rows = await database.query<{ sku: string; on_hand: number; reserved: number }>(
    'select sku, on_hand, reserved from stock',
  );
  return Object.fromEntries(rows.map(({ sku, on_hand, reserved }) => [sku, [on_hand, reserved]]));
}
