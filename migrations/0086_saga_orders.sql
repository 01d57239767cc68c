-- Lists of orders by the state of their sagas are in the order of placed_at, and a customer sees its own orders only.
-- Both never change, so a saga keeps a copy from its start. The order is there by then: write_units writes it before.
alter table saga_work
  add column placed_at timestamptz(3),
  add column customer_id text;

create function set_order_of_saga() returns trigger language plpgsql as $$
begin
  select o.placed_at, o.customer_id into new.placed_at, new.customer_id
  from orders_summary as o where o.order_id = new.subject_id;
  return new;
end $$;

create trigger saga_work_order before insert on saga_work
  for each row execute function set_order_of_saga();
