import { execFile, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { chown, mkdir, open, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { promisify } from 'node:util';
import { Client, escapeIdentifier } from 'pg';
import { serverEnvironment } from './environment.ts';
import { keptPort } from './ports.ts';
import { postgresBinaries, postgresUser } from './postgres-binaries.ts';
import type { PostgresUser } from './postgres-binaries.ts';
import { findProcesses, killAll, markerOf, outputOf, signalAll, startError } from './processes.ts';
import type { LocalServer } from './processes.ts';

/** Crash recovery may have a lot of log to read. */
const START_S_MAX = 60;
const STOP_S_MAX = 15;
const REUSE_MS_MAX = 10_000;
const INITDB = [
  '--username=postgres',
  '--auth=trust',
  '--encoding=UTF8',
  '--locale-provider=builtin',
  '--locale=C.UTF-8',
  '--no-instructions',
];
const ACCESS_RULES = 'host all,replication all 127.0.0.1/32 scram-sha-256\n';

export type PostgresOptions = Readonly<{
  /** Holds the data, the password, the port and the log. */
  folder: string;
  /** Created if it is missing. */
  database: string;
  log: (line: string) => void;
  settings?: Readonly<Record<string, string>>;
}>;

/** A real Postgres 18 on a port of 127.0.0.1. The port stays the same across restarts. */
export type EmbeddedPostgres = LocalServer &
  Readonly<{
    /** Connects as superuser to the database in the options. */
    url: string;
    port: number;
  }>;

type Server = Readonly<{
  log: (line: string) => void;
  data: string;
  logFile: string;
  /**
   * In the command line of every process of the server. `pg_ctl` knows the postmaster only, and knows it by an
   * id that may be another program's by now; what a crash left behind is found by the marker.
   */
  marker: string;
  user: PostgresUser | undefined;
  binaries: string;
  port: number;
  password: string;
  settings: Readonly<Record<string, string>>;
}>;

/** Starts Postgres on the folder, or reuses the server that an earlier process left running there. */
export async function startPostgres(options: PostgresOptions): Promise<EmbeddedPostgres> {
  const server = await prepare(options);
  const controls = {
    stop: () => stopServer(server),
    kill: () => killAll(server.marker),
    start: () => startServer(server),
    signal: (name: NodeJS.Signals) => signalAll(server.marker, name),
  };
  await controls.start();
  await createDatabase(server, options.database);
  return { ...controls, port: server.port, url: urlOf(server, options.database) };
}

async function prepare(options: PostgresOptions): Promise<Server> {
  const folder = resolve(options.folder);
  await mkdir(folder, { recursive: true });
  const user = await postgresUser();
  const binaries = await postgresBinaries(user);
  if (!existsSync(join(folder, 'data'))) {
    options.log('Postgres 18: creating the data folder...');
    await createCluster(folder, binaries, user);
  }
  const marker = markerOf(folder);
  return {
    log: options.log,
    data: join(folder, 'data'),
    logFile: join(folder, 'postgres.log'),
    marker,
    user,
    binaries,
    port: await keptPort(join(folder, 'port'), async () => {
      return (await findProcesses(marker)).length > 0;
    }),
    password: await readFile(join(folder, 'password'), 'utf8'),
    settings: options.settings ?? {},
  };
}

/**
 * Creates `data` in the folder, and `password` beside it. The password is random, so that no other user of
 * this machine can connect. A crash leaves no half-made `data`.
 */
async function createCluster(
  folder: string,
  binaries: string,
  user: PostgresUser | undefined,
): Promise<void> {
  const unfinished = join(folder, 'data.new');
  const password = randomBytes(12).toString('hex');
  await rm(unfinished, { recursive: true, force: true });
  await mkdir(unfinished, { mode: 0o700 });
  if (user) await chown(unfinished, user.uid, user.gid);
  const data = ['-D', workingFolder(user, unfinished)];
  const options = { ...user, cwd: unfinished, env: serverEnvironment() };
  await promisify(execFile)(join(binaries, 'initdb'), [...INITDB, ...data], options).catch(
    (error: unknown) => {
      const [problem = String(error)] = /(?:FATAL|PANIC|error): .+/.exec(outputOf(error)) ?? [];
      throw new Error(`Postgres could not create its data folder in ${folder}: ${problem}`, {
        cause: error,
      });
    },
  );
  // Not in a file for initdb: its user may not be able to read any file outside of the data folder.
  const single = spawn(join(binaries, 'postgres'), ['--single', ...data, 'postgres'], {
    ...options,
    stdio: ['pipe', 'ignore', 'ignore'],
  });
  single.stdin.end(`alter role postgres password '${password}'\n`);
  const [code] = await once(single, 'exit');
  if (code !== 0) throw new Error(`Postgres could not set its password (exit code ${code})`);
  await writeFile(join(unfinished, 'pg_hba.conf'), ACCESS_RULES);
  await writeFile(join(folder, 'password'), password, { mode: 0o600 });
  await rename(unfinished, join(folder, 'data'));
}

async function startServer(server: Server): Promise<void> {
  if ((await findProcesses(server.marker)).length > 0) {
    if (await responds(server)) return;
    server.log('Postgres 18: replacing a server that does not respond...');
    await killAll(server.marker); // the children of a killed postmaster live on for a second or so
  }
  // No process of ours is alive, so the id in this file is stale and may belong to another program.
  await rm(join(server.data, 'postmaster.pid'), { force: true });
  const settings = {
    listen_addresses: '127.0.0.1',
    port: String(server.port),
    unix_socket_directories: '',
    cluster_name: server.marker,
    ...server.settings,
  };
  const options = Object.entries(settings).map(([name, value]) => `-c ${name}='${value}'`);
  const args = ['start', `--timeout=${START_S_MAX}`, '--options', options.join(' ')];
  if (await pgCtl(server, args)) return;
  await killAll(server.marker);
  throw await startError('Postgres', server.logFile);
}

async function stopServer(server: Server): Promise<void> {
  if ((await findProcesses(server.marker)).length === 0) return;
  const hasStopped = await pgCtl(server, ['stop', '--mode=fast', `--timeout=${STOP_S_MAX}`]);
  if (!hasStopped) await killAll(server.marker);
}

/** Runs `pg_ctl` and returns whether it succeeded. It makes the server the leader of a session of its own. */
async function pgCtl(server: Server, args: readonly string[]): Promise<boolean> {
  const { user, data } = server;
  const log = await open(server.logFile, 'a');
  const all = [...args, '--wait', '--silent', '-D', workingFolder(user, data)];
  const child = spawn(join(server.binaries, 'pg_ctl'), all, {
    ...user,
    cwd: data,
    env: serverEnvironment(),
    detached: true, // a Ctrl-C in the terminal must not reach it
    stdio: ['ignore', log.fd, log.fd],
  });
  try {
    const [code] = await once(child, 'exit');
    return code === 0;
  } catch {
    return false; // it could not be run
  } finally {
    await log.close();
  }
}

/**
 * The name under which a program that is started in the folder finds it. The user of Postgres may not be able
 * to enter the folders above, as in a checkout below /root; on Linux the working directory works all the same.
 */
function workingFolder(user: PostgresUser | undefined, folder: string): string {
  return user && process.platform === 'linux' ? '/proc/self/cwd' : folder;
}

async function responds(server: Server): Promise<boolean> {
  const client = new Client({
    connectionString: urlOf(server, 'postgres'),
    connectionTimeoutMillis: REUSE_MS_MAX,
    query_timeout: REUSE_MS_MAX,
  });
  client.on('error', () => {});
  try {
    await client.connect();
    await client.query('select 1');
    return true;
  } catch {
    return false;
  } finally {
    await client.end().catch(() => {});
  }
}

async function createDatabase(server: Server, database: string): Promise<void> {
  const client = new Client({ connectionString: urlOf(server, 'postgres') });
  await client.connect();
  try {
    const { rowCount } = await client.query('select from pg_database where datname = $1', [
      database,
    ]);
    if (rowCount === 0) await client.query(`create database ${escapeIdentifier(database)}`);
  } finally {
    await client.end();
  }
}

/** `sslmode` is in the URL because PGSSLMODE would apply otherwise. */
function urlOf({ password, port }: Server, database: string): string {
  return `postgres://postgres:${password}@127.0.0.1:${port}/${database}?sslmode=disable`;
}
