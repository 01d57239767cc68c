-- The log of what happened. Rows are added and never changed: the service's role may only insert and
-- select, and a trigger stops everybody else, the owner included.

do $$
begin
  create role orders_app nologin;
exception
  when duplicate_object or unique_violation then null; -- roles belong to the cluster, not to this database
end $$;

do $$
begin
  if not pg_has_role(current_user, 'orders_app', 'member') then
    execute format('grant orders_app to %I', current_user);
  end if;
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
