-- Messages that Kafka has not acknowledged yet. Rows are inserted with their event and deleted on
-- acknowledgement, never updated. Every part of the message is a column of its own, so that an outside
-- relay (Debezium's outbox event router, say) can build the same message from the same row.
create table outbox_events (
  id bigint generated always as identity primary key,
  aggregate_type text not null,
  aggregate_id uuid not null,
  event_type text not null,
  stream_version integer not null,
  topic text not null,
  message_key text not null,
  key_hash integer not null, -- murmur2 of the key, as Kafka's Java client computes it
  ce_specversion text not null default '1.0',
  ce_id text not null,
  ce_type text not null,
  ce_source text not null,
  ce_time text not null,
  ce_subject text not null,
  ce_sequence text not null,
  content_type text not null default 'application/json',
  traceparent text,
  payload text not null,
  created_at timestamptz not null default clock_timestamp()
);

grant select, insert, delete on outbox_events to orders_app;

-- The table is full one minute and empty the next. Vacuum by the number of dead rows, not by their
-- share, so that a drained backlog is cleaned up soon.
alter table outbox_events set (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000);

-- Tells relays how far ids were drawn (src/outbox/outbox-floor.ts).
grant select on sequence outbox_events_id_seq to orders_app;

-- One holder a name. The epoch grows each time that it is taken and fences what an old holder still
-- writes; expiry is on this database's clock.
create table leases (
  name text primary key,
  owner uuid not null,
  epoch bigint not null,
  expires_at timestamptz not null
) with (fillfactor = 50); -- renewed every second: room for updates within the page

grant select, insert, update on leases to orders_app;

-- Keys that wait: Kafka refused this message for itself, so later messages of its key may not go either.
create table outbox_parked (
  topic text not null,
  message_key text not null,
  outbox_id bigint not null unique,
  ce_id text not null,
  reason text not null,
  epoch bigint not null,
  parked_at timestamptz not null default clock_timestamp(),
  primary key (topic, message_key)
);

grant select, insert, delete on outbox_parked to orders_app;

-- How many partitions a topic had when it was first used. With another number keys would move to other
-- partitions and lose their order, so a change waits for an operator.
create table outbox_topics (
  topic text primary key,
  partitions integer not null check (partitions > 0),
  partitions_found integer not null check (partitions_found > 0)
);

grant select, insert, update on outbox_topics to orders_app;

-- What operators did to the outbox. Rows are added and never changed.
create table outbox_audit (
  id bigint generated always as identity primary key,
  acted_at timestamptz not null default clock_timestamp(),
  actor text not null,
  action text not null check (action in ('retry', 'skip', 'prune', 'accept_partitions')),
  topic text,
  message_key text,
  outbox_id bigint,
  reason text,
  detail jsonb not null default '{}'
);

grant select, insert on outbox_audit to orders_app;

-- What a relay may publish now, in id order: the order of the commits of each key. Partitions that are
-- busy or resting and keys that are parked are left out here, or they would fill the window. At least
-- one row, and no more payload than bytes_max.
-- The planner may only walk the primary key: its statistics tell of a table that was empty just now, and
-- by them it would read and sort the whole backlog for every 2000 rows of it. And where they tell of one
-- row, a join by id walks all rows for each: so each is looked up by itself, which `offset 0` insists on.
create function outbox_waiting(
  for_topic text, from_id bigint, partitions integer, excluded integer[],
  rows_max integer, bytes_max integer
)
returns setof outbox_events language sql stable
set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off
set enable_hashjoin = off set enable_mergejoin = off as $$
  with oldest as (
    select o.id, octet_length(o.payload) as bytes
    from outbox_events o
    where o.id >= from_id
      and o.topic = for_topic
      and (o.key_hash & 2147483647) % partitions <> all (excluded)
      and not exists (
        select from outbox_parked p where p.topic = o.topic and p.message_key = o.message_key
      )
    order by o.id
    limit rows_max
  ),
  summed as (select id, sum(bytes) over (order by id) - bytes as bytes_before from oldest)
  select o.*
  from summed, lateral (select * from outbox_events e where e.id = summed.id offset 0) o
  where bytes_before < bytes_max
  order by summed.id
$$;

-- How many rows of each topic are there from an id on, and the lowest and the last of them. The planner may
-- only walk the primary key here too, or it would count by reading all rows that died below from_id.
create function outbox_count(from_id bigint, rows_max integer)
returns table (topic text, count integer, lowest_id bigint, last_id bigint) language sql stable
set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off as $$
  select topic, count(*), min(id), max(id)
  from (select id, topic from outbox_events where id >= from_id order by id limit rows_max) bounded
  group by topic
$$;
