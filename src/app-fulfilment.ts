import type { Pool } from 'pg';
import type { Logger } from 'pino';
import type { Config } from './config.ts';
import type { ClockWatch, DatabaseClock } from './database/clock.ts';
import type { GroupCommit } from './event-store/group-commit.ts';
import type { Providers } from './fulfilment/fulfilment-definition.ts';
import { createFulfilment } from './fulfilment/fulfilment.ts';
import type { Fulfilment } from './fulfilment/fulfilment.ts';
import {
  createHttpPaymentProvider,
  createHttpShippingProvider,
} from './fulfilment/providers/http-providers.ts';
import type { ObserveSaga } from './sagas/saga-points.ts';
import type { SagaRunnerEvents } from './sagas/saga-run.ts';

/** Providers forget keys after a day at the earliest. */
const RESEND_MS_MAX = 20 * 3_600_000;
/** How long a stop waits for calls under way. The outcome of the others is looked up later. */
const STOP_MS_MAX = 3_000;

export type FulfilmentParts = Readonly<{
  commit: Pick<GroupCommit, 'submit'>;
  pool: Pool;
  now: () => Date;
  clock: DatabaseClock;
  clockWatch: Pick<ClockWatch, 'isOff'>;
  log: Logger;
  events?: SagaRunnerEvents;
  observe?: ObserveSaga;
}>;

/** The fulfilment as the settings want it. */
export function buildFulfilment(config: Config, parts: FulfilmentParts): Fulfilment {
  return createFulfilment({
    ...parts,
    isPaused: parts.clockWatch.isOff,
    providers: buildProviders(config),
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
      stopMsMax: STOP_MS_MAX,
    },
  });
}

function buildProviders(config: Config): Providers | undefined {
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
