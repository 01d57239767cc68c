import { readdir, readFile } from 'node:fs/promises';
import knex from 'knex';
import { Client } from 'pg';

const MIGRATIONS = new URL('../../migrations/', import.meta.url);
/** Any constant will do, as long as every replica uses the same one. */
const MIGRATION_LOCK = 7_305_918_264;

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

/**
 * Brings the database to this version's schema and returns the files that were applied.
 * Replicas that start together take turns: the first applies, the others find nothing to do.
 * The lock ends with its connection, so a process killed in mid-migration leaves nothing behind.
 */
export async function migrate(databaseUrl: string): Promise<string[]> {
  const lock = new Client({ connectionString: databaseUrl, keepAlive: true });
  lock.on('error', () => {}); // what it is lost in the middle of fails, and says so
  await lock.connect();
  const db = knex({ client: 'pg', connection: databaseUrl, pool: { min: 0, max: 1 } });
  try {
    await lock.query('select pg_advisory_lock($1)', [MIGRATION_LOCK]);
    const options = { migrationSource: sqlMigrations, tableName: 'migrations' };
    await db.migrate.forceFreeMigrationsLock(options);
    const [, applied]: [number, string[]] = await db.migrate.latest(options);
    return applied;
  } finally {
    await db.destroy();
    await lock.end();
  }
}
