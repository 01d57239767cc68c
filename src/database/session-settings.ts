/** Settings of a session by name, each value as Postgres shows it. */
export type SessionSettings = Readonly<Record<string, string>>;

/** The role that the service works as. It can neither change nor remove an event. */
const SERVICE_ROLE = 'orders_app';

/**
 * What every session sets for itself, so that nothing which changes the meaning of a statement, or whether
 * a commit is on disk, is inherited from the role, the database or the server's configuration.
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
  /** A statement ends when its client is gone, also while it waits for a lock. */
  client_connection_check_interval: '2s',
} as const satisfies SessionSettings;

/**
 * A host that disappears without closing its connections is found out within 11 s: its session ends, and
 * its locks with it. Not checked after connecting: a Unix socket shows 0.
 */
const KEEPALIVE_SETTINGS = {
  tcp_keepalives_idle: '5',
  tcp_keepalives_interval: '2',
  tcp_keepalives_count: '3',
  tcp_user_timeout: '10s',
} as const satisfies SessionSettings;

const SERVICE_SETTINGS = {
  ...COMMON_SETTINGS,
  role: SERVICE_ROLE,
  statement_timeout: '5s',
  lock_timeout: '1s',
  idle_in_transaction_session_timeout: '10s',
} as const satisfies SessionSettings;

/**
 * For relay, leases, sagas and whatever else works in the background. A plan is made for each execution:
 * one that was made while a table was small is not kept.
 */
export const BACKGROUND_SETTINGS = {
  ...SERVICE_SETTINGS,
  plan_cache_mode: 'force_custom_plan',
} as const satisfies SessionSettings;

/**
 * For the write path and for what callers read, where every statement is answered by an index. Prepared
 * statements live as long as their session and may be planned while the tables are empty, so the planner is
 * offered index scans and nested loops only.
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

/** Statements take as long as they need; a transaction between two of them does not. */
const UNHURRIED_SETTINGS = {
  ...COMMON_SETTINGS,
  statement_timeout: '0',
  lock_timeout: '0',
  idle_in_transaction_session_timeout: '1min',
} as const satisfies SessionSettings;

/** For an operator's command. */
export const OPERATOR_SETTINGS = {
  ...UNHURRIED_SETTINGS,
  role: SERVICE_ROLE,
} as const satisfies SessionSettings;

/** For migrations, which run as the owner of the tables. */
export const MIGRATION_SETTINGS = UNHURRIED_SETTINGS;

/** The startup parameter `options` that makes these settings. */
export function startupOptions(settings: SessionSettings): string {
  return Object.entries({ ...settings, ...KEEPALIVE_SETTINGS })
    .map(([name, value]) => `-c ${name}=${value.replaceAll(/[\\ ]/g, String.raw`\$&`)}`)
    .join(' ');
}
