-- The defaults are right for every order that was placed before. shipment_progress is null while the shipment status
-- follows from the status of the order; otherwise partially_shipped, delivered or returned.
alter table orders_summary
  add column external_reference text,
  add column shipment_progress text,
  add column allowance_cents bigint not null default 0;

select make_write_summaries();
