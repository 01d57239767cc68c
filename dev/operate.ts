import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { removePostgresVariables } from './environment.ts';
import { folders } from './folders.ts';

/*
 * An operator's command of the service, on the Postgres of `npm start` unless DATABASE_URL names another:
 * npm run outbox -- status, npm run projections -- verify. It runs in this process, so that whatever ends
 * this ends the command.
 */
if (!process.env['DATABASE_URL']) {
  removePostgresVariables();
  process.env['DATABASE_URL'] = await readFile(join(folders.data, 'database-url'), 'utf8').catch(
    () => '',
  );
}
await import('#src/main.ts');
