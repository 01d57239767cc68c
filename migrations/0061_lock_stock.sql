-- Calls take turns at a sku by an advisory lock, so that they queue for a popular one. A row that is
-- locked all the same is locked by somebody else. Units are judged one after the other only where there is not
-- enough for all of them.
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
