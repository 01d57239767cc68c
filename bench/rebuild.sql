-- Orders of the last 90 days with 1 to 4 events each, 2.2 on average. :orders is how many.
create temporary table placed as
select
  n,
  case
    when n % 100 < 25 then 'pending'
    when n % 100 < 50 then 'paid'
    when n % 100 < 85 then 'shipped'
    when n % 100 < 95 then 'cancelled'
    else 'refunded'
  end as life,
  now() - interval '90 days' * (1 - n::double precision / :orders) as placed_at,
  uuidv7(-interval '90 days' * (1 - n::double precision / :orders)) as id,
  1000 + n % 9000 as price,
  1 + n % 3 as lines
from generate_series(1, :orders) as n;

create temporary table happened as
select id, 1 as version, 'OrderPlaced' as type, placed_at as at, jsonb_build_object(
  'orderId', id, 'customerId', 'customer-' || n % 50000, 'currency', 'EUR',
  'items', (
    select jsonb_agg(jsonb_build_object(
      'sku', 'sku-' || (n * line) % 1000, 'quantity', line, 'priceCents', price))
    from generate_series(1, lines) as line),
  'totalCents', price * lines * (lines + 1) / 2) as data
from placed
union all
select id, 2, 'PaymentCaptured', placed_at + interval '2 minutes', jsonb_build_object(
  'amountCents', price * lines * (lines + 1) / 2, 'paymentId', 'pay-' || n)
from placed where life in ('paid', 'shipped', 'refunded')
union all
select id, 3, 'OrderShipped', placed_at + interval '1 day',
  jsonb_build_object('trackingNumber', 'T-' || n, 'carrier', 'post')
from placed where life = 'shipped'
union all
select id, case life when 'refunded' then 3 else 2 end, 'OrderCancelled', placed_at + interval '1 hour',
  jsonb_build_object('reason', 'changed my mind', 'refundAmountCents',
    case life when 'refunded' then price * lines * (lines + 1) / 2 else 0 end)
from placed where life in ('cancelled', 'refunded')
union all
select id, 4, 'PaymentRefunded', placed_at + interval '2 hours', jsonb_build_object(
  'refundId', 'ref-' || n, 'amountCents', price * lines * (lines + 1) / 2, 'paymentId', 'pay-' || n)
from placed where life = 'refunded';

insert into streams (stream_id, category, version)
select id, 'order', max(version) from happened group by id order by id;

insert into events (stream_id, version, type, schema_version, data, metadata, recorded_at)
select id, version, type, 1, data, jsonb_build_object(
  'correlationId', gen_random_uuid(), 'actor', 'shop',
  'traceparent', '00-' || md5(id::text) || '-b7ad6b7169203331-01'), at
from happened order by at;

vacuum analyze streams, events;
