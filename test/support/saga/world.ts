import { pino } from 'pino';
import type { SimulatorClient } from '#dev/provider-simulator/simulator-client.ts';
import { createApp } from '#src/app.ts';
import type { AppSeams } from '#src/app.ts';
import { readConfig } from '#src/config.ts';
import { createTestDatabase } from '../database.ts';
import type { TestDatabase } from '../database.ts';
import { eventually } from '../poll.ts';
import { createSagaApi } from './api.ts';
import type { SagaApi } from './api.ts';
import { startSimulator } from '../simulator.ts';

/** A database and the two providers, for as many replicas as a test starts on them. */
export type SagaWorld = AsyncDisposable &
  Readonly<{
    database: TestDatabase;
    /** Of the providers. */
    url: string;
    simulator: SimulatorClient;
    /** Settings for a replica: all that makes a takeover quick. */
    env: Readonly<Record<string, string>>;
    setStock(sku: string, onHand: number): Promise<void>;
  }>;

export async function createSagaWorld(): Promise<SagaWorld> {
  const database = await createTestDatabase();
  const simulator = await startSimulator();
  const { url } = simulator;
  return {
    database,
    url,
    simulator: simulator.control,
    env: {
      PAYMENT_URL: url,
      SHIPPING_URL: url,
      PROVIDER_TIMEOUT_MS: '500',
      PROVIDER_CALLS_MAX: '1000',
      SAGA_CONCURRENCY: '10000',
      SAGA_POLL_MS: '20',
      SAGA_RETRY_MS: '5',
      SAGA_RETRY_MS_MAX: '1000',
      SAGA_LEASE_MARGIN_MS: '300',
    },
    setStock: async (sku, onHand) => {
      await database.query('insert into stock (sku, on_hand) values ($1, $2)', [sku, onHand]);
    },
    [Symbol.asyncDispose]: async () => {
      await simulator[Symbol.asyncDispose]();
      await database[Symbol.asyncDispose]();
    },
  };
}

/** A whole replica in the test's own process. */
export type Replica = AsyncDisposable &
  Readonly<{
    url: string;
    api: SagaApi;
    /** Lines of level error: runs that ended in an exception, commits that failed. */
    errors(): readonly string[];
    stop(): Promise<void>;
  }>;

/** Starts a replica in this process, which a test may hold or cut at its points. */
export async function startReplica(
  { database, env }: Pick<SagaWorld, 'database' | 'env'>,
  seams: AppSeams & Readonly<{ env?: Readonly<Record<string, string>> }> = {},
): Promise<Replica> {
  const lines: string[] = [];
  const address = { HOST: '127.0.0.1', PORT: '0', AUTH: 'off' };
  const settings = { ...address, RELAY: 'off', DATABASE_URL: database.url };
  const app = await createApp(
    readConfig({ ...settings, ...env, ...seams.env }),
    pino({ level: 'error' }, { write: (line: string) => void lines.push(line) }),
    seams,
  );
  const url = await app.start();
  const api = createSagaApi(url);
  let stopped: Promise<void> | undefined;
  const stop = () => {
    api.close();
    stopped ??= app.stop();
    return stopped;
  };
  return { url, api, errors: () => lines, stop, [Symbol.asyncDispose]: stop };
}

/** Waits until as many sagas were started, and none goes on by itself. */
export async function untilAtRest(
  { database }: Pick<SagaWorld, 'database'>,
  sagas: number,
  withinMs = 180_000,
): Promise<void> {
  const states = () =>
    database.query<{ state: string; count: number }>(
      'select state, count(*) from saga_work group by state',
    );
  await eventually(
    async () => {
      const rows = await states();
      const resting = rows.filter(({ state }) => state !== 'running' && state !== 'compensating');
      const count = resting.reduce((sum, { count }) => sum + count, 0);
      if (count < sagas || resting.length < rows.length)
        throw new Error(`of ${sagas} sagas rest ${JSON.stringify(rows)}`);
      return true;
    },
    { withinMs, everyMs: 50 },
  );
}
