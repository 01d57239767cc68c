-- The rows of one placed order, in one statement and one transaction: what pgbench is given to do.
with id as materialized (select uuidv7() as id),
s as (insert into streams (stream_id, category, version) select id, 'order', 1 from id),
e as (
  insert into events (stream_id, version, type, schema_version, data, metadata, recorded_at)
  select id, 1, 'OrderPlaced', 1,
    jsonb_build_object('orderId', id, 'customerId', 'bench', 'currency', 'EUR', 'items',
      '[{"sku":"book","quantity":2,"priceCents":1250}]'::jsonb, 'totalCents', 2500),
    jsonb_build_object('correlationId', id, 'actor', 'anonymous'), now()
  from id
),
o as (
  insert into orders_summary (order_id, customer_id, status, currency, item_count, total_cents,
    captured_cents, refunded_cents, placed_at, version)
  select id, 'bench', 'pending', 'EUR', 1, 2500, 0, 0, now(), 1 from id
)
insert into outbox_events (aggregate_type, aggregate_id, event_type, stream_version, topic, message_key,
  key_hash, ce_id, ce_type, ce_source, ce_time, ce_subject, ce_sequence, payload)
select 'order', id, 'OrderPlaced', 1, 'pgbench', id, 0, id || '-1', 'order.placed.v1', '/order-service',
  now(), id, '0000000001',
  jsonb_build_object('orderId', id, 'version', 1, 'customerId', 'bench', 'currency', 'EUR', 'items',
    '[{"sku":"book","quantity":2,"priceCents":1250}]'::jsonb, 'totalCents', 2500)
from id;
