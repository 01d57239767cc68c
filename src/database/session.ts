import { DatabaseError, escapeLiteral } from 'pg';
import type { ClientBase } from 'pg';
import { z } from 'zod';

/** Settings of a session by name, each value as Postgres shows it. */
export type SessionSettings = Readonly<Record<string, string>>;

/** The role of the service. It can neither change nor remove events. */
export const SERVICE_ROLE = 'orders_app';

/**
 * Every session sets all that changes the meaning of a statement, or whether a commit is on disk. It inherits
 * none of this from the role, the database or the configuration of the server.
 */
const COMMON_SETTINGS = {
  search_path: 'public',
  default_transaction_isolation: 'read committed',
  default_transaction_deferrable: 'off',
  synchronous_commit: 'on',
  TimeZone: 'UTC',
  DateStyle: 'ISO, MDY',
  IntervalStyle: 'postgres',
  bytea_output: 'hex',
  extra_float_digits: '1',
  standard_conforming_strings: 'on',
  array_nulls: 'on',
  transform_null_equals: 'off',
  row_security: 'on',
  idle_session_timeout: '0',
  /** A statement ends when its client is gone, even while it waits for a lock. */
  client_connection_check_interval: '2s',
} as const satisfies SessionSettings;

const SERVICE_SETTINGS = {
  ...COMMON_SETTINGS,
  role: SERVICE_ROLE,
  statement_timeout: '5s',
  lock_timeout: '1s',
  idle_in_transaction_session_timeout: '10s',
} as const satisfies SessionSettings;

/** For background work. Each execution is planned anew, so no plan outlives the table size that it was made for. */
export const BACKGROUND_SETTINGS = {
  ...SERVICE_SETTINGS,
  plan_cache_mode: 'force_custom_plan',
} as const satisfies SessionSettings;

/**
 * For the write path, where an index serves every statement. A prepared statement may be
 * planned while the tables are empty and keeps that plan, so the planner may use only index scans and nested
 * loops.
 */
export const INDEX_ONLY_SETTINGS = {
  ...SERVICE_SETTINGS,
  plan_cache_mode: 'auto',
  enable_indexscan: 'on',
  enable_nestloop: 'on',
  enable_seqscan: 'off',
  enable_hashjoin: 'off',
  enable_mergejoin: 'off',
} as const satisfies SessionSettings;

/**
 * For reads of callers. A page of a list is read in the order of its index. A planner that expects few rows would
 * rather fetch the whole list and sort it, and its statistics may be old. What no index has in order is sorted still.
 */
export const READ_SETTINGS = {
  ...INDEX_ONLY_SETTINGS,
  enable_sort: 'off',
  enable_incremental_sort: 'off',
} as const satisfies SessionSettings;

/** For migrations, which run as the owner of the tables. A statement may take as long as it needs. */
export const MIGRATION_SETTINGS = {
  ...COMMON_SETTINGS,
  statement_timeout: '0',
  lock_timeout: '0',
  idle_in_transaction_session_timeout: '1min',
} as const satisfies SessionSettings;

/** For the commands of operators. */
export const OPERATOR_SETTINGS = {
  ...MIGRATION_SETTINGS,
  role: SERVICE_ROLE,
} as const satisfies SessionSettings;

/**
 * The session of a host that disappears without closing its connections ends within 11 s and frees its locks.
 * These settings are not checked: on a Unix socket they are 0.
 */
const KEEPALIVE_SETTINGS = {
  tcp_keepalives_idle: '5',
  tcp_keepalives_interval: '2',
  tcp_keepalives_count: '3',
  tcp_user_timeout: '10s',
} as const satisfies SessionSettings;

/** Identifies a server. A restart or a promotion makes it another one. */
export type ServerIdentity = Readonly<{
  /** Empty if it is not known. */
  system: string;
  /** Grows with each promotion of a standby. 0 if it is not known. */
  timeline: number;
  startedAt: string;
}>;

/** A session as it was when it was opened. */
export type Session = Readonly<{
  pid: number;
  /** On the server's clock, as text. A session with this pid that started later is another one. */
  openedAt: string;
  server: ServerIdentity;
  /** Whether a pooler is between: the client was told the id of another process than the server's. */
  isPooled: boolean;
}>;

/** The session cannot be used. No statement of a caller has run on it. */
export class SessionRefused extends Error {
  /** Whether another attempt may succeed although nobody has changed a setting. */
  readonly isTemporary: boolean;
  /** The message without `details`, which name hosts and users. */
  readonly publicMessage: string;

  constructor(
    reason: string,
    { isTemporary, details }: Readonly<{ isTemporary: boolean; details?: string }>,
  ) {
    const publicMessage = `this database session cannot be used: ${reason}`;
    super(details === undefined ? publicMessage : `${publicMessage}: ${details}`);
    this.publicMessage = publicMessage;
    this.name = 'SessionRefused';
    this.isTemporary = isTemporary;
  }
}

const OPEN_TIMEOUT_MS = 2_000;
/** Settings that not every role may set. */
const REQUIRED_SETTINGS = {
  server_encoding: 'UTF8',
  client_encoding: 'UTF8',
  session_replication_role: 'origin',
} as const satisfies SessionSettings;

/** What to do about a wrong setting. */
const ADVICE: SessionSettings = {
  server_encoding: "create the database with encoding 'UTF8'",
  session_replication_role:
    'triggers would not fire: reset it for the role and the database of the connection',
};
const POOLER_ADVICE =
  'the settings were sent and did not take effect: connect to Postgres itself, or through a pooler in session mode';

const INSUFFICIENT_PRIVILEGE = '42501';
/** invalid_parameter_value is for a role that does not exist. */
const NO_ROLE: ReadonlySet<string> = new Set([INSUFFICIENT_PRIVILEGE, '22023']);

/** The name of a WAL file begins with the timeline, as eight hexadecimal digits. */
const IDENTITY = `
  (select system_identifier::text from pg_control_system()) as system,
  case when not pg_is_in_recovery() then
    ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::integer
  end as timeline`;
/** Where the role may not call these functions. The time of its start then identifies the server alone. */
const NO_IDENTITY = `'' as system, 0 as timeline`;

/**
 * Sets a session and reads back what it has, as one message: the settings are in force before the last statement
 * begins. Statements that an earlier client of a pooler has prepared are removed, because their names are ours.
 */
function openingOf(settings: SessionSettings, identity: string): string {
  const all = escapeLiteral(JSON.stringify({ ...settings, ...KEEPALIVE_SETTINGS }));
  const expected = escapeLiteral(JSON.stringify({ ...settings, ...REQUIRED_SETTINGS }));
  return `
    deallocate all;
    select set_config(key, value, false) from json_each_text(${all});
    select pg_backend_pid() as pid, clock_timestamp()::text as "openedAt",
      pg_is_in_recovery() as "isRecovering",
      current_setting('transaction_read_only')::boolean as "isReadOnly",
      ${identity},
      pg_postmaster_start_time()::text as "startedAt",
      (select json_object_agg(key, current_setting(key)) from json_each_text(${expected})) as settings`;
}

const openedSchema = z.object({
  pid: z.number(),
  openedAt: z.string(),
  isRecovering: z.boolean(),
  isReadOnly: z.boolean(),
  system: z.string(),
  timeline: z.number().nullable(),
  startedAt: z.string(),
  settings: z.record(z.string(), z.string()),
});
const resultsSchema = z.array(z.object({ rows: z.array(z.unknown()) }));

/**
 * Sets a new session and checks it, in one round trip: that its server takes writes, because a proxy may lead to a
 * standby, and that it has its settings.
 * @throws SessionRefused
 * @throws what the query throws, after 2 s at the latest
 */
export async function openSession(client: ClientBase, settings: SessionSettings): Promise<Session> {
  const opened = await runOpening(client, settings);
  refuseWrongSettings({ ...settings, ...REQUIRED_SETTINGS }, opened.settings);
  const { pid, openedAt, system, timeline, startedAt, isRecovering, isReadOnly } = opened;
  if (isRecovering || timeline === null) {
    throw new SessionRefused('the server is a standby and takes no writes', { isTemporary: true });
  }
  if (isReadOnly) {
    throw new SessionRefused(
      'default_transaction_read_only is on for the server, the role or the database',
      { isTemporary: true },
    );
  }
  const isPooled = !('processID' in client) || client.processID !== pid;
  return { pid, openedAt, server: { system, timeline, startedAt }, isPooled };
}

async function runOpening(client: ClientBase, settings: SessionSettings) {
  const open = async (identity: string) => {
    const query = { text: openingOf(settings, identity), query_timeout: OPEN_TIMEOUT_MS };
    const results = resultsSchema.parse(await client.query(query));
    return openedSchema.parse(results.at(-1)?.rows[0]);
  };
  const mayNotCall = (error: unknown) => {
    if (codeOf(error) === INSUFFICIENT_PRIVILEGE) return open(NO_IDENTITY);
    throw error;
  };
  try {
    return await open(IDENTITY).catch(mayNotCall);
  } catch (error) {
    const { role } = settings;
    if (role && error instanceof DatabaseError && NO_ROLE.has(codeOf(error))) {
      throw new SessionRefused(`${error.message}; the user must be a member of ${role}`, {
        isTemporary: false,
      });
    }
    throw error;
  }
}

function codeOf(error: unknown): string {
  return error instanceof DatabaseError ? (error.code ?? '') : '';
}

function refuseWrongSettings(expected: SessionSettings, actual: SessionSettings): void {
  const wrong = Object.entries(expected).filter(([name, value]) => actual[name] !== value);
  if (wrong.length === 0) return;
  const list = wrong.map(([name, value]) => `${name} is "${actual[name]}" and must be "${value}"`);
  const advice = new Set(wrong.map(([name]) => ADVICE[name] ?? POOLER_ADVICE));
  throw new SessionRefused(`${list.join(', ')}; ${[...advice].join('; ')}`, {
    isTemporary: false,
  });
}
