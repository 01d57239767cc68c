import { DatabaseError } from 'pg';
import type { Pool, QueryResultRow } from 'pg';
import {
  BY,
  expectOperands,
  parseDuration,
  Refused,
  runOperatorCommand,
  UsageError,
} from '#src/operators/operator-command.ts';
import type { Call } from '#src/operators/operator-command.ts';
import { createApiKey } from './api-key.ts';
import { API_KEYS_MAX } from './api-keys.ts';
import { CUSTOMER_SCOPES, SCOPES } from './principal.ts';

const TEXT_LENGTH_MAX = 64;
/** The user of the service may only read keys. Another user may not even do that. */
const FORBIDDEN = '42501';
const USAGE = `Usage: npm run keys -- <command>

  create --name <text> --scopes <scope,...> [--customer <customerId>] [--expires <90d>]
                     make a key and print it, this once; with --customer it can only see and change
                     the orders of that customer
  list [--all]       the keys that can be used, with their last use; --all also shows the others
  revoke <keyId>     end a key; replicas refuse it within 5 seconds

Scopes: ${SCOPES.join(', ')}
Of a customer: ${CUSTOMER_SCOPES.join(', ')}

Every change is recorded with the key, under --by <name> or your user name.`;

const OPTIONS = {
  name: { type: 'string' },
  scopes: { type: 'string' },
  customer: { type: 'string' },
  expires: { type: 'string' },
  all: { type: 'boolean' },
  by: BY,
} as const;

type KeyCall = Call<typeof OPTIONS>;

/**
 * Runs one command of an operator on the API keys. `pool` is that of the owner of the tables, because the service
 * may only read keys.
 * @returns the exit code: 0 done, 1 refused, 2 wrong usage
 */
export function runKeyCommand(
  args: readonly string[],
  pool: Pool,
  print: (text: string) => void,
): Promise<number> {
  const commands = { create, list, revoke };
  return runOperatorCommand({ usage: USAGE, options: OPTIONS, commands }, args, pool, print);
}

async function rowsOf<Row extends QueryResultRow>(
  { pool }: KeyCall,
  sql: string,
  values: readonly unknown[],
): Promise<Row[]> {
  try {
    return (await pool.query<Row>(sql, [...values])).rows;
  } catch (error) {
    if (!(error instanceof DatabaseError) || error.code !== FORBIDDEN) throw error;
    throw new Refused(
      'this user of the database may not manage keys: set MIGRATIONS_DATABASE_URL to the URL of the owner of ' +
        'the tables, or DATABASE_URL if there is only one user',
    );
  }
}

const IS_USABLE = `revoked_at is null and (expires_at is null or expires_at > clock_timestamp())`;
const CREATE = `
  insert into api_keys (key_id, key_hash, name, scopes, customer_id, expires_at, created_by)
  select $1, $2, $3, $4, $5, clock_timestamp() + $6 * interval '1 ms', $7
  where (select count(*) from api_keys where ${IS_USABLE}) < ${API_KEYS_MAX}
  returning expires_at as "expiresAt"`;

async function create(call: KeyCall): Promise<string> {
  expectOperands(call, []);
  const { customer, expires } = call.options;
  const name = textOf('--name', call.options.name ?? '');
  const customerId = customer === undefined ? null : textOf('--customer', customer);
  const scopes = scopesOf(call.options.scopes ?? '', customerId !== null);
  const expiresInMs = expires === undefined ? null : parseDuration('--expires', expires, '90d');
  const { id, hash, text } = createApiKey();
  const values = [id, hash, name, scopes, customerId, expiresInMs, call.actor];
  const [row] = await rowsOf<Readonly<{ expiresAt: Date | null }>>(call, CREATE, values);
  if (!row) throw new Refused(`there are ${API_KEYS_MAX} keys: revoke one first`);
  const until = row.expiresAt ? `until ${row.expiresAt.toISOString()}` : 'until it is revoked';
  return [
    text,
    '',
    `Key ${id} (${name}) may ${scopes.join(', ')} on ${ordersOf(customerId)}, ${until}.`,
    'This is the only time that it is shown. Keep it as you keep a password.',
  ].join('\n');
}

function textOf(option: string, text: string): string {
  if (text.trim() === '' || text.length > TEXT_LENGTH_MAX) {
    throw new UsageError(`${option} takes 1 to ${TEXT_LENGTH_MAX} characters`);
  }
  return text;
}

function scopesOf(list: string, isCustomer: boolean): string[] {
  const allowed: readonly string[] = isCustomer ? CUSTOMER_SCOPES : SCOPES;
  const scopes = [...new Set(list.split(',').map((scope) => scope.trim()))];
  const wrong = scopes.find((scope) => !allowed.includes(scope));
  if (wrong === undefined) return scopes;
  const whose = isCustomer ? ' for a customer' : '';
  throw new UsageError(`--scopes takes${whose}, separated by commas: ${allowed.join(', ')}`);
}

function ordersOf(customerId: string | null): string {
  return customerId === null ? 'all orders' : `the orders of customer ${customerId}`;
}

type ListedKey = Readonly<{
  id: string;
  name: string;
  scopes: string[];
  customerId: string | null;
  createdAt: Date;
  createdBy: string;
  expiresAt: Date | null;
  isExpired: boolean;
  revokedAt: Date | null;
  revokedBy: string | null;
  lastUsedAt: Date | null;
}>;

async function list(call: KeyCall): Promise<string> {
  expectOperands(call, []);
  const keys = await rowsOf<ListedKey>(
    call,
    `
      select key_id as id, name, scopes, customer_id as "customerId", created_at as "createdAt",
        created_by as "createdBy", expires_at as "expiresAt",
        coalesce(expires_at <= clock_timestamp(), false) as "isExpired", revoked_at as "revokedAt",
        revoked_by as "revokedBy", last_used_at as "lastUsedAt"
      from api_keys left join api_key_uses using (key_id)
      where $1 or (${IS_USABLE})
      order by created_at, key_id`,
    [call.options.all ?? false],
  );
  return keys.length === 0 ? 'There are no keys.' : keys.map(describeKey).join('\n\n');
}

function describeKey(key: ListedKey): string {
  const { id, name, scopes, customerId, createdAt, createdBy, expiresAt, lastUsedAt } = key;
  return [
    `key ${id} (${name})`,
    `  may        ${scopes.join(', ')} on ${ordersOf(customerId)}`,
    `  created    ${createdAt.toISOString()} by ${createdBy}`,
    `  last used  ${lastUsedAt?.toISOString() ?? 'not yet'}`,
    ...(expiresAt
      ? [`  ${key.isExpired ? 'expired' : 'expires'}    ${expiresAt.toISOString()}`]
      : []),
    ...(key.revokedAt ? [`  revoked    ${key.revokedAt.toISOString()} by ${key.revokedBy}`] : []),
  ].join('\n');
}

async function revoke(call: KeyCall): Promise<string> {
  const [id = ''] = expectOperands(call, ['<keyId>']);
  const [key] = await rowsOf<Readonly<{ name: string }>>(
    call,
    `update api_keys set revoked_at = now(), revoked_by = $2
     where key_id = $1 and revoked_at is null returning name`,
    [id, call.actor],
  );
  if (!key) throw new Refused(`there is no key ${id}, or it is already revoked`);
  return `Key ${id} (${key.name}) is revoked. Every replica refuses it within 5 seconds.`;
}
