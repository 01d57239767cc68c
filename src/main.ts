import { setTimeout as delay } from 'node:timers/promises';
import type { Pool } from 'pg';
import type { Logger } from 'pino';
import { createApp } from './app.ts';
import type { App } from './app.ts';
import { runKeyCommand } from './auth/key-commands.ts';
import { ConfigInvalid, describeConfig, readConfig } from './config.ts';
import type { Config } from './config.ts';
import { createOperatorPool, createOwnerPool } from './database/database.ts';
import { userOf } from './database/database-url.ts';
import {
  explainTlsFailure,
  isLoginFailure,
  isOutage,
  isTemporaryOutage,
} from './database/database-errors.ts';
import { migrate } from './database/migrate.ts';
import { SessionRefused } from './database/session.ts';
import { createLog } from './log.ts';
import type { LogSink, ServiceLog } from './log.ts';
import { ordersSummaryProjection } from './orders/order-stream.ts';
import { runPersonalDataCommand } from './orders/personal-data-commands.ts';
import { runOutboxCommand } from './outbox/outbox-commands.ts';
import { printableLines } from './printable.ts';
import { runProjectionCommand } from './projections/projection-commands.ts';

const MIGRATE_ATTEMPTS_MAX = 30;
const MIGRATE_RETRY_MS = 1_000;
/** One line is logged for so many attempts. */
const ATTEMPTS_PER_LINE = 10;
/** The longest stop, without SHUTDOWN_DELAY_MS. After that the process ends, and leases expire. */
const STOP_MS_MAX = 9_500;
/**
 * The terminal, npm and the process group may each pass on the same signal. A second signal that
 * comes later than this ends the process at once.
 */
const SAME_SIGNAL_MS_MAX = 2_000;
/** Faults of the code. Nobody can change a setting to avoid them, so the stack is logged. */
const FAULTS = [TypeError, ReferenceError, RangeError, SyntaxError];

const COMMANDS = 'serve, config, migrate, outbox, projections, keys, personal-data';

const [command = 'serve', ...args] = process.argv.slice(2);
switch (command) {
  case 'serve':
    await serve(configOrExit());
    break;
  case 'config':
    print(describeConfig(process.env));
    break;
  case 'migrate':
    await migrateOnly(configOrExit());
    break;
  case 'outbox':
    await operate(asService, (pool) => runOutboxCommand(args, pool, print));
    break;
  case 'projections':
    await operate(asService, (pool) =>
      runProjectionCommand(args, pool, ordersSummaryProjection, print),
    );
    break;
  case 'keys':
    await operate(asOwner, (pool) => runKeyCommand(args, pool, print));
    break;
  case 'personal-data':
    await operate(asService, (pool, { KAFKA_TOPIC }) =>
      runPersonalDataCommand(args, pool, KAFKA_TOPIC, print),
    );
    break;
  default:
    print(`unknown command ${command}; there are: ${COMMANDS}`);
    process.exitCode = 2;
}

/** Connections for a command, and the setting that names their database. */
type Connections = Readonly<{ setting: string; pool: Pool }>;

function asService({ DATABASE_URL }: Config): Connections {
  return { setting: 'DATABASE_URL', pool: createOperatorPool(DATABASE_URL) };
}

function asOwner(config: Config): Connections {
  const { setting, url } = migrationUrl(config);
  return { setting, pool: createOwnerPool(url) };
}

/** Runs an operator's command on the database. The exit code of the process is 1 if it throws. */
async function operate(
  connect: (config: Config) => Connections,
  run: (pool: Pool, config: Config) => Promise<number>,
): Promise<void> {
  const config = configOrExit();
  const { setting, pool } = connect(config);
  pool.on('error', () => {}); // the statement in progress fails as well, with a reason
  process.stdout.on('error', () => {}); // the command goes on if the reader has left, as `head` does
  try {
    process.exitCode = await run(pool, config);
  } catch (error) {
    print(`${command} failed: ${reasonOf(error, setting)}`);
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

/** Migrates and ends. The service itself then needs no credentials of the owner. */
async function migrateOnly(config: Config): Promise<void> {
  const { log, sink }: ServiceLog = createLog(config.LOG_LEVEL);
  try {
    const applied = await migrateWhenReachable(config, log);
    print(applied.length > 0 ? `applied: ${applied.join(', ')}` : 'no migration was pending');
  } catch (error) {
    print(`${command} failed: ${reasonOf(error, migrationUrl(config).setting)}`);
    process.exitCode = 1;
  }
  await sink.flushed();
}

/** As whom to migrate, and the setting that says so. */
function migrationUrl({ DATABASE_URL, MIGRATIONS_DATABASE_URL }: Config) {
  return MIGRATIONS_DATABASE_URL === undefined
    ? { setting: 'DATABASE_URL', url: DATABASE_URL }
    : { setting: 'MIGRATIONS_DATABASE_URL', url: MIGRATIONS_DATABASE_URL };
}

async function serve(config: Config): Promise<void> {
  const { log, sink }: ServiceLog = createLog(config.LOG_LEVEL);
  process.on('uncaughtException', (error) => {
    log.fatal({ err: error }, 'a fault of the service itself');
    void exit(1, sink);
  });
  const app = await createApp(config, log, { logLinesLost: sink.lost });
  stopOnSignal(app, config, log, sink);
  let { setting } = migrationUrl(config);
  try {
    const applied = await migrateWhenReachable(config, log);
    if (applied.length > 0) log.info({ migrations: applied }, 'schema brought up to date');
    setting = 'DATABASE_URL';
    log.info({ address: await app.start() }, 'ready');
    if (!config.AUTH)
      log.warn('open: AUTH=off, so anyone who reaches this address may do anything');
  } catch (error) {
    log.fatal(
      isFault(error) ? { err: error } : { reason: reasonOf(error, setting) },
      'cannot start',
    );
    log.debug({ err: error }, 'the error in full');
    await exit(1, sink);
  }
}

/** Waits for a Postgres that starts later than the service. */
async function migrateWhenReachable(config: Config, log: Logger): Promise<string[]> {
  const { setting, url } = migrationUrl(config);
  const runtimeUser = userOf(config.DATABASE_URL);
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await migrate(url, log, runtimeUser);
    } catch (error) {
      if (!isTemporaryOutage(error) || attempt === MIGRATE_ATTEMPTS_MAX) throw error;
      if (attempt % ATTEMPTS_PER_LINE === 1) {
        const reason = reasonOf(error, setting);
        log.warn({ attempt, of: MIGRATE_ATTEMPTS_MAX, reason }, 'waiting for Postgres');
      }
      await delay(MIGRATE_RETRY_MS);
    }
  }
}

function stopOnSignal(app: App, config: Config, log: Logger, sink: LogSink): void {
  let stoppingSince: number | undefined;
  const stop = async (signal: string) => {
    if (stoppingSince !== undefined) {
      if (performance.now() - stoppingSince < SAME_SIGNAL_MS_MAX) return;
      log.warn({ signal }, 'second signal: stopping at once');
      return exit(1, sink);
    }
    stoppingSince = performance.now();
    log.info({ signal }, 'stopping');
    setTimeout(() => {
      log.error('did not stop in time');
      void exit(1, sink);
    }, STOP_MS_MAX + config.SHUTDOWN_DELAY_MS).unref();
    await app.stop();
    log.info('stopped');
    return exit(0, sink);
  };
  for (const signal of ['SIGTERM', 'SIGINT']) process.on(signal, () => void stop(signal));
}

async function exit(code: number, sink: LogSink): Promise<void> {
  await sink.flushed();
  process.exit(code);
}

/** Prints for an operator's terminal. Nothing that is stored can control the terminal. */
function print(text: string): void {
  process.stdout.write(`${printableLines(text)}\n`);
}

/** Whether the code is at fault, not the settings or the servers. */
function isFault(error: unknown): boolean {
  return !(error instanceof Error) || FAULTS.some((fault) => error instanceof fault);
}

/** Why something failed, in one line. @param setting names the database */
function reasonOf(error: unknown, setting: string): string {
  const message = messageOf(error);
  if (error instanceof SessionRefused) return message;
  const tls = explainTlsFailure(error);
  if (tls !== undefined) return `no TLS connection to ${setting}: ${tls}`;
  if (isLoginFailure(error)) return `Postgres refuses ${setting}: ${message}`;
  return isOutage(error) ? `Postgres does not respond at ${setting}: ${message}` : message;
}

/** Node tries each address of a host name. The error then has no message but a list of errors. */
function messageOf(error: unknown): string {
  if (error instanceof AggregateError && error.message === '') {
    return error.errors.map(messageOf).join('; ');
  }
  return error instanceof Error ? error.message : String(error);
}
