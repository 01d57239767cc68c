-- For how long the oldest transaction has been open, prepared ones included. While it is, dead rows of the
-- outbox stay, and every read of it gets slower. orders_app is not shown the sessions of others, its own
-- among them, since they log in as somebody else; so this runs as the owner and tells the one number.
create function oldest_transaction_age_seconds() returns double precision
language sql volatile security definer set search_path = pg_catalog, pg_temp as $$
  select coalesce(greatest(0, extract(epoch from clock_timestamp() - min(begun_at))), 0)::float8
  from (
    select xact_start as begun_at from pg_stat_activity
    where datname = current_database() and backend_type = 'client backend' and pid <> pg_backend_pid()
    union all
    select prepared from pg_prepared_xacts where database = current_database()
  ) as transactions
$$;

revoke execute on function oldest_transaction_age_seconds() from public;
grant execute on function oldest_transaction_age_seconds() to orders_app;
