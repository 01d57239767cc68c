-- What lists of orders are filtered by, and the index behind the filter by sku.

-- The two statuses and the debt follow from columns, so no row has to be filled in. Indexes and queries call the same
-- functions.
create function order_payment_status(paid_at timestamptz, captured_cents bigint, refunded_cents bigint)
returns text language sql immutable parallel safe
return case
  when refunded_cents > 0 and refunded_cents >= captured_cents then 'refunded'
  when refunded_cents > 0 then 'partially_refunded'
  when paid_at is not null then 'paid'
  else 'unpaid'
end;

create function order_shipment_status(status text, shipment_progress text)
returns text language sql immutable parallel safe
return coalesce(shipment_progress, case status when 'shipped' then 'shipped' else 'unshipped' end);

create function order_is_owed(
  status text, total_cents bigint, captured_cents bigint, refunded_cents bigint, allowance_cents bigint
)
returns boolean language sql immutable parallel safe
return captured_cents - refunded_cents
  > case status when 'cancelled' then 0 else total_cents - allowance_cents end;

-- The skus of the order as a JSON array, each once. Null for an order that was placed by a release that does not know
-- the column, until a rebuild fills it in.
alter table orders_summary add column skus text;
select make_write_summaries();

-- An index on the elements of orders_summary.skus, in the order of pages. Postgres has no index of that kind, so this
-- is a table that triggers keep, whoever writes orders_summary.
create table order_skus (
  sku text collate "C" not null,
  placed_at timestamptz(3) not null,
  order_id uuid not null,
  customer_id text not null,
  primary key (sku, placed_at, order_id)
);
create index order_skus_customer on order_skus (customer_id, sku, placed_at, order_id);

-- For all rows of a statement at once: orders are placed in batches.
create function add_order_skus() returns trigger language plpgsql as $$
begin
  insert into order_skus (sku, placed_at, order_id, customer_id)
  select sku, o.placed_at, o.order_id, o.customer_id
  from inserted as o cross join lateral json_array_elements_text(o.skus::json) as sku;
  return null;
end $$;

create trigger order_skus_added after insert on orders_summary
  referencing new table as inserted for each statement execute function add_order_skus();

-- A rebuild fills in or corrects a row. Only the owner of the table can delete one.
create function change_order_skus() returns trigger language plpgsql
set enable_seqscan = off as $$
begin
  delete from order_skus
  where order_id = old.order_id and placed_at = old.placed_at
    and sku = any (array(select json_array_elements_text(old.skus::json)));
  if tg_op = 'UPDATE' then
    insert into order_skus (sku, placed_at, order_id, customer_id)
    select sku, new.placed_at, new.order_id, new.customer_id
    from json_array_elements_text(new.skus::json) as sku;
  end if;
  return null;
end $$;

create trigger order_skus_changed after update on orders_summary for each row
  when (old.skus is distinct from new.skus or old.placed_at <> new.placed_at
    or old.customer_id <> new.customer_id)
  execute function change_order_skus();

create trigger order_skus_removed after delete on orders_summary for each row
  execute function change_order_skus();

create function empty_order_skus() returns trigger language plpgsql as $$
begin
  truncate order_skus;
  return null;
end $$;

create trigger order_skus_emptied after truncate on orders_summary
  for each statement execute function empty_order_skus();
