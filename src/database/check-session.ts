import type { ClientBase } from 'pg';
import type { SessionSettings } from './session-settings.ts';

const CHECK_TIMEOUT_MS = 2_000;
/** What cannot be set by everybody, and must be so all the same. */
const REQUIRED = {
  server_encoding: 'UTF8',
  client_encoding: 'UTF8',
  session_replication_role: 'origin',
} as const satisfies SessionSettings;

/** What to do about a setting that is wrong. */
const ADVICE: SessionSettings = {
  server_encoding: "create the database with encoding 'UTF8'",
  session_replication_role:
    'triggers would not fire: reset it for the role and the database of DATABASE_URL',
};
const POOLER_ADVICE =
  'connect to Postgres itself, or through a pooler that passes the startup parameter "options" on';

/** Which server a session is on: another one, or the same after a restart, is told apart. */
export type ServerIdentity = Readonly<{
  system: string;
  /** Grows with each promotion of a standby. */
  timeline: number;
  startedAt: string;
}>;

/** A session as it was when it was opened. */
export type Session = Readonly<{
  pid: number;
  /** By the server's clock, as text: whatever started later under this pid is another session. */
  openedAt: string;
  server: ServerIdentity;
}>;

/** The session cannot be used. The connection was closed before any statement of ours ran on it. */
export class SessionRefused extends Error {
  /** Whether the next connection may well be better, without anybody changing a setting. */
  readonly isTemporary: boolean;

  constructor(reason: string, { isTemporary }: Readonly<{ isTemporary: boolean }>) {
    super(`this database session cannot be used: ${reason}`);
    this.name = 'SessionRefused';
    this.isTemporary = isTemporary;
  }
}

type Row = Readonly<{
  pid: number;
  openedAt: string;
  isRecovering: boolean;
  isReadOnly: boolean;
  system: string;
  timeline: number | null;
  startedAt: string;
  settings: SessionSettings;
}>;

/**
 * Asks a new session, in one round trip, whether its server takes writes and whether the session has the
 * settings that it was opened with. A pooler may have dropped them, and a proxy may lead to a standby.
 * @throws SessionRefused with the reason and what to do
 * @throws what the query throws; it is given up after 2 s
 */
export async function checkSession(
  client: ClientBase,
  settings: SessionSettings,
): Promise<Session> {
  const expected = { ...settings, ...REQUIRED };
  const query = { text: CHECK, values: [Object.keys(expected)], query_timeout: CHECK_TIMEOUT_MS };
  const { rows } = await client.query<Row>(query);
  const [row] = rows;
  if (!row) throw new Error('the check of a session returned no row');
  refuseWrongSettings(expected, row.settings);
  const { pid, openedAt, system, timeline, startedAt, isRecovering, isReadOnly } = row;
  if (isRecovering || timeline === null) {
    throw new SessionRefused('the server is a standby and takes no writes', { isTemporary: true });
  }
  if (isReadOnly) {
    throw new SessionRefused(
      'default_transaction_read_only is on for the server, the role or the database',
      { isTemporary: true },
    );
  }
  return { pid, openedAt, server: { system, timeline, startedAt } };
}

/** The name of a file of the WAL begins with the timeline, as eight hexadecimal digits. */
const CHECK = `
  select pg_backend_pid() as pid, clock_timestamp()::text as "openedAt",
    pg_is_in_recovery() as "isRecovering",
    current_setting('transaction_read_only')::boolean as "isReadOnly",
    (select system_identifier::text from pg_control_system()) as system,
    case when not pg_is_in_recovery() then
      ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::integer
    end as timeline,
    pg_postmaster_start_time()::text as "startedAt",
    (select json_object_agg(name, current_setting(name)) from unnest($1::text[]) as name) as settings`;

function refuseWrongSettings(expected: SessionSettings, actual: SessionSettings): void {
  const wrong = Object.entries(expected).filter(([name, value]) => actual[name] !== value);
  if (wrong.length === 0) return;
  const list = wrong.map(([name, value]) => `${name} is "${actual[name]}" and must be "${value}"`);
  const advice = new Set(wrong.map(([name]) => ADVICE[name] ?? POOLER_ADVICE));
  throw new SessionRefused(`${list.join(', ')}; ${[...advice].join('; ')}`, {
    isTemporary: false,
  });
}
