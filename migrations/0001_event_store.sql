-- The log of what happened. Rows are added and never changed: the service's role may only insert and
-- select, and a trigger stops everybody else, the owner included.

-- It may be there: roles belong to the cluster, not to this database. Then no right to make it is needed.
do $$
begin
  if not exists (select from pg_roles where rolname = 'orders_app') then
    create role orders_app nologin;
  end if;
exception
  when duplicate_object or unique_violation then null; -- another database of the cluster was quicker
end $$;

-- Who makes a role is a member of it, and since Postgres 16 may yet not act as it, unless a superuser.
do $$
begin
  set local role orders_app;
  reset role;
exception
  when insufficient_privilege then execute format('grant orders_app to %I', current_user);
end $$;

do $$
begin
  execute format('grant connect on database %I to orders_app', current_database());
end $$;

grant usage on schema public to orders_app;

-- One row a stream: the row that an append locks, and the version it must find there.
create table streams (
  stream_id uuid primary key,
  category text not null,
  version integer not null check (version >= 0)
) with (fillfactor = 80);

create table events (
  position bigint generated always as identity primary key,
  stream_id uuid not null,
  version integer not null check (version >= 1),
  type text not null,
  schema_version smallint not null,
  data jsonb not null,
  metadata jsonb not null,
  recorded_at timestamptz(3) not null,
  unique (stream_id, version)
);

-- What may be in the log: each version of the service adds what it writes before it writes it, and one
-- that cannot read all of this does not start.
create table event_schemas (
  type text not null,
  schema_version smallint not null,
  primary key (type, schema_version)
);

create function refuse_history_change() returns trigger language plpgsql as $$
begin
  raise exception 'events are append-only: % refused', tg_op using errcode = 'insufficient_privilege';
end $$;

create trigger events_append_only before update or delete or truncate on events
  for each statement execute function refuse_history_change();

grant select, insert, update on streams to orders_app;
grant delete on streams to orders_app; -- append_units takes back the row of a stream that lost its first append
grant select, insert on events to orders_app;
grant select, insert on event_schemas to orders_app;
