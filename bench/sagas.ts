import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { Client } from 'pg';
import pino from 'pino';
import { v7 as uuidv7 } from 'uuid';
import { startPostgres } from '#dev/embedded-postgres.ts';
import { createProviderSimulator } from '#dev/provider-simulator/provider-simulator.ts';
import { createDatabaseClock } from '#src/database/clock.ts';
import { createDatabase } from '#src/database/database.ts';
import { migrate } from '#src/database/migrate.ts';
import type { Unit } from '#src/event-store/event-store.ts';
import { createGroupCommit } from '#src/event-store/group-commit.ts';
import { createPostgresUnitStore } from '#src/event-store/postgres-store.ts';
import { createFulfilment } from '#src/fulfilment/fulfilment.ts';
import { changeStock } from '#src/fulfilment/inventory.ts';
import {
  createHttpPaymentProvider,
  createHttpShippingProvider,
} from '#src/fulfilment/providers/http-providers.ts';
import type { Providers } from '#src/fulfilment/providers/providers.ts';
import { createOrderCommandHandler } from '#src/orders/handle-order-command.ts';
import type { PersonalData } from '#src/orders/personal-data.ts';
import { readPersonalData } from '#src/orders/personal-data-store.ts';

/*
 * Fulfilments per second, from the command that places the order to the shipped order, in one process
 * on one durable Postgres (fsync on); and what each costs Postgres in transactions.
 *
 *   node bench/sagas.ts [--seconds 10] [--concurrency 64] [--providers instant|http]
 *
 * instant: the providers respond within the process. http: the simulator, in this process too.
 */
const { values } = parseArgs({
  options: {
    seconds: { type: 'string', default: '10' },
    concurrency: { type: 'string', default: '64' },
    providers: { type: 'string', default: 'instant' },
  },
});

const instant: Providers = {
  payments: {
    capture: async ({ key, amountCents, currency }) => ({
      outcome: 'ok',
      result: { paymentId: `pay-${key}`, amountCents, currency },
    }),
    lookUpCapture: async () => ({ outcome: 'absent' }),
    cancelCapture: async () => ({ outcome: 'cancelled' }),
    refund: async () => ({ outcome: 'refused', reason: 'not here' }),
    lookUpRefund: async () => ({ outcome: 'absent' }),
  },
  shipping: {
    ship: async ({ key }) => ({
      outcome: 'ok',
      result: { parcels: [{ trackingNumber: `T-${key}`, carrier: 'post' }] },
    }),
    lookUpShipment: async () => ({ outcome: 'absent' }),
    cancelShipment: async () => ({ outcome: 'cancelled' }),
  },
};

const personalData: PersonalData = {
  shippingAddress: {
    name: 'Ada Example',
    line1: '1 Sample Street',
    postalCode: '10115',
    city: 'Berlin',
    country: 'DE',
  },
  paymentMethod: 'pm_test',
};

const folder = await mkdtemp(join(tmpdir(), 'sagas-bench-'));
const simulator = createProviderSimulator({ ledgerFile: join(folder, 'ledger.jsonl') });
const postgres = await startPostgres({
  folder: join(folder, 'postgres'),
  database: 'orders',
  log: () => {},
});
const statistics = new Client({ connectionString: postgres.url });
try {
  await migrate(postgres.url);
  await statistics.connect();
  const bench = await createBench();
  await bench.run(3_000, Number(values.concurrency)); // warms up
  for (const concurrency of [1, Number(values.concurrency)]) {
    const before = await transactions();
    const { sagas, batches, seconds, p50Ms, p99Ms } = await bench.run(
      Number(values.seconds) * 1000,
      concurrency,
    );
    const after = await transactions();
    const perSaga = (count: number) => (count / sagas).toFixed(2);
    console.log(
      `${values.providers}, ${concurrency} at once: ${Math.round(sagas / seconds)} sagas/s ` +
        `(p50 ${p50Ms} ms, p99 ${p99Ms} ms), ${perSaga(batches)} writing transactions a saga, ` +
        `${perSaga(after - before)} with those that only read`,
    );
  }
  await bench.close();
} finally {
  await statistics.end();
  await simulator.close();
  await postgres.stop();
  await rm(folder, { recursive: true, force: true });
}

async function createBench() {
  const database = createDatabase(postgres.url, { writersMax: 2, poolMax: 10 }, console.error);
  const waiting = new Map<string, () => void>();
  let batches = 0;
  const commit = createGroupCommit(
    createPostgresUnitStore(database.writer),
    {
      batchMax: 64,
      slots: 2,
      queueMax: 10_000,
      streamMax: 10_000,
      reservedMax: 100,
      waitMaxMs: 5_000,
      oneByOneMsMax: 2_000,
      lockedMsMax: 1_000,
    },
    {
      committed: (units) => {
        batches += 1;
        fulfilment.committed(units);
        for (const orderId of units.flatMap(ended)) waiting.get(orderId)?.();
      },
      failed: (error) => console.error(error),
    },
  );
  const topic = 'order.events';
  const now = () => new Date();
  const log = pino({ level: 'error' });
  const providers = values.providers === 'http' ? await overHttp() : instant;
  const fulfilment = createFulfilment({
    commit,
    pool: database.pool,
    providers,
    readPersonalData: (orderId) => readPersonalData(database.pool, orderId),
    deadlines: { captureMs: 900_000, shipMs: 86_400_000, undoMs: 86_400_000 },
    limits: {
      callTimeoutMs: 30_000,
      leaseMarginMs: 5_000,
      concurrency: 1_000,
      pollMs: 1_000,
      retry: { baseMs: 1_000, maxMs: 300_000 },
      resendMsMax: 72_000_000,
      stopMsMax: 3_000,
    },
    topic,
    now,
    clock: createDatabaseClock(database.pool),
    log,
  });
  const { startOrWakeSaga } = fulfilment;
  const outboxIsFull = () => false;
  const handle = createOrderCommandHandler({
    isOwner: async () => true,
    orderOfReference: async () => undefined,
    commit,
    now,
    topic,
    outboxIsFull,
    startOrWakeSaga,
  });
  await fulfilment.start();
  for (let sku = 0; sku < 100; sku += 1)
    await changeStock(database.pool, { sku: `sku-${sku}`, onHand: 1_000_000_000 });

  const fulfilOne = async () => {
    const orderId = uuidv7();
    const { promise, resolve } = Promise.withResolvers<undefined>();
    waiting.set(orderId, () => resolve(undefined));
    const items = [0, 1].map(() => {
      const sku = `sku-${Math.floor(Math.random() * 100)}`;
      return { sku, quantity: 1, priceCents: 1250 };
    });
    const given = { hasShippingAddress: true, hasPaymentMethod: true } as const;
    const order = {
      orderId,
      customerId: 'c-1',
      currency: 'EUR',
      items,
      ...given,
      sagaId: uuidv7(),
    };
    const metadata = { correlationId: orderId, actor: 'bench' };
    await handle({
      orderId,
      command: { type: 'PlaceOrder', ...order },
      metadata,
      personalData,
    });
    await promise;
    waiting.delete(orderId);
  };

  return {
    run: async (durationMs: number, concurrency: number) => {
      const startedAt = performance.now();
      const batchesBefore = batches;
      const tookMs: number[] = [];
      const one = async () => {
        while (performance.now() - startedAt < durationMs) {
          const from = performance.now();
          await fulfilOne();
          tookMs.push(performance.now() - from);
        }
      };
      await Promise.all(Array.from({ length: concurrency }, one));
      const sorted = tookMs.toSorted((a, b) => a - b);
      const quantile = (q: number) => Math.round(sorted[Math.floor(sorted.length * q)] ?? 0);
      return {
        sagas: tookMs.length,
        batches: batches - batchesBefore,
        seconds: (performance.now() - startedAt) / 1000,
        p50Ms: quantile(0.5),
        p99Ms: quantile(0.99),
      };
    },
    close: async () => {
      await fulfilment.stop();
      await commit.idle();
      await database.close();
    },
  };
}

function ended({ summaries = [] }: Unit): string[] {
  return summaries.flatMap(({ order_id: id, status }) => (status === 'shipped' ? [id] : []));
}

async function overHttp(): Promise<Providers> {
  const connection = { url: await simulator.listen(), timeoutMs: 30_000, callsMax: 200 };
  return {
    payments: createHttpPaymentProvider(connection),
    shipping: createHttpShippingProvider(connection),
  };
}

/** Committed so far in this database, whether they wrote or not. */
async function transactions(): Promise<number> {
  await new Promise((resolve) => setTimeout(resolve, 1_500)); // Postgres counts with a delay
  await statistics.query('select pg_stat_clear_snapshot()');
  const { rows } = await statistics.query<{ count: number }>(
    'select xact_commit as count from pg_stat_database where datname = current_database()',
  );
  return rows[0]?.count ?? 0;
}
