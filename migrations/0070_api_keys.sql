-- The API keys of callers. Of a key, only the SHA-256 is stored. A revoked or expired one stays, because events
-- name it as their actor. The service may only read this table: keys are made and revoked by its owner.
create table api_keys (
  key_id text primary key check (key_id ~ '^[0-9A-Za-z]{12}$'),
  name text not null,
  key_hash bytea not null check (length(key_hash) = 32),
  scopes text[] not null check (cardinality(scopes) > 0),
  customer_id text check (customer_id <> ''),
  created_at timestamptz(3) not null default now(),
  created_by text not null,
  expires_at timestamptz(3),
  revoked_at timestamptz(3),
  revoked_by text
);

-- When a key was last used, to about a minute. It is a table of its own, because the service writes it.
create table api_key_uses (
  key_id text primary key,
  last_used_at timestamptz(3) not null
) with (fillfactor = 80);

-- Counts the changes of api_keys. Replicas compare it every second and read the keys when it has changed. The lock on
-- its row lets one change commit after the other, so no change can become visible behind a higher version.
create table api_keys_version (
  is_only_row boolean primary key default true check (is_only_row),
  version bigint not null
);
insert into api_keys_version (version) values (1);

create function count_api_keys_change() returns trigger language plpgsql as $$
begin
  update api_keys_version set version = version + 1;
  return null;
end $$;

create trigger api_keys_changed after insert or update or delete or truncate on api_keys
  for each statement execute function count_api_keys_change();
