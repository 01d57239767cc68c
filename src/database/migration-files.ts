import { readdir, readFile } from 'node:fs/promises';
import type { Knex } from 'knex';

const MIGRATIONS = new URL('../../migrations/', import.meta.url);
/** Readers and writers queue behind a lock that waits: it may only wait for a fraction of their own time-outs. */
const LOCK_TIMEOUT = '300ms';
const NO_TRANSACTION = '-- no transaction\n';
/** Their lock holds up neither readers nor writers, so they may wait as long as they need. */
const CONCURRENT =
  /^(create (unique )?index concurrently|drop index concurrently|reindex [^;]* concurrently)\s/i;

/**
 * The SQL files of `migrations/`, in the order of their names. Each runs in a transaction of its own, and
 * gives up when it has to wait for a lock. One that begins with `-- no transaction` runs its statements
 * one by one instead, and may only build or drop indexes concurrently.
 */
export const sqlMigrations: Knex.MigrationSource<string> = {
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

function forward(statements: readonly string[]): Knex.Migration {
  return {
    up: async (db) => {
      // knex takes a bare question mark for a binding.
      for (const sql of statements) await db.raw(sql.replaceAll('?', String.raw`\?`));
    },
    down: () => Promise.reject(new Error('migrations go forward only')),
  };
}

/** @throws when there is a statement whose lock would hold up others */
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
