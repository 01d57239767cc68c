import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdir, open, readFile, rm } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { Client, escapeIdentifier } from 'pg';
import { serverEnvironment } from './environment.ts';
import { keptPort } from './ports.ts';
import { postgresBinaries, postgresUser } from './postgres-binaries.ts';
import type { PostgresUser } from './postgres-binaries.ts';
import { createCluster, dataFolderFor } from './postgres-cluster.ts';
import {
  findProcesses,
  hasEnded,
  killAll,
  markerOf,
  sendSignal,
  signalAll,
  waitUntilGone,
} from './processes.ts';
import type { RunningProcess } from './processes.ts';

/** Recovery after a crash may have a lot of log to read. */
const START_MS_MAX = 60_000;
const REUSE_MS_MAX = 10_000;
const STOP_MS_MAX = 15_000;
const POLL_MS = 50;

export type PostgresOptions = Readonly<{
  /** Everything is kept in here, the password and the port too. */
  folder: string;
  /** Made if it is missing. */
  database: string;
  log: (line: string) => void;
  settings?: Readonly<Record<string, string>>;
}>;

/** A real Postgres 18 on a port of 127.0.0.1 that stays the same, restarts included. */
export type EmbeddedPostgres = Readonly<{
  /** As superuser, in the database asked for. */
  url: string;
  port: number;
  /** Ends every session, writes all out and exits. */
  stop(): Promise<void>;
  /** `kill -9` of the server and all its children. */
  kill(): Promise<void>;
  /** After `stop` or `kill`: the same data, the same port. */
  start(): Promise<void>;
  /** To the server and all its children. */
  signal(name: NodeJS.Signals): Promise<void>;
}>;

type Server = Readonly<{
  log: (line: string) => void;
  data: string;
  logFile: string;
  marker: string;
  user: PostgresUser | undefined;
  binaries: string;
  port: number;
  password: string;
  settings: Readonly<Record<string, string>>;
}>;

/**
 * Starts Postgres on the folder, or goes on with one that an earlier process left running there.
 * It outlives this process unless it is stopped.
 */
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

async function startServer(server: Server): Promise<void> {
  const running = await findProcesses(server.marker);
  if (running.some(isPostmaster) && (await answersWithin(server, REUSE_MS_MAX, () => false)))
    return;
  if (running.length > 0) {
    server.log('Postgres 18: replacing a server that does not answer...');
    await killAll(server.marker); // children outlive a postmaster that was killed, by a second or so
  }
  // None of ours is alive, so a process id in there is stale, and may be another program's by now.
  await rm(join(server.data, 'postmaster.pid'), { force: true });
  const child = await spawnServer(server);
  if (await answersWithin(server, START_MS_MAX, () => hasEnded(child))) return;
  await killAll(server.marker);
  const lines = (await readFile(server.logFile, 'utf8')).trim().split('\n').slice(-5);
  throw new Error(`Postgres did not start (${server.logFile}):\n${lines.join('\n')}`);
}

/** In a process group of its own, so that a Ctrl-C in the terminal does not reach it. */
async function spawnServer(server: Server) {
  const settings = {
    listen_addresses: '127.0.0.1',
    port: String(server.port),
    unix_socket_directories: '',
    cluster_name: server.marker, // shown in the command line of every process of the server
    ...server.settings,
  };
  const log = await open(server.logFile, 'a');
  const child = spawn(
    join(server.binaries, 'postgres'),
    [
      '-D',
      dataFolderFor(server.user, server.data),
      ...Object.entries(settings).flatMap(([name, value]) => ['-c', `${name}=${value}`]),
    ],
    {
      ...server.user,
      cwd: server.data,
      env: serverEnvironment(),
      detached: true,
      stdio: ['ignore', log.fd, log.fd],
    },
  );
  child.on('error', () => {}); // what could not start does not answer, which is told then
  child.unref();
  await log.close();
  return child;
}

async function answersWithin(server: Server, ms: number, hasFailed: () => boolean) {
  const deadline = performance.now() + ms;
  while (performance.now() < deadline && !hasFailed()) {
    if (await answers(server)) return true;
    await delay(POLL_MS);
  }
  return false;
}

async function answers(server: Server): Promise<boolean> {
  const client = new Client({
    connectionString: urlOf(server, 'postgres'),
    connectionTimeoutMillis: 2_000,
    query_timeout: 2_000,
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

async function stopServer(server: Server): Promise<void> {
  const running = await findProcesses(server.marker);
  for (const { pid } of running.filter(isPostmaster)) sendSignal(pid, 'SIGINT'); // the fast shutdown
  if (!(await waitUntilGone(server.marker, STOP_MS_MAX))) await killAll(server.marker);
}

/** Its children call themselves `postgres: <what they do>`. */
function isPostmaster({ command }: RunningProcess): boolean {
  return !command.startsWith('postgres:');
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

function urlOf(server: Server, database: string): string {
  // Without TLS in so many words: PGSSLMODE would be asked else.
  const { password, port } = server;
  return `postgres://postgres:${password}@127.0.0.1:${port}/${database}?sslmode=disable`;
}
