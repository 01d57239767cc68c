-- A statement costs some 30 microseconds even if it has nothing to write, and a lone step of a saga runs more than
-- twenty. Statements are now skipped for the operations that no unit of the call has. Nothing else changes.

create or replace function write_sagas(unit_sagas json, given_up integer[]) returns void
language plpgsql as $$
begin
  if unit_sagas::jsonb @@ '$[*].op == "begin"' then
    insert into saga_work (saga_id, subject_id, definition, definition_version, state, owner, epoch,
      lease_until, due_at)
    select saga_id, subject_id, definition, definition_version, 'running', owner, 1,
           clock_timestamp() + lease_ms * interval '1 ms',
           clock_timestamp() + due_in_ms * interval '1 ms'
    from json_to_recordset(unit_sagas) as w (
      unit integer, op text, saga_id uuid, subject_id uuid, definition text,
      definition_version integer, owner uuid, lease_ms integer, due_in_ms integer)
    where op = 'begin' and unit <> all (given_up);
  end if;

  if unit_sagas::jsonb @@ '$[*].op == "advance"' then
    -- Who keeps the saga keeps its due time, though the lease starts anew: no index entry changes. A claim
    -- that comes by at the due time finds the lease and leaves the saga alone.
    update only saga_work as w
    set state = g.state, step = g.step, attempt = g.attempt, reason = g.reason, failures = 0,
        epoch = w.epoch + (g.owner is null)::integer, owner = g.owner,
        lease_until = clock_timestamp() + g.lease_ms * interval '1 ms',
        due_at = case when g.owner is not null and w.due_at > clock_timestamp() then w.due_at
                      else clock_timestamp() + g.due_in_ms * interval '1 ms' end,
        deadline_at = g.deadline_at, updated_at = clock_timestamp()
    from json_to_recordset(unit_sagas) as g (
      unit integer, op text, saga_id uuid, state text, step text, attempt integer, reason text,
      owner uuid, lease_ms integer, due_in_ms integer, deadline_at timestamptz)
    where g.op = 'advance' and w.saga_id = g.saga_id and g.unit <> all (given_up);
  end if;

  if unit_sagas::jsonb @@ '$[*].op == "wake"' then
    update only saga_work as w set due_at = clock_timestamp(), state = 'compensating'
    from json_to_recordset(unit_sagas) as g (unit integer, op text, subject_id uuid)
    where g.op = 'wake' and w.subject_id = g.subject_id and g.unit <> all (given_up)
      and w.state in ('running', 'compensating');
  end if;
end $$;

create or replace function move_stock(unit_reservations json, given_up integer[]) returns void
language plpgsql as $$
begin
  if unit_reservations::jsonb @@ '$[*].op == "reserve"' then
    with held as (
      insert into reservations (reservation_id, sku, quantity)
      select reservation_id, sku, sum(quantity)
      from json_to_recordset(unit_reservations) as r (
        unit integer, op text, reservation_id uuid, sku text, quantity bigint)
      where op = 'reserve' and unit <> all (given_up)
      group by reservation_id, sku
      returning sku, quantity
    )
    update stock set reserved = reserved + h.quantity, updated_at = clock_timestamp()
    from (select sku, sum(quantity) as quantity from held group by sku) as h
    where stock.sku = h.sku;
  end if;

  if unit_reservations::jsonb @@ '$[*].op != "reserve"' then
    with ended as (
      delete from reservations as r
      using json_to_recordset(unit_reservations) as g (unit integer, op text, reservation_id uuid)
      where g.op <> 'reserve' and r.reservation_id = g.reservation_id and g.unit <> all (given_up)
      returning r.sku, r.quantity, case when g.op = 'consume' then r.quantity else 0 end as consumed
    )
    update stock
    set reserved = reserved - e.quantity, on_hand = on_hand - e.consumed,
        updated_at = clock_timestamp()
    from (
      select sku, sum(quantity) as quantity, sum(consumed) as consumed from ended group by sku) as e
    where stock.sku = e.sku;
  end if;
end $$;

create or replace function write_units(
  unit_streams json, unit_events json, unit_answers json, unit_summaries json, unit_messages json,
  unit_sagas json, unit_reservations json
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
  held integer[] := '{}';
  bad integer[];
  judged record;
begin
  if unit_streams::jsonb @@ '$[*].expected == 0' then created := create_streams(unit_streams); end if;
  are_all_new := cardinality(created) = json_array_length(unit_streams);

  -- A row of the read model is of a stream that its unit appends to, so nobody holds one of a new stream.
  if not are_all_new then
    judged := lock_streams(unit_streams, created);
    lost := judged.lost;
    held := judged.held;
    if json_array_length(unit_summaries) > 0 then
      held := held || lock_summaries(unit_summaries);
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
         when b.unit = any (short) then 'short' when b.unit = any (lost) then 'conflict'
         else 'locked' end
  from (select distinct unnest(bad) as unit) b;
end $$;
