-- The write path: one call writes a batch of units in one transaction, and says of each what became of
-- it. A unit is what one command writes: appends to any number of streams, its answer, its rows of the
-- read model, of the outbox and of the queue of sagas, and what it moves in the stock; all of it or
-- nothing. The order of the steps is what makes it right:
--
--   1. lock every stream row, in id order, and judge units from the rows as locked, in the statement
--      that locks them: under READ COMMITTED only those are what was committed (`conflict`);
--   2. lock the rows of sagas, in id order: an owner whose epoch is over may write nothing (`fenced`);
--   3. lock the stock, in sku order, and judge reservations one unit after the other (`short`);
--   4. take the idempotency keys of the units that still stand (`key`);
--   5. write what stands. Nothing before this needs undoing but the rows of new streams.
--
-- Every transaction takes its locks in this order, so none of them can wait in a circle.
-- Each argument is a JSON array of objects; `unit` in them is the number of the unit in the batch.
-- A session plans these statements once, perhaps while the tables are empty, and keeps the plans. Only a
-- nested loop over an index is right for ever, so the planner is not offered anything else.
create function append_units(
  unit_streams json, unit_events json, unit_answers json, unit_summaries json, unit_messages json,
  unit_sagas json, unit_reservations json
)
returns table (unit integer, verdict text) language plpgsql
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off as $$
#variable_conflict use_column
declare
  lost integer[];
  fenced integer[] := '{}';
  short integer[] := '{}';
  taken integer[] := '{}';
  bad integer[];
  available jsonb;
  need record;
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

  if json_array_length(unit_sagas) > 0 then
    with given as materialized (
      select * from json_to_recordset(unit_sagas) as w (
        unit integer, op text, saga_id uuid, subject_id uuid, epoch bigint)
    ),
    locked as materialized (
      select saga_id, epoch from saga_work
      where saga_id = any (array(select saga_id from given where op = 'advance'))
        or subject_id = any (array(select subject_id from given where op = 'wake'))
      order by saga_id for update
    )
    select coalesce(array_agg(distinct g.unit) filter (
      where g.op = 'advance' and locked.epoch is distinct from g.epoch), '{}') into fenced
    from given g left join locked on locked.saga_id = g.saga_id;
  end if;

  if json_array_length(unit_reservations) > 0 then
    with given as materialized (
      select * from json_to_recordset(unit_reservations) as r (op text, reservation_id uuid, sku text)
    ),
    locked as materialized (
      select sku, on_hand - reserved as available from stock
      where sku = any (array(
        select sku from given where op = 'reserve'
        union all
        select r.sku from given g join reservations r on r.reservation_id = g.reservation_id
        where g.op <> 'reserve'))
      order by sku for update
    )
    select coalesce(jsonb_object_agg(sku, available), '{}') into available from locked;

    for need in
      select unit, jsonb_object_agg(sku, quantity) as quantities from (
        select unit, sku, sum(quantity) as quantity
        from json_to_recordset(unit_reservations) as r (
          unit integer, op text, sku text, quantity bigint)
        where op = 'reserve' and unit <> all (lost || fenced)
        group by unit, sku) as summed
      group by unit order by unit
    loop
      if exists (
        select from jsonb_each_text(need.quantities) as n
        where coalesce((available ->> n.key)::bigint, 0) < n.value::bigint
      ) then
        short := short || need.unit;
      else
        available := available || (
          select jsonb_object_agg(n.key, (available ->> n.key)::bigint - n.value::bigint)
          from jsonb_each_text(need.quantities) as n);
      end if;
    end loop;
  end if;

  lost := lost || fenced || short;

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
  from json_to_recordset(unit_streams) as s (unit integer, id uuid, expected integer, next integer)
  where streams.stream_id = s.id and s.unit <> all (bad) and s.next > s.expected;

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

  if json_array_length(unit_sagas) > 0 then
    insert into saga_work (saga_id, subject_id, definition, definition_version, state, owner, epoch,
      lease_until, due_at)
    select saga_id, subject_id, definition, definition_version, 'running', owner, 1,
           clock_timestamp() + lease_ms * interval '1 ms',
           clock_timestamp() + due_in_ms * interval '1 ms'
    from json_to_recordset(unit_sagas) as w (
      unit integer, op text, saga_id uuid, subject_id uuid, definition text,
      definition_version integer, owner uuid, lease_ms integer, due_in_ms integer)
    where op = 'begin' and unit <> all (bad);

    update saga_work as w
    set state = g.state, step = g.step, attempt = g.attempt, reason = g.reason, failures = 0,
        epoch = w.epoch + (g.owner is null)::integer, owner = g.owner,
        lease_until = clock_timestamp() + g.lease_ms * interval '1 ms',
        due_at = clock_timestamp() + g.due_in_ms * interval '1 ms', deadline_at = g.deadline_at,
        updated_at = clock_timestamp()
    from json_to_recordset(unit_sagas) as g (
      unit integer, op text, saga_id uuid, state text, step text, attempt integer, reason text,
      owner uuid, lease_ms integer, due_in_ms integer, deadline_at timestamptz)
    where g.op = 'advance' and w.saga_id = g.saga_id and g.unit <> all (bad);

    update saga_work as w set due_at = clock_timestamp(), state = 'compensating'
    from json_to_recordset(unit_sagas) as g (unit integer, op text, subject_id uuid)
    where g.op = 'wake' and w.subject_id = g.subject_id and g.unit <> all (bad)
      and w.state in ('running', 'compensating');
  end if;

  if json_array_length(unit_reservations) > 0 then
    with held as (
      insert into reservations (reservation_id, sku, quantity)
      select reservation_id, sku, sum(quantity)
      from json_to_recordset(unit_reservations) as r (
        unit integer, op text, reservation_id uuid, sku text, quantity bigint)
      where op = 'reserve' and unit <> all (bad)
      group by reservation_id, sku
      returning sku, quantity
    )
    update stock set reserved = reserved + h.quantity, updated_at = clock_timestamp()
    from (select sku, sum(quantity) as quantity from held group by sku) as h
    where stock.sku = h.sku;

    with ended as (
      delete from reservations as r
      using json_to_recordset(unit_reservations) as g (unit integer, op text, reservation_id uuid)
      where g.op <> 'reserve' and r.reservation_id = g.reservation_id and g.unit <> all (bad)
      returning r.sku, r.quantity, case when g.op = 'consume' then r.quantity else 0 end as consumed
    )
    update stock
    set reserved = reserved - e.quantity, on_hand = on_hand - e.consumed,
        updated_at = clock_timestamp()
    from (
      select sku, sum(quantity) as quantity, sum(consumed) as consumed from ended group by sku) as e
    where stock.sku = e.sku;
  end if;

  if cardinality(bad) > 0 then
    delete from streams
    where version = 0
      and stream_id = any (array(select id from json_to_recordset(unit_streams) as s (id uuid)));
  end if;

  return query
  select b.unit,
    case when b.unit = any (taken) then 'key' when b.unit = any (fenced) then 'fenced'
         when b.unit = any (short) then 'short' else 'conflict' end
  from (select distinct unnest(bad) as unit) b;
end $$;
