-- Most units begin a new stream. Its row is now written once, with the version that it will have, instead of as
-- version 0 that is then locked and moved. Where all streams of a call are new there is nothing to lock.

-- Adds the streams that are expected to be new, and returns those that were: nobody else has or sees their
-- rows. A row that is there already is left to lock_streams.
create function create_streams(unit_streams json) returns uuid[] language plpgsql as $$
declare
  created uuid[];
begin
  with added as (
    insert into streams (stream_id, category, version)
    select id, category, next
    from json_to_recordset(unit_streams) as s (id uuid, category text, expected integer, next integer)
    where expected = 0 order by id
    on conflict do nothing returning stream_id
  )
  select coalesce(array_agg(stream_id), '{}') into created from added;
  return created;
end $$;

-- Locks the streams that this call has not created. They are judged in the statement that locks them: under READ
-- COMMITTED only those are what was committed. lock_streams(json) stays for calls of write_units that have begun
-- before this migration.
create function lock_streams(
  unit_streams json, created uuid[], out lost integer[], out held integer[]
)
language plpgsql as $$
begin
  with given as materialized (
    select unit, id, expected
    from json_to_recordset(unit_streams) as s (unit integer, id uuid, expected integer)
    where id <> all (created)
  ),
  locked as materialized (
    select stream_id, version from streams where stream_id = any (array(select id from given))
    order by stream_id for update skip locked
  ),
  unexpected as materialized (
    select id, expected from given
    except
    select stream_id, version from locked
  ),
  refused as (
    select g.unit, not exists (select from locked where locked.stream_id = u.id)
      and exists (select from streams s where s.stream_id = u.id) as is_held
    from unexpected u join given g on g.id = u.id and g.expected = u.expected
  )
  select coalesce(array_agg(distinct unit) filter (where not is_held), '{}'),
         coalesce(array_agg(distinct unit) filter (where is_held), '{}')
  into lost, held from refused;
end $$;

-- Makes write_summaries anew for the columns that orders_summary has now. A migration that adds a column
-- calls it. All rows of a call name the same columns, beside `unit`. A caller that names every column has its
-- rows written as they are. A replica of the release before does not know a new column: its rows are written
-- over the ones that are there, or over one of defaults, so that it leaves the value alone. A row may also have
-- its columns in an object `columns`, as 0052 took them.
create or replace function make_write_summaries() returns void language plpgsql as $make$
declare
  names text[];
  columns text;
  definitions text;
  chosen text;
  defaults text;
  assignments text;
begin
  select array_agg(attname order by attnum),
         string_agg(quote_ident(attname), ', ' order by attnum),
         string_agg(format('%I %s', attname, format_type(atttypid, atttypmod)), ', ' order by attnum),
         string_agg('o.' || quote_ident(attname), ', ' order by attnum),
         string_agg(format('%L, %s', attname, pg_get_expr(adbin, adrelid)), ', ' order by attnum)
           filter (where adbin is not null),
         string_agg(format('%1$I = excluded.%1$I', attname), ', ' order by attnum)
           filter (where attname <> 'order_id')
  into names, columns, definitions, chosen, defaults, assignments
  from pg_attribute left join pg_attrdef on adrelid = attrelid and adnum = attnum
  where attrelid = 'orders_summary'::regclass and attnum > 0 and not attisdropped;

  execute format($definition$
    create or replace function write_summaries(unit_summaries json, given_up integer[]) returns void
    language plpgsql as $$
    begin
      if array(select json_object_keys(unit_summaries -> 0)) @> %1$L then
        insert into orders_summary (%2$s)
        select %2$s
        from json_to_recordset(unit_summaries) as s (unit integer, %3$s)
        where s.unit <> all (given_up)
        on conflict (order_id) do update set %6$s;
        return;
      end if;

      insert into orders_summary (%2$s)
      select %4$s
      from json_array_elements(unit_summaries) as s
      left join orders_summary as there on there.order_id = (s ->> 'order_id')::uuid
      cross join lateral json_populate_record(
        coalesce(there, json_populate_record(null::orders_summary, json_build_object(%5$s))),
        coalesce(s -> 'columns', s)) as o
      where (s ->> 'unit')::integer <> all (given_up)
      on conflict (order_id) do update set %6$s;
    end $$
  $definition$, names, columns, definitions, chosen, defaults, assignments);
end $make$;

select make_write_summaries();

create or replace function write_units(
  unit_streams json, unit_events json, unit_answers json, unit_summaries json, unit_messages json,
  unit_sagas json, unit_reservations json
)
returns table (unit integer, verdict text) language plpgsql
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off as $$
#variable_conflict use_column
declare
  created uuid[] := create_streams(unit_streams);
  are_all_new boolean := cardinality(created) = json_array_length(unit_streams);
  lost integer[] := '{}';
  fenced integer[] := '{}';
  short integer[] := '{}';
  taken integer[] := '{}';
  held integer[] := '{}';
  bad integer[];
  judged record;
begin
  -- A row of the read model is of a stream that its unit appends to, so nobody holds one of a new stream.
  if not are_all_new then
    judged := lock_streams(unit_streams, created);
    lost := judged.lost;
    held := judged.held || lock_summaries(unit_summaries);
  end if;
  if json_array_length(unit_sagas) > 0 then
    judged := lock_sagas(unit_sagas);
    fenced := judged.fenced;
    held := held || judged.held;
  end if;
  if json_array_length(unit_reservations) > 0 then
    judged := lock_stock(unit_reservations, lost || held || fenced);
    short := judged.short;
    held := held || judged.held;
  end if;
  if json_array_length(unit_answers) > 0 then
    judged := take_keys(unit_answers, lost || held || fenced || short);
    taken := judged.taken;
    held := held || judged.held;
  end if;
  bad := lost || held || fenced || short || taken;

  if not are_all_new then
    update streams set version = s.next
    from json_to_recordset(unit_streams) as s (unit integer, id uuid, expected integer, next integer)
    where streams.stream_id = s.id and s.unit <> all (bad) and s.next > s.expected
      and s.id <> all (created);
  end if;

  insert into events (stream_id, version, type, schema_version, data, metadata, recorded_at)
  select stream_id, version, type, schema_version, data, metadata, recorded_at
  from json_to_recordset(unit_events) as e (
    unit integer, stream_id uuid, version integer, type text, schema_version smallint,
    data jsonb, metadata jsonb, recorded_at timestamptz)
  where unit <> all (bad);

  if json_array_length(unit_summaries) > 0 then
    perform write_summaries(unit_summaries, bad);
  end if;

  insert into outbox_events (aggregate_type, aggregate_id, event_type, stream_version, topic,
    message_key, key_hash, ce_id, ce_type, ce_source, ce_time, ce_subject, ce_sequence, traceparent,
    payload)
  select aggregate_type, aggregate_id, event_type, stream_version, topic, message_key, key_hash, ce_id,
         ce_type, ce_source, ce_time, ce_subject, ce_sequence, traceparent, payload
  from json_to_recordset(unit_messages) as m (
    unit integer, aggregate_type text, aggregate_id uuid, event_type text, stream_version integer,
    topic text, message_key text, key_hash integer, ce_id text, ce_type text, ce_source text,
    ce_time text, ce_subject text, ce_sequence text, traceparent text, payload text)
  where unit <> all (bad);

  if json_array_length(unit_sagas) > 0 then perform write_sagas(unit_sagas, bad); end if;
  if json_array_length(unit_reservations) > 0 then
    perform move_stock(unit_reservations, bad);
  end if;

  -- The id of a new stream is in one unit only, so no unit that was written loses its stream.
  if cardinality(bad) > 0 then
    delete from streams
    where stream_id = any (array(
      select id from json_to_recordset(unit_streams) as s (unit integer, id uuid)
      where s.unit = any (bad) and s.id = any (created)));
  end if;

  return query
  select b.unit,
    case when b.unit = any (taken) then 'key' when b.unit = any (fenced) then 'fenced'
         when b.unit = any (short) then 'short' when b.unit = any (lost) then 'conflict'
         else 'locked' end
  from (select distinct unnest(bad) as unit) b;
end $$;
