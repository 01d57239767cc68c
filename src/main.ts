import { setTimeout as delay } from 'node:timers/promises';
import type { Pool } from 'pg';
import { pino } from 'pino';
import type { Logger } from 'pino';
import pretty from 'pino-pretty';
import { createApp } from './app.ts';
import type { App } from './app.ts';
import { ConfigInvalid, describeConfig, readConfig } from './config.ts';
import type { Config } from './config.ts';
import { SessionRefused } from './database/check-session.ts';
import { createOperatorPool } from './database/database.ts';
import { isOutage, mayPass } from './database/is-outage.ts';
import { migrate } from './database/migrate.ts';
import { ordersSummaryProjection } from './orders/orders-summary.ts';
import { runOutboxCommand } from './outbox/outbox-commands.ts';
import { runProjectionCommand } from './projections/projection-commands.ts';

const MIGRATE_ATTEMPTS_MAX = 30;
const MIGRATE_RETRY_MS = 1_000;
/** A stop that takes longer, SHUTDOWN_DELAY_MS apart, is cut short: what is left is settled by leases. */
const STOP_MS_MAX = 9_500;

const [command = 'serve', ...args] = process.argv.slice(2);
switch (command) {
  case 'serve':
    await serve(configOrExit());
    break;
  case 'config':
    print(describeConfig());
    break;
  case 'outbox':
    await operate((pool) => runOutboxCommand(args, pool, print));
    break;
  case 'projections':
    await operate((pool) => runProjectionCommand(args, pool, ordersSummaryProjection, print));
    break;
  default:
    print(`unknown command ${command}; there are: serve, config, outbox, projections`);
    process.exitCode = 2;
}

/** Runs an operator's command on the database; the process ends with its exit code. */
async function operate(run: (pool: Pool) => Promise<number>): Promise<void> {
  const pool = createOperatorPool(configOrExit().DATABASE_URL);
  try {
    process.exitCode = await run(pool);
  } catch (error) {
    if (!isOutage(error)) throw error;
    const isRefused = error instanceof SessionRefused;
    print(isRefused ? error.message : 'Postgres does not answer at DATABASE_URL; is it running?');
    process.exitCode = 1;
  } finally {
    await pool.end();
  }
}

function configOrExit(): Config {
  try {
    return readConfig(process.env);
  } catch (error) {
    if (!(error instanceof ConfigInvalid)) throw error;
    process.stderr.write(`${error.message}\nnpm run config lists every setting.\n`);
    return process.exit(2);
  }
}

async function serve(config: Config): Promise<void> {
  const log = createLog(config);
  process.on('uncaughtException', (error) => {
    log.fatal({ err: error }, 'a fault of the service itself');
    process.exit(1);
  });
  const app = createApp(config, log);
  stopOnSignal(app, config, log);
  try {
    const applied = await migrateWhenReachable(config, log);
    if (applied.length > 0) log.info({ migrations: applied }, 'schema brought up to date');
    log.info({ address: await app.start() }, 'ready');
  } catch (error) {
    log.fatal({ err: error }, 'cannot start');
    process.exit(1);
  }
}

/** Postgres may come up after the service does. */
async function migrateWhenReachable(config: Config, log: Logger): Promise<string[]> {
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await migrate(config.DATABASE_URL, log);
    } catch (error) {
      if (!mayPass(error) || attempt === MIGRATE_ATTEMPTS_MAX) throw error;
      if (attempt === 1) log.warn({ err: error }, 'waiting for Postgres');
      await delay(MIGRATE_RETRY_MS);
    }
  }
}

function stopOnSignal(app: App, config: Config, log: Logger): void {
  let stopping = false;
  const stop = async (signal: string) => {
    if (stopping) process.exit(1);
    stopping = true;
    log.info({ signal }, 'stopping');
    setTimeout(() => {
      log.error('did not stop in time');
      process.exit(1);
    }, STOP_MS_MAX + config.SHUTDOWN_DELAY_MS).unref();
    await app.stop();
    log.info('stopped');
    process.exit(0);
  };
  for (const signal of ['SIGTERM', 'SIGINT']) process.on(signal, () => void stop(signal));
}

/** JSON lines; on a terminal, lines for people. */
function createLog(config: Config): Logger {
  const options = { level: config.LOG_LEVEL, base: null, serializers: { err: describeError } };
  if (!process.stdout.isTTY) return pino(options);
  return pino(options, pretty({ ignore: 'pid,hostname', translateTime: 'HH:MM:ss.l', sync: true }));
}

/** What an error of Postgres says beside this, its `detail` above all, may quote what a caller sent. */
function describeError(error: unknown): unknown {
  if (!(error instanceof Error)) return error;
  const { name, message, stack, cause } = error;
  return {
    name,
    message,
    ...('code' in error && { code: error.code }),
    ...('constraint' in error && { constraint: error.constraint }),
    stack,
    ...(cause !== undefined && { cause: describeError(cause) }),
  };
}

function print(text: string): void {
  process.stdout.write(`${text}\n`);
}
