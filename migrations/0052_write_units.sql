-- The write path: one call writes a batch of units in one transaction, and says of each what became of
-- it. A unit is what one command writes: appends to any number of streams, its answer, its rows of the
-- read model, of the outbox and of the queue of sagas, and what it moves in the stock; all of it or
-- nothing. Steps 1 to 5 judge, step 6 writes. Nothing needs undoing but the rows of new streams.
--
--   1. streams: a unit that expects another version than the locked row has is a `conflict`;
--   2. rows of the read model: there is nothing to judge, only locks to take;
--   3. sagas: an owner whose epoch is over is `fenced`;
--   4. stock: reservations are judged one unit after the other (`short`);
--   5. idempotency keys: the units that still stand take theirs (`key`).
--
-- A row that somebody else has locked is never waited for: the unit that needs it is `locked`, and the
-- others go on. What may still wait, waits for other calls of this function, which never wait for anybody
-- else: for a new stream of the same id, for the turn at a sku, and for 50 ms for the same key. Each of
-- these is taken in a sorted order, so calls cannot wait in a circle.
--
-- Each argument is a JSON array of objects; `unit` in them is the number of the unit in the batch.
-- A session plans these statements once, perhaps while the tables are empty, and keeps the plans. Only a
-- nested loop over an index is right for ever, so the planner is not offered anything else. The functions
-- that write_units calls run with its settings.
--
-- Replicas of the release before call append_units. It stays until the release after this one.

-- Rows are judged in the statement that locks them: under READ COMMITTED only those are what was committed.
create function lock_streams(unit_streams json, out lost integer[], out held integer[])
language plpgsql as $$
begin
  insert into streams (stream_id, category, version)
  select id, category, 0
  from json_to_recordset(unit_streams) as s (id uuid, category text, expected integer)
  where expected = 0 order by id
  on conflict do nothing;

  with given as materialized (
    select unit, id, expected
    from json_to_recordset(unit_streams) as s (unit integer, id uuid, expected integer)
  ),
  locked as materialized (
    select stream_id, version from streams where stream_id = any (array(select id from given))
    order by stream_id for update skip locked
  ),
  refused as (
    select g.unit, locked.stream_id is null
      and exists (select from streams s where s.stream_id = g.id) as is_held
    from given g left join locked on locked.stream_id = g.id
    where locked.version is distinct from g.expected
  )
  select coalesce(array_agg(distinct unit) filter (where not is_held), '{}'),
         coalesce(array_agg(distinct unit) filter (where is_held), '{}')
  into lost, held from refused;
end $$;

create function lock_summaries(unit_summaries json, out held integer[])
language plpgsql as $$
begin
  with given as materialized (
    select unit, order_id from json_to_recordset(unit_summaries) as s (unit integer, order_id uuid)
  ),
  locked as materialized (
    select order_id from orders_summary where order_id = any (array(select order_id from given))
    order by order_id for update skip locked
  )
  select coalesce(array_agg(g.unit), '{}') into held
  from given g
  where exists (select from orders_summary o where o.order_id = g.order_id)
    and not exists (select from locked where locked.order_id = g.order_id);
end $$;

create function lock_sagas(unit_sagas json, out fenced integer[], out held integer[])
language plpgsql as $$
begin
  with given as materialized (
    select unit, op, saga_id, subject_id, epoch from json_to_recordset(unit_sagas) as w (
      unit integer, op text, saga_id uuid, subject_id uuid, epoch bigint)
    where op in ('advance', 'wake')
  ),
  locked as materialized (
    select saga_id, subject_id, epoch from only saga_work
    where saga_id = any (array(select saga_id from given where op = 'advance'))
      or subject_id = any (array(select subject_id from given where op = 'wake'))
    order by saga_id for update skip locked
  ),
  judged as (
    select g.unit, g.op = 'advance' and w.epoch is distinct from g.epoch as is_fenced,
      w.saga_id is not null
        and not exists (select from locked where locked.saga_id = w.saga_id) as is_held
    from given g left join lateral (
      select s.saga_id, coalesce(l.epoch, s.epoch) as epoch
      from only saga_work s left join locked l on l.saga_id = s.saga_id
      where g.op = 'advance' and s.saga_id = g.saga_id
      union all
      select s.saga_id, s.epoch from only saga_work s
      where g.op = 'wake' and s.subject_id = g.subject_id
    ) as w on true
  )
  select coalesce(array_agg(distinct unit) filter (where is_fenced), '{}'),
         coalesce(array_agg(distinct unit) filter (where is_held), '{}')
  into fenced, held from judged;
end $$;

-- Calls take turns at a sku by an advisory lock, so that they queue for a popular one. A row that is
-- locked all the same is locked by somebody else.
create function lock_stock(
  unit_reservations json, given_up integer[], out short integer[], out held integer[]
)
language plpgsql as $$
declare
  wanted jsonb;
  available jsonb;
  need record;
begin
  short := '{}';

  with given as (
    select unit, op, reservation_id, sku from json_to_recordset(unit_reservations) as r (
      unit integer, op text, reservation_id uuid, sku text)
    where unit <> all (given_up)
  ),
  needed as (
    select unit, sku from given where op = 'reserve'
    union
    select g.unit, r.sku from given g join reservations r on r.reservation_id = g.reservation_id
    where g.op <> 'reserve'
  )
  select coalesce(jsonb_agg(needed), '[]') into wanted from needed;

  perform pg_advisory_xact_lock(5, turn) from (
    select distinct hashtext(sku) as turn from jsonb_to_recordset(wanted) as w (sku text) order by 1
  ) as turns;

  with given as materialized (
    select unit, sku from jsonb_to_recordset(wanted) as w (unit integer, sku text)
  ),
  locked as materialized (
    select sku, on_hand - reserved as available from stock
    where sku = any (array(select sku from given)) order by sku for update skip locked
  )
  select
    coalesce((select jsonb_object_agg(sku, locked.available) from locked), '{}'),
    coalesce((
      select array_agg(distinct g.unit) from given g
      where exists (select from stock s where s.sku = g.sku)
        and not exists (select from locked where locked.sku = g.sku)), '{}')
  into available, held;

  for need in
    select unit, jsonb_object_agg(sku, quantity) as quantities from (
      select unit, sku, sum(quantity) as quantity
      from json_to_recordset(unit_reservations) as r (
        unit integer, op text, sku text, quantity bigint)
      where op = 'reserve' and unit <> all (given_up || held)
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
end $$;

-- A key that is being taken or removed by somebody else cannot be seen, only waited for: for 50 ms, and
-- once that was in vain, with each key by itself.
create function take_keys(
  unit_answers json, given_up integer[], out taken integer[], out held integer[]
)
language plpgsql set lock_timeout = '50ms' as $$
declare
  answer record;
begin
  held := '{}';
  begin
    taken := insert_keys(unit_answers, given_up);
    return;
  exception when lock_not_available then
    taken := '{}';
  end;

  for answer in
    select (a ->> 'unit')::integer as unit, json_build_array(a) as alone
    from json_array_elements(unit_answers) as a
    where (a ->> 'unit')::integer <> all (given_up)
    order by a ->> 'principal', a ->> 'key'
  loop
    begin
      taken := taken || insert_keys(answer.alone, given_up);
    exception when lock_not_available then
      held := held || answer.unit;
      set local lock_timeout = '1ms';
    end;
  end loop;
end $$;

-- Returns the units whose key is there already.
create function insert_keys(unit_answers json, given_up integer[]) returns integer[]
language plpgsql as $$
declare
  taken integer[];
begin
  with given as (
    select * from json_to_recordset(unit_answers) as a (
      unit integer, principal text, key text, command_id uuid, request_hash text,
      status smallint, etag text, location text, body text)
    where unit <> all (given_up)
  ),
  inserted as (
    insert into idempotency_keys
      (principal, key, command_id, request_hash, status, etag, location, body)
    select principal, key, command_id, decode(request_hash, 'hex'), status, etag, location, body
    from given order by principal, key
    on conflict do nothing returning command_id
  )
  select coalesce(array_agg(unit), '{}') into taken from given
  where command_id not in (select command_id from inserted);
  return taken;
end $$;

create function write_sagas(unit_sagas json, given_up integer[]) returns void
language plpgsql as $$
begin
  insert into saga_work (saga_id, subject_id, definition, definition_version, state, owner, epoch,
    lease_until, due_at)
  select saga_id, subject_id, definition, definition_version, 'running', owner, 1,
         clock_timestamp() + lease_ms * interval '1 ms',
         clock_timestamp() + due_in_ms * interval '1 ms'
  from json_to_recordset(unit_sagas) as w (
    unit integer, op text, saga_id uuid, subject_id uuid, definition text,
    definition_version integer, owner uuid, lease_ms integer, due_in_ms integer)
  where op = 'begin' and unit <> all (given_up);

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

  update only saga_work as w set due_at = clock_timestamp(), state = 'compensating'
  from json_to_recordset(unit_sagas) as g (unit integer, op text, subject_id uuid)
  where g.op = 'wake' and w.subject_id = g.subject_id and g.unit <> all (given_up)
    and w.state in ('running', 'compensating');
end $$;

create function move_stock(unit_reservations json, given_up integer[]) returns void
language plpgsql as $$
begin
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
end $$;

-- Makes write_summaries anew for the columns that orders_summary has now. A migration that adds a column
-- calls it. A row is written over the one that is there, or over one of defaults, so a caller that does not
-- know a column leaves its value alone: a replica of the release before runs beside this one. Before the call
-- a new column is not written, and nothing else changes.
create function make_write_summaries() returns void language plpgsql as $make$
declare
  columns text;
  chosen text;
  defaults text;
  assignments text;
begin
  select string_agg(quote_ident(attname), ', ' order by attnum),
         string_agg('o.' || quote_ident(attname), ', ' order by attnum),
         string_agg(format('%L, %s', attname, pg_get_expr(adbin, adrelid)), ', ' order by attnum)
           filter (where adbin is not null),
         string_agg(format('%1$I = excluded.%1$I', attname), ', ' order by attnum)
           filter (where attname <> 'order_id')
  into columns, chosen, defaults, assignments
  from pg_attribute left join pg_attrdef on adrelid = attrelid and adnum = attnum
  where attrelid = 'orders_summary'::regclass and attnum > 0 and not attisdropped;

  execute format($definition$
    create or replace function write_summaries(unit_summaries json, given_up integer[]) returns void
    language plpgsql as $$
    begin
      insert into orders_summary (%1$s)
      select %2$s
      from json_to_recordset(unit_summaries) as s (unit integer, order_id uuid, columns json)
      left join orders_summary as there on there.order_id = s.order_id
      cross join lateral json_populate_record(
        coalesce(there, json_populate_record(null::orders_summary, json_build_object(%3$s))),
        s.columns) as o
      where s.unit <> all (given_up)
      on conflict (order_id) do update set %4$s;
    end $$
  $definition$, columns, chosen, defaults, assignments);
end $make$;

select make_write_summaries();

create function write_units(
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
  held integer[];
  bad integer[];
  judged record;
begin
  select s.lost, s.held into lost, held from lock_streams(unit_streams) as s;
  if json_array_length(unit_summaries) > 0 then
    held := held || lock_summaries(unit_summaries);
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

  update streams set version = s.next
  from json_to_recordset(unit_streams) as s (unit integer, id uuid, expected integer, next integer)
  where streams.stream_id = s.id and s.unit <> all (bad) and s.next > s.expected;

  insert into events (stream_id, version, type, schema_version, data, metadata, recorded_at)
  select stream_id, version, type, schema_version, data, metadata, recorded_at
  from json_to_recordset(unit_events) as e (
    unit integer, stream_id uuid, version integer, type text, schema_version smallint,
    data jsonb, metadata jsonb, recorded_at timestamptz)
  where unit <> all (bad);

  perform write_summaries(unit_summaries, bad);

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

  if cardinality(bad) > 0 then
    delete from streams
    where version = 0
      and stream_id = any (array(select id from json_to_recordset(unit_streams) as s (id uuid)));
  end if;

  return query
  select b.unit,
    case when b.unit = any (taken) then 'key' when b.unit = any (fenced) then 'fenced'
         when b.unit = any (short) then 'short' when b.unit = any (lost) then 'conflict'
         else 'locked' end
  from (select distinct unnest(bad) as unit) b;
end $$;
