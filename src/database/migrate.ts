import { readdir, readFile } from 'node:fs/promises';
import knex from 'knex';
import { Client } from 'pg';
import type { Logger } from 'pino';
import { migrationConnection } from './database.ts';

const MIGRATIONS = new URL('../../migrations/', import.meta.url);
/** Any constant will do, as long as every replica uses the same one. */
export const MIGRATION_LOCK = 7_305_918_264;

const sqlMigrations: knex.Knex.MigrationSource<string> = {
  getMigrations: async () =>
    (await readdir(MIGRATIONS)).filter((file) => file.endsWith('.sql')).toSorted(),
  getMigrationName: (file) => file,
  getMigration: async (file) => {
    const sql = await readFile(new URL(file, MIGRATIONS), 'utf8');
    return {
      // knex takes a bare question mark for a binding.
      up: async (trx) => {
        await trx.raw(sql.replaceAll('?', String.raw`\?`));
      },
      down: () => Promise.reject(new Error('migrations go forward only')),
    };
  },
};

const options = {
  migrationSource: sqlMigrations,
  tableName: 'migrations',
  // Ours is below: knex refuses a database that a newer release has migrated.
  disableMigrationsListValidation: true,
};

/**
 * Brings the database to this version's schema and returns the files that were applied. What a newer
 * release has applied is let be: it was made so that this one goes on running.
 * Replicas that start together take turns: the first applies, the others find nothing to do.
 * The lock ends with its connection, so a process killed in mid-migration leaves nothing behind.
 */
export async function migrate(databaseUrl: string, log?: Pick<Logger, 'warn'>): Promise<string[]> {
  const lock = new Client(migrationConnection(databaseUrl));
  lock.on('error', () => {}); // what it is lost in the middle of fails, and says so
  await lock.connect();
  const db = knex({
    client: 'pg',
    connection: migrationConnection(databaseUrl),
    pool: { min: 0, max: 1 },
  });
  try {
    await takeTurn(lock, log);
    await db.migrate.forceFreeMigrationsLock(options);
    const newer = await appliedByNewer(db);
    if (newer.length > 0) log?.warn({ migrations: newer }, 'the schema is that of a newer release');
    const [, applied]: [number, string[]] = await db.migrate.latest(options);
    return applied;
  } finally {
    await db.destroy();
    await lock.end();
  }
}

async function takeTurn(lock: Client, log?: Pick<Logger, 'warn'>): Promise<void> {
  const { rows } = await lock.query<{ taken: boolean }>(
    'select pg_try_advisory_lock($1) as taken',
    [MIGRATION_LOCK],
  );
  if (rows[0]?.taken) return;
  log?.warn('another process migrates the schema: waiting for it, as long as it takes');
  await lock.query('select pg_advisory_lock($1)', [MIGRATION_LOCK]);
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
