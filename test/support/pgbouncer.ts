import { spawn } from 'node:child_process';
import { chown, mkdtemp, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Client } from 'pg';
import { freePort } from '#dev/ports.ts';
import { postgresUser } from '#dev/postgres-binaries.ts';
import { hasEnded, markerOf } from '#dev/processes.ts';
import { eventually } from './poll.ts';

/** The program of Debian's package. */
export const PGBOUNCER = '/usr/sbin/pgbouncer';

/** A PgBouncer in front of one server. */
export type Pgbouncer = AsyncDisposable &
  Readonly<{
    /** The URL of the server with the address of PgBouncer. */
    url: string;
    /** Runs a command of its console, such as `RELOAD`, `SHOW POOLS` or `KILL database`. */
    console(command: string): Promise<Readonly<Record<string, unknown>>[]>;
    /** Changes settings and loads them. */
    change(settings: PgbouncerSettings): Promise<void>;
  }>;

type PgbouncerSettings = Readonly<Record<string, string>>;

/**
 * @param parent a folder of this run, so that whatever is left is found and removed
 * @param url of the server, with the only user that may connect
 */
export async function startPgbouncer(
  parent: string,
  url: string,
  settings: PgbouncerSettings,
): Promise<Pgbouncer> {
  const { hostname, port: serverPort, username, password } = new URL(url);
  const folder = await mkdtemp(join(parent, 'pgbouncer-'));
  const port = await freePort();
  const ini = join(folder, `${markerOf(parent)}.ini`);
  const users = join(folder, 'users');
  const write = (changed: PgbouncerSettings) =>
    writeFile(ini, iniOf({ ...commonSettings(port, users, username), ...settings, ...changed }));
  const iniOf = (all: PgbouncerSettings) =>
    [
      '[databases]',
      `* = host=${hostname} port=${serverPort}`,
      '[pgbouncer]',
      ...Object.entries(all).map(([name, value]) => `${name} = ${value}`),
      '',
    ].join('\n');
  await write({});
  await writeFile(users, `"${username}" "${password}"\n`);
  // It refuses to run as root.
  const user = await postgresUser();
  if (user) for (const path of [parent, folder, ini, users]) await chown(path, user.uid, user.gid);
  const output: string[] = [];
  const child = spawn(PGBOUNCER, [ini], { ...user, cwd: '/', stdio: ['ignore', 'pipe', 'pipe'] });
  const ended = new Promise((resolve) => child.once('close', resolve));
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (data: Buffer) => output.push(data.toString()));
  }
  const ask = (command: string) => queryConsole(port, username, password, command);
  await eventually(async () => {
    if (hasEnded(child)) throw new Error(`pgbouncer has ended: ${output.join('')}`);
    return (await ask('SHOW VERSION').catch(() => [])).length > 0;
  });
  return {
    url: Object.assign(new URL(url), { host: `127.0.0.1:${port}` }).href,
    console: ask,
    change: async (changed) => {
      await write(changed);
      await ask('RELOAD');
    },
    [Symbol.asyncDispose]: async () => {
      child.kill('SIGKILL');
      await ended;
    },
  };
}

function commonSettings(port: number, users: string, admin: string): PgbouncerSettings {
  return {
    listen_addr: '127.0.0.1',
    listen_port: String(port),
    unix_socket_dir: '',
    auth_type: 'scram-sha-256',
    auth_file: users,
    admin_users: admin,
    log_connections: '0',
    log_disconnections: '0',
  };
}

async function queryConsole(port: number, user: string, password: string, command: string) {
  const client = new Client({ host: '127.0.0.1', port, user, password, database: 'pgbouncer' });
  client.on('error', () => {}); // the query fails too
  try {
    await client.connect();
    return (await client.query<Record<string, unknown>>(command)).rows;
  } finally {
    await client.end();
  }
}
