-- write_units takes two arrays more: personal data, and references. What the header of 0052 says holds, with these
-- additions:
--
--   2. rows of personal data are locked with those of the read model;
--   6. references: the units that still stand take theirs (`reference`). They come after the keys, so that a unit
--      that is refused for another reason takes no reference from anybody. A unit that is refused here gives its key
--      back. Step 7 writes.
--
-- Replicas of the release before call it without the new arrays. That function stays until the release after this one.

create function give_back_keys(unit_answers json, refused integer[]) returns void
language plpgsql as $$
begin
  delete from idempotency_keys as k
  using json_to_recordset(unit_answers) as a (
    unit integer, principal text, key text, command_id uuid)
  where a.unit = any (refused) and k.principal = a.principal and k.key = a.key
    and k.command_id = a.command_id;
end $$;

create function write_units(
  unit_streams json, unit_events json, unit_answers json, unit_summaries json, unit_messages json,
  unit_sagas json, unit_reservations json, unit_personal_data json, unit_references json
)
returns table (unit integer, verdict text) language plpgsql
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off as $$
#variable_conflict use_column
declare
  created uuid[] := '{}';
  are_all_new boolean;
  lost integer[] := '{}';
  fenced integer[] := '{}';
  short integer[] := '{}';
  taken integer[] := '{}';
  referenced integer[] := '{}';
  held integer[] := '{}';
  bad integer[];
  judged record;
begin
  if unit_streams::jsonb @@ '$[*].expected == 0' then created := create_streams(unit_streams); end if;
  are_all_new := cardinality(created) = json_array_length(unit_streams);

  -- A row of the read model or of personal data is of a stream that its unit appends to, so nobody holds one of a new
  -- stream.
  if not are_all_new then
    judged := lock_streams(unit_streams, created);
    lost := judged.lost;
    held := judged.held;
    if json_array_length(unit_summaries) > 0 then
      held := held || lock_summaries(unit_summaries);
    end if;
    if json_array_length(unit_personal_data) > 0 then
      held := held || lock_personal_data(unit_personal_data);
    end if;
  end if;
  if unit_sagas::jsonb @@ '$[*].op != "begin"' then
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
  if json_array_length(unit_references) > 0 then
    judged := take_references(unit_references, bad);
    referenced := judged.taken;
    bad := bad || referenced || judged.held;
    if cardinality(referenced || judged.held) > 0 then
      perform give_back_keys(unit_answers, referenced || judged.held);
    end if;
  end if;

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
  if json_array_length(unit_personal_data) > 0 then
    perform write_personal_data(unit_personal_data, bad);
  end if;

  if json_array_length(unit_messages) > 0 then
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
  end if;

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
         when b.unit = any (short) then 'short' when b.unit = any (referenced) then 'reference'
         when b.unit = any (lost) then 'conflict' else 'locked' end
  from (select distinct unnest(bad) as unit) b;
end $$;

create or replace function write_units(
  unit_streams json, unit_events json, unit_answers json, unit_summaries json, unit_messages json,
  unit_sagas json, unit_reservations json
)
returns table (unit integer, verdict text) language plpgsql as $$
begin
  return query
  select w.unit, w.verdict from write_units(unit_streams, unit_events, unit_answers, unit_summaries,
    unit_messages, unit_sagas, unit_reservations, '[]', '[]') as w;
end $$;
