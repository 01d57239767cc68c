-- Sagas: what each has to do next. Their events are in the log; a row here says who works on the saga
-- and when it is due, on this database's clock. Rows of sagas that have ended stay, without a due time.
create table saga_work (
  saga_id uuid primary key,
  subject_id uuid not null,
  definition text not null,
  definition_version integer not null,
  state text not null
    check (state in ('running', 'compensating', 'stuck', 'completed', 'compensated')),
  step text,
  attempt integer not null default 0,
  reason text,
  failures integer not null default 0, -- runs that ended in an error since the saga last got on
  owner uuid,
  epoch bigint not null, -- grows with each claim: what an old owner still writes is told by it
  lease_until timestamptz,
  due_at timestamptz,
  deadline_at timestamptz,
  created_at timestamptz not null default clock_timestamp(),
  updated_at timestamptz not null default clock_timestamp(),
  unique (subject_id, definition)
) with (fillfactor = 70);

create index saga_work_due on saga_work (due_at) where due_at is not null;
create index saga_work_live on saga_work (state, created_at)
  where state in ('running', 'compensating', 'stuck');

grant select, insert, update on saga_work to orders_app;

-- Goods: `reserved` is the sum of the reservations of a sku, and part of `on_hand`.
create table stock (
  sku text collate "C" primary key,
  on_hand bigint not null check (on_hand >= 0),
  reserved bigint not null default 0 check (reserved >= 0),
  updated_at timestamptz not null default clock_timestamp(),
  check (reserved <= on_hand)
) with (fillfactor = 70);

grant select, insert, update on stock to orders_app;

-- What a saga holds until it has shipped it or let it go. `stock` has a row for each sku in here.
create table reservations (
  reservation_id uuid not null,
  sku text collate "C" not null,
  quantity bigint not null check (quantity > 0),
  primary key (reservation_id, sku)
);

grant select, insert, delete on reservations to orders_app;
