-- Goods that come back: the operation `restock` adds to what is on hand, and makes the row of the sku if there is
-- none.

-- Returns the units whose sku has no row that can be seen, but one that somebody else is inserting. It can only be
-- waited for: for 50 ms, and once that was in vain hardly at all. The trial is taken back, because the unit may
-- still be refused.
create function try_new_stock(unit_reservations json, given_up integer[], out held integer[])
language plpgsql set lock_timeout = '50ms' as $$
declare
  given record;
begin
  held := '{}';
  for given in
    select r.sku, array_agg(distinct unit) as units
    from json_to_recordset(unit_reservations) as r (unit integer, op text, sku text)
    where op = 'restock' and unit <> all (given_up)
      and not exists (select from stock where stock.sku = r.sku)
    group by r.sku order by r.sku
  loop
    begin
      insert into stock (sku, on_hand) values (given.sku, 0) on conflict do nothing;
      raise exception 'a trial only' using errcode = 'triggered_action_exception';
    exception
      when triggered_action_exception then null;
      when lock_not_available then
        held := held || given.units;
        set local lock_timeout = '1ms';
    end;
  end loop;
end $$;

-- Calls take turns at a sku by an advisory lock, so that they queue for a popular one. A row that is
-- locked all the same is locked by somebody else. Units are judged one after the other only where there is not
-- enough for all of them; what a unit of the same call brings back is there for the next call.
create or replace function lock_stock(
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
    select unit, sku from given where op in ('reserve', 'restock')
    union
    select g.unit, r.sku from given g join reservations r on r.reservation_id = g.reservation_id
    where g.op in ('release', 'consume')
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

  if unit_reservations::jsonb @@ '$[*].op == "restock"' then
    held := held || try_new_stock(unit_reservations, given_up || held);
  end if;

  if not exists (
    select from json_to_recordset(unit_reservations) as r (
      unit integer, op text, sku text, quantity bigint)
    where op = 'reserve' and unit <> all (given_up || held)
    group by sku
    having sum(quantity) > coalesce((available ->> sku)::bigint, 0)
  ) then
    return;
  end if;

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

  if unit_reservations::jsonb @@ '$[*].op == "release" || $[*].op == "consume"' then
    with ended as (
      delete from reservations as r
      using json_to_recordset(unit_reservations) as g (unit integer, op text, reservation_id uuid)
      where g.op in ('release', 'consume') and r.reservation_id = g.reservation_id and g.unit <> all (given_up)
      returning r.sku, r.quantity, case when g.op = 'consume' then r.quantity else 0 end as consumed
    )
    update stock
    set reserved = reserved - e.quantity, on_hand = on_hand - e.consumed,
        updated_at = clock_timestamp()
    from (
      select sku, sum(quantity) as quantity, sum(consumed) as consumed from ended group by sku) as e
    where stock.sku = e.sku;
  end if;

  if unit_reservations::jsonb @@ '$[*].op == "restock"' then
    insert into stock as s (sku, on_hand)
    select sku, sum(quantity)
    from json_to_recordset(unit_reservations) as r (unit integer, op text, sku text, quantity bigint)
    where op = 'restock' and unit <> all (given_up)
    group by sku order by sku
    on conflict (sku) do update
    set on_hand = s.on_hand + excluded.on_hand, updated_at = clock_timestamp();
  end if;
end $$;
