import { readdir, readFile } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import { callbackify } from 'node:util';
import createKnex from 'knex';
import type { Knex } from 'knex';
import { Client } from 'pg';
import type { ClientBase } from 'pg';
import type { Logger } from 'pino';
import { isLockFailure } from './database-errors.ts';
import { ensureGrants } from './grants.ts';
import { createPoolerProof } from './pooler.ts';
import { createPrimaryLocator } from './primary.ts';
import { MIGRATION_SETTINGS, openSession, OPERATOR_SETTINGS } from './session.ts';

const MIGRATIONS = new URL('../../migrations/', import.meta.url);
/** Any constant will do, if all replicas use the same one. */
export const MIGRATION_LOCK = 7_305_918_264;
const CONNECT_MS_MAX = 5_000;
/** For the statements that take the turn. Each is short, unless the server is gone. */
const TURN_STATEMENT_MS_MAX = 10_000;
const TURN_POLL_MS = 500;
const LOG_EVERY_MS = 30_000;
/** Readers and writers queue behind a waiting lock, so it may wait only for a fraction of their own timeouts. */
const LOCK_TIMEOUT = '300ms';
/** A report or a dump may lock a table for long. Meanwhile the replicas of the previous release serve. */
const LOCK_RETRY_MS_MAX = 600_000;
const LOCK_PAUSE_MS = { first: 500, max: 10_000 };

const NO_TRANSACTION = '-- no transaction\n';
/** The locks of these statements block neither readers nor writers, so they may wait as long as they need. */
const CONCURRENT =
  /^(create (unique )?index concurrently|drop index concurrently|reindex [^;]* concurrently)\s/i;

type Log = Pick<Logger, 'warn'>;
type Migration = Readonly<{ name: string }>;

/** A migration did not get a lock, because another transaction has locked its table all the time. */
export class MigrationBlocked extends Error {
  constructor(migration: string, cause: unknown) {
    super(
      `${migration} got no lock on its table for ${LOCK_RETRY_MS_MAX / 1000} s: a transaction holds it ` +
        '(pg_stat_activity, oldest xact_start); start again once it has ended',
      { cause },
    );
    this.name = 'MigrationBlocked';
  }
}

/** The database lacks migrations of this release, and the user of the connection may not apply them. */
export class MigrationsPending extends Error {
  constructor(pending: readonly string[], user: string) {
    super(
      `the database lacks ${pending.length} migrations, the first is ${pending[0]}, and user ${user} does not own ` +
        'it: set MIGRATIONS_DATABASE_URL to the URL of the owner, or run "npm run migrate" with it first',
    );
    this.name = 'MigrationsPending';
  }
}

/**
 * Brings the database to the schema of this release and gives the service's role its rights. It leaves the
 * migrations of a newer release alone: they are made so that this release can run beside it.
 *
 * Replicas that start together take turns: the first one applies the migrations, the others find nothing to do. A
 * turn ends with its connection, so a process that is killed leaves no lock behind.
 *
 * A migration that has to wait for a lock gives up at once and is tried again, for ten minutes at most: every
 * reader and writer would wait behind it.
 *
 * A user that does not own the tables changes nothing: it only checks that no migration is pending.
 * @param runtimeUser who runs the service, if that is not the owner
 * @returns the migrations that were applied
 * @throws MigrationBlocked
 * @throws MigrationsPending
 * @throws SessionRefused
 */
export async function migrate(
  databaseUrl: string,
  log?: Log,
  runtimeUser?: string,
): Promise<string[]> {
  const primary = createPrimaryLocator(databaseUrl);
  const connection = {
    ...(await primary.find()),
    application_name: 'order-service migration',
    connectionTimeoutMillis: CONNECT_MS_MAX,
  };
  const turn = new Client({ ...connection, query_timeout: TURN_STATEMENT_MS_MAX });
  turn.on('error', ignore); // the query on it fails too
  const knex = createKnex({
    client: 'pg',
    connection,
    pool: { min: 0, max: 1, afterCreate: openKnexSession },
    log: { warn: ignore, error: ignore, deprecate: ignore, debug: ignore }, // it also throws
  });
  try {
    await turn.connect();
    const { isPooled } = await openSession(turn, MIGRATION_SETTINGS);
    if (isPooled) await createPoolerProof(primary.find).require(turn);
    if (!(await ownsSchema(turn))) return await requireNoneIsPending(turn, log);
    await takeTurn(turn, log);
    await knex.migrate.forceFreeMigrationsLock(OPTIONS);
    const [completed]: [Migration[]] = await knex.migrate.list(OPTIONS);
    const pending = await pendingAfter(completed, log);
    for (const migration of pending) await apply(knex, migration, log);
    const grants = await ensureGrants(turn, runtimeUser);
    if (grants.length > 0) log?.warn({ grants }, 'rights of the service were missing, now granted');
    return pending;
  } finally {
    await knex.destroy();
    await turn.end();
  }
}

function ignore(): void {}

/** As knex wants it: with a callback. */
const openKnexSession = callbackify((client: ClientBase) =>
  openSession(client, MIGRATION_SETTINGS),
);

/** Polls, because a waiting lock would in turn hold up an index that is being built concurrently. */
async function takeTurn(turn: Client, log?: Log): Promise<void> {
  let loggedAt = -Infinity;
  for (;;) {
    const { rows } = await turn.query<{ taken: boolean }>(
      'select pg_try_advisory_lock($1) as taken',
      [MIGRATION_LOCK],
    );
    if (rows[0]?.taken) return;
    if (performance.now() - loggedAt > LOG_EVERY_MS) {
      loggedAt = performance.now();
      log?.warn('another process migrates the schema: waiting for it, as long as it takes');
    }
    await delay(TURN_POLL_MS);
  }
}

/** Whether the user may migrate: it owns the tables, or may create them if there are none. */
async function ownsSchema(turn: ClientBase): Promise<boolean> {
  const { rows } = await turn.query<{ owns: boolean }>(
    `select coalesce(
       (select pg_has_role(relowner, 'usage') from pg_class where oid = to_regclass('migrations')),
       has_schema_privilege(current_schema, 'create')
     ) as owns`,
  );
  return rows[0]?.owns ?? false;
}

/** As the role of the service, which may read the names of the migrations. @throws MigrationsPending */
async function requireNoneIsPending(turn: ClientBase, log?: Log): Promise<string[]> {
  const { rows } = await turn.query<{ name: string }>('select current_user as name');
  const user = rows[0]?.name ?? '';
  const isEmpty = (await turn.query(`select where to_regclass('migrations') is null`)).rowCount;
  if (isEmpty) throw new MigrationsPending(await SQL_FILES.getMigrations([]), user);
  await openSession(turn, OPERATOR_SETTINGS);
  const pending = await pendingAfter(await completedMigrations(turn), log);
  if (pending.length > 0) throw new MigrationsPending(pending, user);
  return [];
}

async function completedMigrations(turn: ClientBase): Promise<Migration[]> {
  return (await turn.query<Migration>('select name from migrations')).rows;
}

/**
 * The migrations of this release that are not among the completed ones.
 * @throws Error if the database has migrations that no release of this service had
 */
async function pendingAfter(migrations: readonly Migration[], log?: Log): Promise<string[]> {
  const completed = migrations.map(({ name }) => name);
  const known = await SQL_FILES.getMigrations([]);
  const newer = completed.filter((name) => !known.includes(name));
  const foreign = newer.filter((name) => name < (known.at(-1) ?? ''));
  if (foreign.length > 0) {
    throw new Error(`the database has migrations that were never here: ${foreign.join(', ')}`);
  }
  if (newer.length > 0) log?.warn({ migrations: newer }, 'the schema is that of a newer release');
  return known.filter((name) => !completed.includes(name));
}

/** Applies the next migration. Each has a transaction of its own, so that no lock is held longer than needed. */
async function apply(knex: Knex, migration: string, log?: Log): Promise<void> {
  const progress = setInterval(() => log?.warn({ migration }, 'still migrating'), LOG_EVERY_MS);
  const endsAt = performance.now() + LOCK_RETRY_MS_MAX;
  try {
    for (let attempts = 1; ; attempts += 1) {
      const blocked = await applyNext(knex);
      if (!blocked) return;
      if (performance.now() > endsAt) throw new MigrationBlocked(migration, blocked);
      const pauseMs = Math.min(LOCK_PAUSE_MS.max, LOCK_PAUSE_MS.first * attempts);
      log?.warn(
        { migration, tries: attempts, pauseMs, reason: blocked.message },
        'a transaction holds a table that the migration needs: trying again',
      );
      await delay(pauseMs);
    }
  } finally {
    clearInterval(progress);
  }
}

/** @returns the error if the migration did not get a lock: it was rolled back */
async function applyNext(knex: Knex): Promise<Error | undefined> {
  try {
    await knex.migrate.up(OPTIONS);
    return undefined;
  } catch (error) {
    if (isLockFailure(error)) return error;
    throw error;
  }
}

/**
 * The SQL files of `migrations/`, in the order of their names. A file runs in a transaction and gives up if it has
 * to wait for a lock. A file that begins with `-- no transaction` runs its statements one by one: it may only
 * build or drop indexes concurrently.
 */
const SQL_FILES: Knex.MigrationSource<string> = {
  getMigrations: async () =>
    (await readdir(MIGRATIONS)).filter((file) => file.endsWith('.sql')).toSorted(),
  getMigrationName: (file) => file,
  getMigration: async (file) => {
    const sql = await readFile(new URL(file, MIGRATIONS), 'utf8');
    return sql.startsWith(NO_TRANSACTION)
      ? { ...forward(concurrentStatements(file, sql)), config: { transaction: false } }
      : forward([`set local lock_timeout = '${LOCK_TIMEOUT}'`, sql]);
  },
};

const OPTIONS = {
  migrationSource: SQL_FILES,
  tableName: 'migrations',
  // knex refuses a database that a newer release has migrated. `readState` does this check instead.
  disableMigrationsListValidation: true,
};

function forward(statements: readonly string[]): Knex.Migration {
  return {
    up: async (knex) => {
      // knex takes a bare question mark for a binding.
      for (const sql of statements) await knex.raw(sql.replaceAll('?', String.raw`\?`));
    },
    down: () => Promise.reject(new Error('migrations go forward only')),
  };
}

/** @throws Error if there is a statement whose lock would block others */
function concurrentStatements(file: string, sql: string): string[] {
  const statements = sql
    .replaceAll(/^\s*--.*$/gm, '')
    .split(/;\s*$/m)
    .map((statement) => statement.trim())
    .filter((statement) => statement !== '');
  const other = statements.find((statement) => !CONCURRENT.test(`${statement} `));
  if (other === undefined) return statements;
  throw new Error(
    `${file}: without a transaction only indexes are built or dropped, concurrently; not: ${other}`,
  );
}
