import { execFile, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { chown, mkdir, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { serverEnvironment } from './environment.ts';
import type { PostgresUser } from './postgres-binaries.ts';

const INITDB = [
  '--username=postgres',
  '--auth=trust',
  '--encoding=UTF8',
  '--locale-provider=builtin',
  '--locale=C.UTF-8',
  '--no-instructions',
];
const ACCESS_RULES = 'host all all 127.0.0.1/32 scram-sha-256\n';

/**
 * Makes `data` in the folder, and `password` beside it: random, so that no other user of this machine
 * can come in through the port. All or nothing: what a crash left half done is made again.
 */
export async function createCluster(
  folder: string,
  binaries: string,
  user: PostgresUser | undefined,
): Promise<void> {
  const unfinished = join(folder, 'data.new');
  const password = randomBytes(12).toString('hex');
  await rm(unfinished, { recursive: true, force: true });
  await mkdir(unfinished, { mode: 0o700 });
  if (user) await chown(unfinished, user.uid, user.gid);
  const data = ['-D', dataFolderFor(user, unfinished)];
  const options = { ...user, cwd: unfinished, env: serverEnvironment() };
  await promisify(execFile)(join(binaries, 'initdb'), [...INITDB, ...data], options).catch(
    (error: unknown) => {
      const output = error instanceof Error && 'stderr' in error ? String(error.stderr) : '';
      const problem = /(?:FATAL|PANIC|error): .+/.exec(output)?.[0] ?? String(error);
      throw new Error(`Postgres could not make its data folder in ${folder}: ${problem}`, {
        cause: error,
      });
    },
  );
  // Not as a file for initdb: its user may not be able to read any outside of the data folder.
  const single = spawn(join(binaries, 'postgres'), ['--single', ...data, 'postgres'], {
    ...options,
    stdio: ['pipe', 'ignore', 'ignore'],
  });
  single.stdin.end(`alter role postgres password '${password}'\n`);
  const [code] = await once(single, 'exit');
  if (code !== 0) throw new Error(`Postgres could not be given its password (exit ${code})`);
  await writeFile(join(unfinished, 'pg_hba.conf'), ACCESS_RULES);
  await writeFile(join(folder, 'password'), password, { mode: 0o600 });
  await rename(unfinished, join(folder, 'data'));
}

/**
 * The data folder as Postgres is to name it, started there. Its user may not be able to enter the
 * folders above, as in a checkout below /root; Linux leads to the working directory all the same.
 */
export function dataFolderFor(user: PostgresUser | undefined, data: string): string {
  return user && process.platform === 'linux' ? '/proc/self/cwd' : data;
}
