-- no transaction
-- An index for each list of orders that GET /v1/orders offers, and another for the same list of one customer. A list is
-- a range of its index, read backwards: it orders by the whole key, so that no other index can serve it. Lists by
-- status, payment status and shipment status are unions over their combinations. What few orders have is in partial
-- indexes, which a new order does not enter. An interrupted run leaves an invalid index.
drop index concurrently if exists orders_summary_state;
create index concurrently orders_summary_state on orders_summary (status, order_payment_status(paid_at, captured_cents, refunded_cents), order_shipment_status(status, shipment_progress), placed_at, order_id);
drop index concurrently if exists orders_summary_customer_state;
create index concurrently orders_summary_customer_state on orders_summary (customer_id, status, order_payment_status(paid_at, captured_cents, refunded_cents), order_shipment_status(status, shipment_progress), placed_at, order_id);
drop index concurrently if exists orders_summary_owed;
create index concurrently orders_summary_owed on orders_summary (order_is_owed(status, total_cents, captured_cents, refunded_cents, allowance_cents), placed_at, order_id) where order_is_owed(status, total_cents, captured_cents, refunded_cents, allowance_cents);
drop index concurrently if exists orders_summary_customer_owed;
create index concurrently orders_summary_customer_owed on orders_summary (customer_id, order_is_owed(status, total_cents, captured_cents, refunded_cents, allowance_cents), placed_at, order_id) where order_is_owed(status, total_cents, captured_cents, refunded_cents, allowance_cents);
drop index concurrently if exists orders_summary_reference;
create index concurrently orders_summary_reference on orders_summary (external_reference, placed_at, order_id) where external_reference is not null;
drop index concurrently if exists orders_summary_customer_reference;
create index concurrently orders_summary_customer_reference on orders_summary (customer_id, external_reference, placed_at, order_id) where external_reference is not null;
drop index concurrently if exists saga_work_orders;
create index concurrently saga_work_orders on saga_work (definition, state, placed_at, subject_id) where state in ('running', 'compensating', 'stuck');
drop index concurrently if exists saga_work_customer_orders;
create index concurrently saga_work_customer_orders on saga_work (customer_id, definition, state, placed_at, subject_id) where state in ('running', 'compensating', 'stuck');
drop index concurrently if exists saga_work_waiting;
create index concurrently saga_work_waiting on saga_work (definition, placed_at, subject_id) where owner is null and (attempt > 0 or failures > 0) and state in ('running', 'compensating');
drop index concurrently if exists saga_work_customer_waiting;
create index concurrently saga_work_customer_waiting on saga_work (customer_id, definition, placed_at, subject_id) where owner is null and (attempt > 0 or failures > 0) and state in ('running', 'compensating');
