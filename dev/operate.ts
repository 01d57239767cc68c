import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { removePostgresVariables } from './environment.ts';
import { folders } from './folders.ts';

/*
 * Runs an operator's command of the service (npm run outbox -- status, npm run projections -- verify) on the
 * Postgres of `npm start`, unless DATABASE_URL or DATABASE_URL_FILE names another. The command runs in this
 * process, so a signal ends both.
 */
if (!process.env['DATABASE_URL'] && !process.env['DATABASE_URL_FILE']) {
  removePostgresVariables();
  delete process.env['MIGRATIONS_DATABASE_URL'];
  delete process.env['MIGRATIONS_DATABASE_URL_FILE'];
  process.env['DATABASE_URL'] = await readFile(join(folders.data, 'database-url'), 'utf8').catch(
    () => '',
  );
}
await import('#src/main.ts');
