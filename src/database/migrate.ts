import { setTimeout as delay } from 'node:timers/promises';
import knex from 'knex';
import { Client, DatabaseError } from 'pg';
import type { Logger } from 'pino';
import { checkSession } from './check-session.ts';
import { migrationConnection } from './database.ts';
import { ensureGrants } from './grants.ts';
import { sqlMigrations } from './migration-files.ts';
import { MIGRATION_SETTINGS } from './session-settings.ts';

/** Any constant will do, as long as every replica uses the same one. */
export const MIGRATION_LOCK = 7_305_918_264;
const CONNECT_MS_MAX = 5_000;
/** Of the statements that take a turn; each takes a moment, or the server is gone. */
const TURN_STATEMENT_MS_MAX = 10_000;
const TURN_POLL_MS = 500;
const SAID_AGAIN_MS = 30_000;
/** lock_not_available, deadlock_detected. */
const LOCK_FAILURES = new Set(['55P03', '40P01']);
/** A report or a dump may hold a table for long; meanwhile the replicas of the release before serve. */
const LOCK_TRIES_MS_MAX = 600_000;
const LOCK_PAUSE_MS = { first: 500, max: 10_000 };

const silent = () => {};
const options = {
  migrationSource: sqlMigrations,
  tableName: 'migrations',
  // Ours is below: knex refuses a database that a newer release has migrated.
  disableMigrationsListValidation: true,
};

type Log = Pick<Logger, 'warn'>;

/**
 * Brings the database to this version's schema and returns the files that were applied. What a newer
 * release has applied is let be: it was made so that this one goes on running. The role of the service
 * and its rights are made again where they are missing.
 * Replicas that start together take turns: the first applies, the others find nothing to do.
 * The turn ends with its connection, so a process killed in mid-migration leaves nothing behind.
 * A file that has to wait for a table lets go at once and is tried again, for ten minutes at most:
 * a lock that waits would hold up every reader and writer behind it.
 * @throws MigrationBlocked
 * @throws SessionRefused
 */
export async function migrate(databaseUrl: string, log?: Log): Promise<string[]> {
  const connection = {
    ...migrationConnection(databaseUrl),
    connectionTimeoutMillis: CONNECT_MS_MAX,
  };
  const turn = new Client({ ...connection, query_timeout: TURN_STATEMENT_MS_MAX });
  turn.on('error', silent); // what it is lost in the middle of fails, and says so
  const db = knex({
    client: 'pg',
    connection,
    pool: { min: 0, max: 1 },
    log: { warn: silent, error: silent, deprecate: silent, debug: silent }, // it throws as well
  });
  try {
    await turn.connect();
    await checkSession(turn, MIGRATION_SETTINGS);
    await takeTurn(turn, log);
    await db.migrate.forceFreeMigrationsLock(options);
    const newer = await appliedByNewer(db);
    if (newer.length > 0) log?.warn({ migrations: newer }, 'the schema is that of a newer release');
    const applied = await applyAll(db, log);
    const grants = await ensureGrants(turn);
    if (grants.length > 0) log?.warn({ grants }, 'rights of the service were missing, now granted');
    return applied;
  } finally {
    await db.destroy();
    await turn.end();
  }
}

/** A migration could not have a table, because somebody else's transaction went on holding it. */
export class MigrationBlocked extends Error {
  constructor(migration: string, cause: unknown) {
    super(
      `${migration} got no lock on its table for ${LOCK_TRIES_MS_MAX / 1000} s: a transaction holds it ` +
        '(pg_stat_activity, oldest xact_start); start again once it has ended',
      { cause },
    );
    this.name = 'MigrationBlocked';
  }
}

/** Asks again and again rather than waiting in the database: an index that is built concurrently would wait for us. */
async function takeTurn(turn: Client, log?: Log): Promise<void> {
  let saidAt: number | undefined;
  for (;;) {
    const { rows } = await turn.query<{ taken: boolean }>(
      'select pg_try_advisory_lock($1) as taken',
      [MIGRATION_LOCK],
    );
    if (rows[0]?.taken) return;
    if (saidAt === undefined || performance.now() - saidAt > SAID_AGAIN_MS) {
      saidAt = performance.now();
      log?.warn('another process migrates the schema: waiting for it, as long as it takes');
    }
    await delay(TURN_POLL_MS);
  }
}

/** One file at a time, each in its own transaction: no lock outlasts the file that needed it. */
async function applyAll(db: knex.Knex, log?: Log): Promise<string[]> {
  const files: string[] = [];
  for (;;) {
    const [next] = await pending(db);
    if (next === undefined) return files;
    await applyNext(db, next, log);
    files.push(next);
  }
}

async function applyNext(db: knex.Knex, migration: string, log?: Log): Promise<void> {
  const said = setInterval(() => log?.warn({ migration }, 'still migrating'), SAID_AGAIN_MS);
  const endsAt = performance.now() + LOCK_TRIES_MS_MAX;
  try {
    for (let tries = 1; ; tries += 1) {
      const blocked = await tryNext(db);
      if (!blocked) return;
      if (performance.now() > endsAt) throw new MigrationBlocked(migration, blocked);
      const pauseMs = Math.min(LOCK_PAUSE_MS.max, LOCK_PAUSE_MS.first * tries);
      log?.warn(
        { migration, tries, pauseMs, reason: blocked.message },
        'a transaction holds a table that the migration needs: trying again',
      );
      await delay(pauseMs);
    }
  } finally {
    clearInterval(said);
  }
}

/** Applies one file; resolves to the error where it could not have a lock, and nothing was changed. */
async function tryNext(db: knex.Knex): Promise<Error | undefined> {
  try {
    await db.migrate.up(options);
    return undefined;
  } catch (error) {
    if (error instanceof DatabaseError && LOCK_FAILURES.has(error.code ?? '')) return error;
    throw error;
  }
}

async function pending(db: knex.Knex): Promise<string[]> {
  const [, files]: [unknown, string[]] = await db.migrate.list(options);
  return files;
}

/** @throws when there is one that this release should know: the database is not of this service */
async function appliedByNewer(db: knex.Knex): Promise<string[]> {
  const known = await sqlMigrations.getMigrations([]);
  const [applied]: [Readonly<{ name: string }>[], unknown] = await db.migrate.list(options);
  const unknown = applied.map(({ name }) => name).filter((name) => !known.includes(name));
  const strange = unknown.filter((name) => name < (known.at(-1) ?? ''));
  if (strange.length === 0) return unknown;
  throw new Error(`the database has migrations that were never here: ${strange.join(', ')}`);
}
