import type { ClientBase } from 'pg';
import { SERVICE_ROLE } from './session.ts';

/**
 * All that the role of the service may do, and nothing else. That it may not change or delete events is promise
 * G8. A migration that adds a table adds its line here.
 */
export const TABLE_GRANTS: Readonly<Record<string, readonly string[]>> = {
  streams: ['select', 'insert', 'update', 'delete'],
  events: ['select', 'insert'],
  event_schemas: ['select', 'insert'],
  orders_summary: ['select', 'insert', 'update'],
  order_skus: ['select', 'insert', 'delete'],
  order_personal_data: ['select', 'insert', 'update', 'delete'],
  external_references: ['select', 'insert'],
  idempotency_keys: ['select', 'insert', 'delete'],
  outbox_events: ['select', 'insert', 'delete'],
  leases: ['select', 'insert', 'update'],
  outbox_parked: ['select', 'insert', 'delete'],
  outbox_topics: ['select', 'insert', 'update'],
  outbox_audit: ['select', 'insert'],
  saga_work: ['select', 'insert', 'update'],
  stock: ['select', 'insert', 'update'],
  reservations: ['select', 'insert', 'delete'],
  api_keys: ['select'],
  api_keys_version: ['select'],
  api_key_uses: ['select', 'insert', 'update'],
};
const SEQUENCE = 'outbox_events_id_seq';
/** It runs as the owner, so no other role may call it. */
const OWNERS_FUNCTION = 'oldest_transaction_age_seconds()';

/**
 * Creates the role of the service and grants its rights, as far as they are missing: a restore into another
 * cluster loses them. Only one process may call it at a time, as the owner.
 * @param user who runs the service, if that is not the owner: becomes a member of the role
 * @returns the statements that granted what was missing
 */
export async function ensureGrants(owner: ClientBase, user?: string): Promise<string[]> {
  await owner.query(ENSURE_ROLE);
  const wanted = Object.entries(TABLE_GRANTS).flatMap(([table, privileges]) =>
    privileges.map((privilege) => ({ table, privilege })),
  );
  const { rows } = await owner.query<{ statement: string }>(MISSING, [
    SERVICE_ROLE,
    JSON.stringify(wanted),
    SEQUENCE,
    OWNERS_FUNCTION,
    user,
  ]);
  const statements = rows.map(({ statement }) => statement);
  for (const statement of statements) await owner.query(statement);
  return statements;
}

/** Since Postgres 16 the creator of a role is a member of it, but may not act as it unless it is a superuser. */
const ENSURE_ROLE = `
  do $$
  begin
    if not exists (select from pg_roles where rolname = '${SERVICE_ROLE}') then
      create role ${SERVICE_ROLE} nologin;
    end if;
  exception
    when duplicate_object or unique_violation then null;
  end $$;
  do $$
  begin
    set local role ${SERVICE_ROLE};
    reset role;
  exception
    when insufficient_privilege then execute format('grant ${SERVICE_ROLE} to %I', current_user);
  end $$`;

const MISSING = `
  select format('grant %s on %I to %I', string_agg(privilege, ', '), "table", $1::text) as statement
  from json_to_recordset($2) as wanted ("table" text, privilege text)
  where case when to_regclass("table") is not null
    then not has_table_privilege($1, "table", privilege) end
  group by "table"
  union all
  select format('grant select on sequence %I to %I', $3::text, $1)
  where not has_sequence_privilege($1, $3, 'select')
  union all
  select format('revoke execute on function %s from public', $4::text)
  where has_function_privilege('public', $4, 'execute')
  union all
  select format('grant execute on function %s to %I', $4, $1)
  where not has_function_privilege($1, $4, 'execute') or has_function_privilege('public', $4, 'execute')
  union all
  select format('grant usage on schema %I to %I', current_schema, $1)
  where not has_schema_privilege($1, current_schema, 'usage')
  union all
  select format('grant connect on database %I to %I', current_database(), $1)
  where not has_database_privilege($1, current_database(), 'connect')
  union all
  select format('grant select on migrations to %I', $1)
  where not has_table_privilege($1, 'migrations', 'select')
  union all
  select format('grant %I to %I', $1, rolname) from pg_roles
  where rolname = $5 and not pg_has_role(oid, $1, 'member')
    and pg_has_role(current_user, $1, 'member with admin option')`;
