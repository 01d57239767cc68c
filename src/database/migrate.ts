import { readdir, readFile } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import { callbackify } from 'node:util';
import createKnex from 'knex';
import type { Knex } from 'knex';
import { Client } from 'pg';
import type { ClientBase } from 'pg';
import type { Logger } from 'pino';
import { isLockFailure } from './database-errors.ts';
import { createPoolerProof } from './pooler.ts';
import { connectionTo, MIGRATION_SETTINGS, openSession, SERVICE_ROLE } from './session.ts';

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

/**
 * Brings the database to the schema of this release and gives the service's role its rights. It leaves the
 * migrations of a newer release alone: they are made so that this release can run beside it.
 *
 * Replicas that start together take turns: the first one applies the migrations, the others find nothing to do. A
 * turn ends with its connection, so a process that is killed leaves no lock behind.
 *
 * A migration that has to wait for a lock gives up at once and is tried again, for ten minutes at most: every
 * reader and writer would wait behind it.
 * @returns the migrations that were applied
 * @throws MigrationBlocked
 * @throws SessionRefused
 */
export async function migrate(databaseUrl: string, log?: Log): Promise<string[]> {
  const connection = {
    ...connectionTo(databaseUrl),
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
    if (isPooled) await createPoolerProof(connectionTo(databaseUrl)).require(turn);
    await takeTurn(turn, log);
    await knex.migrate.forceFreeMigrationsLock(OPTIONS);
    const { newer, pending } = await readState(knex);
    if (newer.length > 0) log?.warn({ migrations: newer }, 'the schema is that of a newer release');
    for (const migration of pending) await apply(knex, migration, log);
    const grants = await ensureGrants(turn);
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

/** @throws Error if the database has migrations that no release of this service had */
async function readState(knex: Knex) {
  const [completed, pending]: [Readonly<{ name: string }>[], string[]] =
    await knex.migrate.list(OPTIONS);
  const known = await SQL_FILES.getMigrations([]);
  const unknown = completed.map(({ name }) => name).filter((name) => !known.includes(name));
  const foreign = unknown.filter((name) => name < (known.at(-1) ?? ''));
  if (foreign.length === 0) return { newer: unknown, pending };
  throw new Error(`the database has migrations that were never here: ${foreign.join(', ')}`);
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

/**
 * All that the role of the service may do, and nothing else. That it may not change or delete events is promise
 * G8. A migration that adds a table adds its line here.
 */
export const TABLE_GRANTS: Readonly<Record<string, readonly string[]>> = {
  streams: ['select', 'insert', 'update', 'delete'],
  events: ['select', 'insert'],
  event_schemas: ['select', 'insert'],
  orders_summary: ['select', 'insert', 'update'],
  idempotency_keys: ['select', 'insert', 'delete'],
  outbox_events: ['select', 'insert', 'delete'],
  leases: ['select', 'insert', 'update'],
  outbox_parked: ['select', 'insert', 'delete'],
  outbox_topics: ['select', 'insert', 'update'],
  outbox_audit: ['select', 'insert'],
  saga_work: ['select', 'insert', 'update'],
  stock: ['select', 'insert', 'update'],
  reservations: ['select', 'insert', 'delete'],
  api_keys: ['select'],
  api_keys_version: ['select'],
  api_key_uses: ['select', 'insert', 'update'],
};
const SEQUENCE = 'outbox_events_id_seq';
/** It runs as the owner, so no other role may call it. */
const OWNERS_FUNCTION = 'oldest_transaction_age_seconds()';

/**
 * Creates the role of the service and grants its rights, as far as they are missing: a restore into another
 * cluster loses them. Only one process may call it at a time, as the owner.
 * @returns the statements that granted what was missing
 */
async function ensureGrants(owner: ClientBase): Promise<string[]> {
  await owner.query(ENSURE_ROLE);
  const wanted = Object.entries(TABLE_GRANTS).flatMap(([table, privileges]) =>
    privileges.map((privilege) => ({ table, privilege })),
  );
  const { rows } = await owner.query<{ statement: string }>(MISSING, [
    SERVICE_ROLE,
    JSON.stringify(wanted),
    SEQUENCE,
    OWNERS_FUNCTION,
  ]);
  const statements = rows.map(({ statement }) => statement);
  for (const statement of statements) await owner.query(statement);
  return statements;
}

/** Since Postgres 16 the creator of a role is a member of it, but may not act as it unless it is a superuser. */
const ENSURE_ROLE = `
  do $$
  begin
    if not exists (select from pg_roles where rolname = '${SERVICE_ROLE}') then
      create role ${SERVICE_ROLE} nologin;
    end if;
  exception
    when duplicate_object or unique_violation then null;
  end $$;
  do $$
  begin
    set local role ${SERVICE_ROLE};
    reset role;
  exception
    when insufficient_privilege then execute format('grant ${SERVICE_ROLE} to %I', current_user);
  end $$`;

const MISSING = `
  select format('grant %s on %I to %I', string_agg(privilege, ', '), "table", $1::text) as statement
  from json_to_recordset($2) as wanted ("table" text, privilege text)
  where case when to_regclass("table") is not null
    then not has_table_privilege($1, "table", privilege) end
  group by "table"
  union all
  select format('grant select on sequence %I to %I', $3::text, $1)
  where not has_sequence_privilege($1, $3, 'select')
  union all
  select format('revoke execute on function %s from public', $4::text)
  where has_function_privilege('public', $4, 'execute')
  union all
  select format('grant execute on function %s to %I', $4, $1)
  where not has_function_privilege($1, $4, 'execute') or has_function_privilege('public', $4, 'execute')
  union all
  select format('grant usage on schema %I to %I', current_schema, $1)
  where not has_schema_privilege($1, current_schema, 'usage')
  union all
  select format('grant connect on database %I to %I', current_database(), $1)
  where not has_database_privilege($1, current_database(), 'connect')`;
