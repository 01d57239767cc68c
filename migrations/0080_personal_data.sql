-- Personal data of orders, and the payment method, which is a secret. They are here and in no other table: not in
-- events, not in messages, not in stored responses. An order that was placed without any has no row, and neither
-- has one whose data was erased.
create table order_personal_data (
  order_id uuid primary key,
  customer_id text not null,
  shipping_address jsonb,
  contact jsonb,
  payment_method text
);

-- Erasure goes by customer.
create index order_personal_data_customer on order_personal_data (customer_id, order_id);

-- The references that principals gave their orders. Each belongs to the first order that was placed with it.
create table external_references (
  principal text not null,
  reference text not null,
  order_id uuid not null,
  primary key (principal, reference)
);

-- The units whose row another transaction has locked.
create function lock_personal_data(unit_personal_data json, out held integer[])
language plpgsql as $$
begin
  with given as materialized (
    select unit, order_id from json_to_recordset(unit_personal_data) as p (unit integer, order_id uuid)
  ),
  locked as materialized (
    select order_id from order_personal_data where order_id = any (array(select order_id from given))
    order by order_id for update skip locked
  )
  select coalesce(array_agg(distinct g.unit), '{}') into held
  from given g
  where exists (select from order_personal_data d where d.order_id = g.order_id)
    and not exists (select from locked where locked.order_id = g.order_id);
end $$;

create function write_personal_data(unit_personal_data json, given_up integer[]) returns void
language plpgsql as $$
begin
  if unit_personal_data::jsonb @@ '$[*].op == "put"' then
    insert into order_personal_data
      (order_id, customer_id, shipping_address, contact, payment_method)
    select order_id, customer_id, shipping_address, contact, payment_method
    from json_to_recordset(unit_personal_data) as p (
      unit integer, op text, order_id uuid, customer_id text, shipping_address jsonb, contact jsonb,
      payment_method text)
    where op = 'put' and unit <> all (given_up);
  end if;

  if unit_personal_data::jsonb @@ '$[*].op == "address"' then
    insert into order_personal_data (order_id, customer_id, shipping_address)
    select order_id, customer_id, shipping_address
    from json_to_recordset(unit_personal_data) as p (
      unit integer, op text, order_id uuid, customer_id text, shipping_address jsonb)
    where op = 'address' and unit <> all (given_up)
    on conflict (order_id) do update set shipping_address = excluded.shipping_address;
  end if;

  if unit_personal_data::jsonb @@ '$[*].op == "erase"' then
    delete from order_personal_data as d
    using json_to_recordset(unit_personal_data) as p (unit integer, op text, order_id uuid)
    where p.op = 'erase' and d.order_id = p.order_id and p.unit <> all (given_up);
  end if;
end $$;

-- Returns the units whose reference is there already.
create function insert_references(unit_references json, given_up integer[]) returns integer[]
language plpgsql as $$
declare
  taken integer[];
begin
  with given as (
    select unit, principal, reference, order_id from json_to_recordset(unit_references) as r (
      unit integer, principal text, reference text, order_id uuid)
    where unit <> all (given_up)
  ),
  inserted as (
    insert into external_references (principal, reference, order_id)
    select principal, reference, order_id from given order by principal, reference, unit
    on conflict do nothing returning order_id
  )
  select coalesce(array_agg(unit), '{}') into taken from given
  where order_id not in (select order_id from inserted);
  return taken;
end $$;

-- A reference that is being taken by somebody else cannot be seen, only waited for: for 50 ms, and once that was in
-- vain, with each reference by itself. As take_keys does.
create function take_references(
  unit_references json, given_up integer[], out taken integer[], out held integer[]
)
language plpgsql set lock_timeout = '50ms' as $$
declare
  given record;
begin
  held := '{}';
  begin
    taken := insert_references(unit_references, given_up);
    return;
  exception when lock_not_available then
    taken := '{}';
  end;

  for given in
    select (r ->> 'unit')::integer as unit, json_build_array(r) as alone
    from json_array_elements(unit_references) as r
    where (r ->> 'unit')::integer <> all (given_up)
    order by r ->> 'principal', r ->> 'reference', 1
  loop
    begin
      taken := taken || insert_references(given.alone, given_up);
    exception when lock_not_available then
      held := held || given.unit;
      set local lock_timeout = '1ms';
    end;
  end loop;
end $$;
