-- The read model of orders, written in the transaction of the events that it shows.
create table orders_summary (
  order_id uuid primary key,
  customer_id text not null,
  status text not null check (status in ('pending', 'paid', 'shipped', 'cancelled')),
  currency text not null,
  item_count integer not null,
  total_cents bigint not null,
  captured_cents bigint not null,
  refunded_cents bigint not null,
  placed_at timestamptz(3) not null,
  paid_at timestamptz(3),
  shipped_at timestamptz(3),
  tracking_number text,
  cancelled_at timestamptz(3),
  version integer not null
) with (fillfactor = 80);

-- An index for each filter that GET /v1/orders offers, and for both together, in the order of its pages.
create index orders_summary_newest on orders_summary (placed_at desc, order_id desc);
create index orders_summary_customer on orders_summary (customer_id, placed_at desc, order_id desc);
create index orders_summary_status on orders_summary (status, placed_at desc, order_id desc);
create index orders_summary_customer_status
  on orders_summary (customer_id, status, placed_at desc, order_id desc);

grant select, insert, update on orders_summary to orders_app;

-- A command's answer, written with its events: the row is there if and only if the effect is.
create table idempotency_keys (
  principal text not null,
  key text not null,
  command_id uuid not null,
  request_hash bytea not null,
  status smallint not null,
  etag text,
  location text,
  body text not null,
  created_at timestamptz not null default now(),
  primary key (principal, key)
);

create index idempotency_keys_created_at on idempotency_keys (created_at);

grant select, insert, delete on idempotency_keys to orders_app;
