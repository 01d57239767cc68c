import { spawn } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { folders } from './folders.ts';

/*
 * An operator's command of the service, on the Postgres of `npm start` unless DATABASE_URL names another:
 * npm run outbox -- status, npm run projections -- verify.
 */
const args = process.argv.slice(2);
const { DATABASE_URL = await localUrl() } = process.env;
const child = spawn(process.execPath, [join(folders.root, 'src', 'main.ts'), ...args], {
  env: { ...process.env, DATABASE_URL },
  stdio: 'inherit',
});
child.on('exit', (code) => {
  process.exitCode = code ?? 1;
});

async function localUrl(): Promise<string> {
  return readFile(join(folders.data, 'database-url'), 'utf8').catch(() => '');
}
