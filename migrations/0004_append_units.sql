-- The write path: one call writes a batch of units in one transaction, and says of each what became of
-- it. A unit is what one command writes: appends to any number of streams, its answer, its rows of the
-- read model and of the outbox; all of it or nothing. The order of the steps is what makes it right:
--
--   1. lock every stream row, in id order (no deadlocks), and judge whole units from the rows as locked,
--      in the statement that locks them: under READ COMMITTED only those are what was committed;
--   2. take the idempotency keys of the units that still stand;
--   3. write what stands. Nothing before this needs undoing but the rows of new streams.
--
-- Each argument is a JSON array of objects; `unit` in them is the number of the unit in the batch.
-- A session plans these statements once, perhaps while the tables are empty, and keeps the plans. Only a
-- nested loop over an index is right for ever, so the planner is not offered anything else.
create function append_units(
  unit_streams json, unit_events json, unit_answers json, unit_summaries json, unit_messages json
)
returns table (unit integer, verdict text) language plpgsql
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off as $$
#variable_conflict use_column
declare
  lost integer[];
  taken integer[] := '{}';
  bad integer[];
begin
  insert into streams (stream_id, category, version)
  select id, category, 0
  from json_to_recordset(unit_streams) as s (id uuid, category text, expected integer)
  where expected = 0 order by id
  on conflict do nothing;

  with locked as materialized (
    select stream_id, version from streams
    where stream_id = any (array(select id from json_to_recordset(unit_streams) as s (id uuid)))
    order by stream_id for update
  )
  select coalesce(array_agg(distinct s.unit), '{}') into lost
  from json_to_recordset(unit_streams) as s (unit integer, id uuid, expected integer)
  left join locked on locked.stream_id = s.id
  where locked.version is distinct from s.expected;

  if json_array_length(unit_answers) > 0 then
    with given as (
      select * from json_to_recordset(unit_answers) as a (
        unit integer, principal text, key text, command_id uuid, request_hash text,
        status smallint, etag text, location text, body text)
    ),
    inserted as (
      insert into idempotency_keys
        (principal, key, command_id, request_hash, status, etag, location, body)
      select principal, key, command_id, decode(request_hash, 'hex'), status, etag, location, body
      from given where unit <> all (lost) order by principal, key
      on conflict do nothing returning command_id
    )
    select coalesce(array_agg(unit), '{}') into taken from given
    where unit <> all (lost) and command_id not in (select command_id from inserted);

    -- A unit may have lost its stream to an earlier run of its own command: the key says so.
    select taken || coalesce(array_agg(a.unit), '{}') into taken
    from json_to_recordset(unit_answers) as a (unit integer, principal text, key text)
    join idempotency_keys k on k.principal = a.principal and k.key = a.key
    where a.unit = any (lost);
  end if;

  bad := lost || taken;

  update streams set version = s.next
  from json_to_recordset(unit_streams) as s (unit integer, id uuid, next integer)
  where streams.stream_id = s.id and s.unit <> all (bad);

  insert into events (stream_id, version, type, schema_version, data, metadata, recorded_at)
  select stream_id, version, type, schema_version, data, metadata, recorded_at
  from json_to_recordset(unit_events) as e (
    unit integer, stream_id uuid, version integer, type text, schema_version smallint,
    data jsonb, metadata jsonb, recorded_at timestamptz)
  where unit <> all (bad);

  insert into orders_summary as o
  select order_id, customer_id, status, currency, item_count, total_cents, captured_cents,
         refunded_cents, placed_at, paid_at, shipped_at, tracking_number, cancelled_at, version
  from json_to_recordset(unit_summaries) as r (
    unit integer, order_id uuid, customer_id text, status text, currency text, item_count integer,
    total_cents bigint, captured_cents bigint, refunded_cents bigint, placed_at timestamptz,
    paid_at timestamptz, shipped_at timestamptz, tracking_number text, cancelled_at timestamptz,
    version integer)
  where unit <> all (bad)
  on conflict (order_id) do update set
    status = excluded.status, captured_cents = excluded.captured_cents,
    refunded_cents = excluded.refunded_cents, paid_at = excluded.paid_at,
    shipped_at = excluded.shipped_at, tracking_number = excluded.tracking_number,
    cancelled_at = excluded.cancelled_at, version = excluded.version;

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

  if cardinality(bad) > 0 then
    delete from streams
    where version = 0
      and stream_id = any (array(select id from json_to_recordset(unit_streams) as s (id uuid)));
  end if;

  return query
  select b.unit, case when b.unit = any (taken) then 'key' else 'conflict' end
  from (select distinct unnest(bad) as unit) b;
end $$;
