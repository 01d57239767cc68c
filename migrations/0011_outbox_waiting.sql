-- What a relay may publish now: by id, but never a version before an earlier one of its key. Partitions that
-- are busy or resting and keys that are parked are left out, or they would fill the window. At least one
-- row, and no more payload than bytes_max.
--
-- A sequence may go back (setval, a switch-over by logical replication, a standby that was behind), and then
-- a later version has a lower id. So keys are found by id, from from_id on, and then what waits of a key is
-- read by version, wherever it is.
--
-- The first rows_max rows are looked at by id. They are enough when they are all, or when half of them may
-- go and every open partition has one. Otherwise what waits for something else is in front, a million rows
-- for a partition without a leader perhaps, and a walk would pass them in every read. Then each lane is read
-- by itself and gives its share. A lane is the keys whose hash has one remainder by 960: keys of one
-- partition where the number of partitions divides 960, and else of as few as can be.
--
-- The planner's statistics tell of a table that was empty just now, or of another size altogether. So it is
-- offered nothing but an index, one for each step; `offset 0` and `limit` keep look-ups from becoming joins.
create or replace function outbox_waiting(
  for_topic text, from_id bigint, partitions integer, excluded integer[],
  rows_max integer, bytes_max integer
)
returns setof outbox_events language sql stable
set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off
set enable_hashjoin = off set enable_mergejoin = off as $$
  with near as materialized (
    select id, topic, key_hash, message_key from outbox_events
    where id >= from_id order by id limit rows_max
  ),
  free as materialized (
    select n.id, n.key_hash, n.message_key
    from near n
    where n.topic = for_topic
      and (n.key_hash & 2147483647) % partitions <> all (excluded)
      and not exists (
        select from outbox_parked p where p.topic = n.topic and p.message_key = n.message_key
      )
  ),
  filled as materialized (
    select lane
    from (
      select lane from generate_series(0, 959::bigint) as lane
      where (select count(*) from near) = rows_max
        and (
          select count(*) < rows_max / 2
            or count(distinct (key_hash & 2147483647) % partitions) < partitions - cardinality(excluded)
          from free
        )
        and lane % gcd(960, partitions) = any (array(
          select p % gcd(960, partitions) from generate_series(0, partitions - 1) as p
          where p <> all (excluded)
        ))
      offset 0
    ) as open, lateral (
      select from outbox_events o
      where ((o.key_hash & 2147483647) % 960)::bigint << 52 | o.id >= lane << 52 | from_id
        and ((o.key_hash & 2147483647) % 960)::bigint << 52 | o.id < lane + 1 << 52
      limit 1
    ) as first
  ),
  found as (
    select id, key_hash, message_key from free where not exists (select from filled)
    union all
    select share.id, share.key_hash, share.message_key
    from filled, lateral (
      select o.id, o.key_hash, o.message_key
      from outbox_events o
      where ((o.key_hash & 2147483647) % 960)::bigint << 52 | o.id >= lane << 52 | from_id
        and ((o.key_hash & 2147483647) % 960)::bigint << 52 | o.id < lane + 1 << 52
        and o.topic = for_topic
        and (o.key_hash & 2147483647) % partitions <> all (excluded)
        and not exists (
          select from outbox_parked p where p.topic = o.topic and p.message_key = o.message_key
        )
      order by ((o.key_hash & 2147483647) % 960)::bigint << 52 | o.id
      limit (select rows_max / count(*) + 1 from filled)
    ) as share
  ),
  keys as materialized (
    select key_hash, message_key, count(*) as messages
    from found group by key_hash, message_key
  ),
  ordered as (
    select message, row_number() over by_version as place, sum(bytes) over by_version - bytes as bytes_before
    from keys k, lateral (
      select message, stream_version, octet_length(payload) as bytes,
        max(id) over (order by stream_version) as id_so_far
      from (
        select o as message, o.id, o.stream_version, o.payload
        from outbox_events o
        where o.key_hash = k.key_hash and o.message_key = k.message_key and o.topic = for_topic
        order by o.stream_version
        limit k.messages
      ) as first
    ) as o
    window by_version as (order by id_so_far, stream_version)
  )
  select message from ordered
  where place <= rows_max and bytes_before < bytes_max
  order by place
$$;
